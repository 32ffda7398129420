"""evbus: a plug-in event bus for Python."""

import os as _os
import warnings as _warnings


def _look_around(package: str) -> None:
    """Tell of pop-evbus in the same place: each overwrites files of the other, and removes them."""
    mend = "remove both, and install one: pip uninstall pop-evbus evbus-hub; pip install evbus-hub"
    if not _os.path.exists(f"{package}/conf.py"):  # noqa: PTH110 - this is every start
        raise ImportError(
            f"files of evbus are missing in {package}, as after the removal of pop-evbus; {mend}"
        )
    for name in _os.listdir(_os.path.dirname(package)):  # noqa: PTH120, PTH208
        if name.startswith("pop_evbus-") and name.endswith((".dist-info", ".egg-info")):
            _warnings.warn(
                f"evbus and pop-evbus are both installed in {package}, each over files of the other; {mend}",
                RuntimeWarning,
                stacklevel=3,
            )


_look_around(_os.path.dirname(_os.path.abspath(__file__)))  # noqa: PTH100, PTH120
