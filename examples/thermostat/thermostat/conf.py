# POP executes this file by itself: literals only. An exception here would make the package invisible.

CONFIG = {
    "target": {"default": 21.0, "help": "The temperature to keep, in degrees Celsius"},
    "profiles": {"default": None, "help": "The file of profiles; default: the one beside this package"},
}

CLI_CONFIG = {"target": {"type": float}, "profiles": {}}

# Which folders of this package join which subsystem on the hub.
DYNE = {"thermostat": ["thermostat"], "ingress": ["ingress"]}
