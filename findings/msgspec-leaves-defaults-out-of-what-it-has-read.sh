#!/usr/bin/env bash
# A dataclass that msgspec has read is written without the fields that were not in the message and have a plain default,
# although the instance equals one that the program has made, and that is written whole. So an event that is read and passed
# on loses fields on the way, for readers in other languages and for those whose default is another one.
#
# Reading does not call __init__. For a field that was not there it asks the instance whether it has the attribute, and the
# class, where dataclasses leave a default, says yes; so nothing is set. Writing goes by what is in the instance's __dict__.
# With slots=True, or by a default_factory, there is nothing in the class, and the field is set and written. Structs and attrs'
# classes are written whole. It is the same by JSON, MessagePack and convert; vars(event) lacks the field, too.
#
# Seen with CPython 3.11.7, 3.12.1, 3.13.0 and msgspec 0.22.0:
#
#     equal: True
#     made: {"id":1,"currency":"EUR","tags":[]}
#     read: {"id":1,"tags":[]}
#     read, with slots: {"id":1,"currency":"EUR","tags":[]}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install msgspec==0.22.0
"$work/venv/bin/python" - >"$work/found" <<'END'
import dataclasses

import msgspec

@dataclasses.dataclass
class Paid:
    id: int
    currency: str = "EUR"
    tags: list[str] = dataclasses.field(default_factory=list)

@dataclasses.dataclass(slots=True)
class Slotted:
    id: int
    currency: str = "EUR"
    tags: list[str] = dataclasses.field(default_factory=list)

read = msgspec.json.decode(b'{"id": 1}', type=Paid)
print("equal:", read == Paid(1))
print("made:", msgspec.json.encode(Paid(1)).decode())
print("read:", msgspec.json.encode(read).decode())
print("read, with slots:", msgspec.json.encode(msgspec.json.decode(b'{"id": 1}', type=Slotted)).decode())
END
cat "$work/found"
python3 - "$work/found" <<'END'
import sys

with open(sys.argv[1]) as file:
    found = file.read().splitlines()
assert found == [
    "equal: True",
    'made: {"id":1,"currency":"EUR","tags":[]}',
    'read: {"id":1,"tags":[]}',
    'read, with slots: {"id":1,"currency":"EUR","tags":[]}',
], found
END
