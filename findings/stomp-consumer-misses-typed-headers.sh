#!/usr/bin/env bash
# RabbitMQ's STOMP hands a consumer those headers of an AMQP message that are strings or integers. Booleans, floats,
# decimals, times, bytes, arrays, tables and null are left out without a word; they are not turned into text.
#
# A header "paid: true" that a producer sets over AMQP does not exist for a consumer over STOMP, so that
# `headers.get("paid") == "true"` is false for paid and unpaid orders alike.
#
# Seen with RabbitMQ 3.10.8, 4.0.5 and 4.3.6 (Debian), pika 1.4.4, stomp.py 9.0.0:
#
#     sent:     amount attempt none paid raw region shipped tags tenant
#     received: attempt region tenant
#
# Runs with the installed Debian package rabbitmq-server, or with one that was unpacked with the erlang-* that it needs into
# the folder RABBITMQ_ROOT.
set -euo pipefail
sbin=$(echo "${RABBITMQ_ROOT:-}"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin) erlang=${RABBITMQ_ROOT:+$RABBITMQ_ROOT/usr/lib/erlang/bin:}/usr/bin
work=$(mktemp -d)
mapfile -t ports < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(one.getsockname()[1] for one in held), sep="\n")')
export HOME=$work PATH=$erlang:$PATH AMQP_PORT=${ports[0]} STOMP_PORT=${ports[1]} ERL_EPMD_ADDRESS=127.0.0.1
export ERL_EPMD_PORT=${ports[2]} ERL_FLAGS="-start_epmd false" RABBITMQ_DIST_PORT=${ports[3]} RUNNING_UNDER_SYSTEMD=true
export RABBITMQ_NODENAME=finding$$@localhost RABBITMQ_SCRIPTS_DIR=$sbin RABBITMQ_CONFIG_FILE=$work/rabbitmq.conf
export RABBITMQ_CONF_ENV_FILE=$work/none RABBITMQ_ENABLED_PLUGINS_FILE=$work/plugins RABBITMQ_MNESIA_BASE=$work/data
export RABBITMQ_LOG_BASE=$work RABBITMQ_PID_FILE=$work/pid
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
printf 'listeners.tcp.1 = 127.0.0.1:%s\nstomp.listeners.tcp.1 = 127.0.0.1:%s\n' "$AMQP_PORT" "$STOMP_PORT" >"$RABBITMQ_CONFIG_FILE"
echo '[rabbitmq_stomp].' >"$RABBITMQ_ENABLED_PLUGINS_FILE"
epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & epmd=$!
"$sbin/rabbitmq-server" >"$work/out" 2>&1 & node=$!
trap 'kill $node $epmd 2>/dev/null || true; wait; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install pika==1.4.4 stomp.py==9.0.0
for _ in $(seq 120); do (exec 3<>"/dev/tcp/127.0.0.1/$AMQP_PORT") 2>/dev/null && break; sleep 1; done
"$work/venv/bin/python" - <<'END'
import os
import threading
from datetime import datetime, timezone
from decimal import Decimal

import pika
import stomp

HEADERS = {
    "tenant": "acme",
    "region": "eu",
    "attempt": 3,
    "paid": True,
    "amount": Decimal("12.50"),
    "shipped": datetime(2026, 1, 2, tzinfo=timezone.utc),
    "tags": ["a", "b"],
    "raw": b"\\x00",
    "none": None,
}


class Frames(stomp.ConnectionListener):
    came = threading.Event()

    def on_message(self, frame):
        self.frame = frame
        self.came.set()


parameters = pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQP_PORT"]), connection_attempts=60, retry_delay=1)
channel = pika.BlockingConnection(parameters).channel()
channel.queue_declare("q", durable=True)
channel.basic_publish("", "q", b"x", pika.BasicProperties(headers=HEADERS))
client = stomp.Connection12([("127.0.0.1", int(os.environ["STOMP_PORT"]))], vhost="/")
client.set_listener("", frames := Frames())
client.connect("guest", "guest", wait=True)
client.subscribe("/amq/queue/q", "1", ack="auto")
assert frames.came.wait(30)
client.disconnect()
received = sorted(name for name in HEADERS if name in frames.frame.headers)
print("sent:    ", *sorted(HEADERS))
print("received:", *received)
assert received == ["attempt", "region", "tenant"]
channel.connection.close()
END
