"""python-qpid-proton, as two modules without types: its classes, and the functions that they are made of.

For what happens once only there are the classes. For every message they cost several objects each, so there
the functions are called, which proton's own classes call.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from evbus.errors import MissingExtra

__all__ = ["cproton", "proton"]

try:
    proton: Any = import_module("proton")
    cproton: Any = import_module("cproton")
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in (
        "proton",
        "cproton",
        "cproton_ffi",
        "cffi",
        "_cffi_backend",
    ):
        raise
    raise MissingExtra("the provider amqp1 (AMQP 1.0)", package="python-qpid-proton", extra="amqp1") from exc
