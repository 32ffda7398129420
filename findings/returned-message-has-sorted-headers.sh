#!/usr/bin/env bash
# RabbitMQ 4 gives a message back with its header table in another order than it was sent: sorted by name. A publisher that
# recognises what came back (basic.return) by comparing bytes, or that signs its headers in their order, does not know it.
#
# basic.return gives back the message, and with 3.10.8 its properties are the same to the byte. Version 4 sorts the headers,
# of what a queue delivers as well.
#
# Seen with RabbitMQ 4.0.5 and 4.3.6 (Debian), pika 1.4.4:
#
#     sent:      ['tenant', 'region', 'attempt']
#     returned:  ['attempt', 'region', 'tenant']
#     delivered: ['attempt', 'region', 'tenant']
#
# Needs RABBITMQ_4=FOLDER, into which Debian's rabbitmq-server of version 4 and the erlang-* that it needs are unpacked
# (.ci/rabbitmq 4.0 makes one: .servers/rabbitmq-4.0/root).
set -euo pipefail
: "${RABBITMQ_4:?names the folder into which the Debian packages rabbitmq-server and erlang-* were unpacked (dpkg -x)}"
erlang=$RABBITMQ_4/usr/lib/erlang/bin sbin=$(echo "$RABBITMQ_4"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin)
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
printf 'listeners.tcp.1 = 127.0.0.1:%s\n' "$AMQP_PORT" >"$RABBITMQ_CONFIG_FILE"
echo '[].' >"$RABBITMQ_ENABLED_PLUGINS_FILE"
epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & epmd=$!
"$sbin/rabbitmq-server" >"$work/out" 2>&1 & node=$!
trap 'kill $node $epmd 2>/dev/null || true; wait; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet --disable-pip-version-check install pika==1.4.4
for _ in $(seq 120); do (exec 3<>"/dev/tcp/127.0.0.1/$AMQP_PORT") 2>/dev/null && break; sleep 1; done
"$work/venv/bin/python" - <<'END'
import os

import pika
from pika.exceptions import UnroutableError

parameters = pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQP_PORT"]), connection_attempts=60, retry_delay=1)
channel = pika.BlockingConnection(parameters).channel()
channel.confirm_delivery()
properties = pika.BasicProperties(headers={"tenant": "acme", "region": "eu", "attempt": 1})
try:
    channel.basic_publish("", "nobody", b"x", properties, mandatory=True)
except UnroutableError as exc:
    (came_back,) = exc.messages
channel.queue_declare("q", exclusive=True)
channel.basic_publish("", "q", b"x", properties, mandatory=True)
_, delivered, _ = channel.basic_get("q", auto_ack=True)
channel.connection.close()
print("sent:     ", list(properties.headers))
print("returned: ", list(came_back.properties.headers))
print("delivered:", list(delivered.headers))
assert list(came_back.properties.headers) == list(delivered.headers) == ["attempt", "region", "tenant"]
END
