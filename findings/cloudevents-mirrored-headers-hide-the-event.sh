#!/usr/bin/env bash
# The Python SDK of CloudEvents takes a structured event whose attributes also stand in headers for a binary one, and hands out
# the whole document as the event's data: id, type and source look right, and the data are one level too deep.
#
# The HTTP binding 1.0.2 tells the modes apart by the content type (section 3), and lets a structured event repeat its
# attributes as headers, as routers want them (section 3.2.2). The SDK looks for ce-... headers first. With some of the
# attributes in headers it refuses the event, as the others are missing. It does the same with ce_... headers of Kafka.
#
# Seen with cloudevents 2.2.0, from_http of cloudevents.core.bindings.http; one event, by the headers beside its content type:
#
#     none: data {'id': 7}
#     all attributes: data {'specversion': '1.0', 'id': '1', 'type': 'order.placed', 'source': '/shop', 'data': {'id': 7}}
#     ce-id alone: refused
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install cloudevents==2.2.0
"$work/venv/bin/python" - <<'END'
import json

from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat

event = {"specversion": "1.0", "id": "1", "type": "order.placed", "source": "/shop", "data": {"id": 7}}
mirrored = {f"ce-{name}": value for name, value in event.items() if name != "data"}


def read(headers):
    message = HTTPMessage(
        headers={"content-type": "application/cloudevents+json", **headers}, body=json.dumps(event).encode()
    )
    try:
        return f"data {from_http(message, JSONFormat()).get_data()}"
    except CloudEventValidationError:
        return "refused"


for what, headers, expected in (
    ("none", {}, f"data {event['data']}"),
    ("all attributes", mirrored, f"data {event}"),
    ("ce-id alone", {"ce-id": "1"}, "refused"),
):
    found = read(headers)
    print(f"{what}: {found}")
    assert found == expected
END
