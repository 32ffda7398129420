#!/usr/bin/env bash
# pika reads a float in a table of headers as an integer: 0.75 becomes 0, and 2.5 becomes 2, without an error. It cannot
# write one at all.
#
# Other clients (aio-pika and aiormq by pamqp, the Java client, RabbitMQ itself where it converts messages of AMQP 1.0) write
# a float as the field type "d". So a price or a ratio that one program puts into a header is another number for a program
# that reads it by pika, and only when it is no whole number.
#
# Seen with pika 1.4.4 and pamqp 4.0.1; no broker takes part:
#
#     written: 0.75 2.5
#     read:    0 2
#     written by pika: UnsupportedAMQPFieldException
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install pika==1.4.4 pamqp==4.0.1
"$work/venv/bin/python" - <<'END'
from pamqp import encode
from pika import data
from pika.exceptions import UnsupportedAMQPFieldException

table = {"ratio": 0.75, "price": 2.5}
found, _ = data.decode_table(encode.field_table(table), 0)
print("written:", *table.values())
print("read:   ", *(int(found[name]) for name in table))
assert found == {"ratio": 0, "price": 2}
try:
    data.encode_table([], table)
except UnsupportedAMQPFieldException as exc:
    print("written by pika:", type(exc).__name__)
else:
    raise SystemExit("pika writes floats")
END
