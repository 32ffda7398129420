#!/usr/bin/env bash
# RabbitMQ's STOMP leaves out x-delivery-limit of a SUBSCRIBE that makes a quorum queue, without a word. Others beside it,
# x-queue-type and x-max-length among them, are kept.
#
# The headers of a SUBSCRIBE that begin with x- look like the arguments of queue.declare, and most of them are. The plugin has
# a list of those that it hands on, and the limit is not on it, so that what fails always comes again: for ever on 3.10, and
# until the default limit of 20 on 4.x. To have a limit, declare the queue by AMQP or set a policy (delivery-limit).
#
# Seen with RabbitMQ 3.10.8, 4.0.5 and 4.3.6 (Debian), pika 1.4.4, stomp.py 9.0.0; the limit is 3, and each delivery is
# answered by basic.reject with requeue, 8 times at the most:
#
#     declared by AMQP:     4 deliveries
#     SUBSCRIBE over STOMP: 8 deliveries
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

import pika
import stomp

LIMIT = {"x-queue-type": "quorum", "x-delivery-limit": 3}
MOST = 8


def deliveries(name):
    """Return how often a message comes that is given back each time."""
    channel.basic_publish("", name, b"x", mandatory=True)
    count = 0
    for method, _, _ in channel.consume(name, inactivity_timeout=5):
        if method is None:
            break
        count += 1
        if count == MOST:
            break
        channel.basic_reject(method.delivery_tag, requeue=True)
    channel.cancel()
    return count


parameters = pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQP_PORT"]), connection_attempts=60, retry_delay=1)
channel = pika.BlockingConnection(parameters).channel()
channel.confirm_delivery()
channel.queue_declare("by-amqp", durable=True, arguments=LIMIT)

answered = stomp.listener.WaitingListener("subscribed")
client = stomp.Connection12([("127.0.0.1", int(os.environ["STOMP_PORT"]))], vhost="/")
client.set_listener("", answered)
client.connect("guest", "guest", wait=True)
headers = {"durable": "true", "auto-delete": "false", **LIMIT, "receipt": "subscribed"}
client.subscribe("/queue/by-stomp", "1", ack="client-individual", headers=headers)
answered.wait_on_receipt()
client.disconnect()

by_amqp, by_stomp = deliveries("by-amqp"), deliveries("by-stomp")
print("declared by AMQP:    ", by_amqp, "deliveries")
print("SUBSCRIBE over STOMP:", by_stomp, "deliveries")
assert (by_amqp, by_stomp) == (4, MOST)
# It is a quorum queue: the other argument was kept.
channel.queue_declare("by-stomp", durable=True, arguments={"x-queue-type": "quorum"})
channel.connection.close()
END
