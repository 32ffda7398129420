"""``python -m evbus``."""

from evbus.scripts import main

if __name__ == "__main__":
    main()
