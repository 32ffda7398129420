#!/usr/bin/env bash
# A quorum queue with x-delivery-limit: -1, which is how RabbitMQ 4 is told to have no limit, drops a message the first time
# that it is given back on RabbitMQ 3.10: there the number is compared as it is. The declaration is accepted.
#
# Who prepares queues for the default limit of 20 that came with 4.0, as its release notes say, and still has brokers of an
# older version, loses there what is given back once; without a dead-letter exchange nothing tells of it.
#
# Seen with RabbitMQ 3.10.8 (Debian), pika 1.4.4; what is given back 3 times, by basic.reject:
#
#     no limit: deliveries 4
#     limit -1: deliveries 1
#
# With 4.0.5 and 4.3.6 both are 4 deliveries. Runs with the installed Debian package rabbitmq-server 3.10, or with one that
# was unpacked with the erlang-* that it needs into the folder RABBITMQ_ROOT.
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

parameters = pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQP_PORT"]), connection_attempts=60, retry_delay=1)
channel = pika.BlockingConnection(parameters).channel()
channel.confirm_delivery()


def given_back(name, limits):
    arguments = {"x-queue-type": "quorum", **limits}
    channel.queue_declare(name, durable=True, arguments=arguments)
    channel.basic_publish("", name, b"x", mandatory=True)
    deliveries = 0
    for method, _, _ in channel.consume(name, inactivity_timeout=5):
        if method is None:
            break
        deliveries += 1
        if deliveries == 4:
            break
        channel.basic_reject(method.delivery_tag, requeue=True)
    channel.cancel()
    return deliveries


for name, limits, deliveries in (("no limit", {}, 4), ("limit -1", {"x-delivery-limit": -1}, 1)):
    found = given_back(name, limits)
    print(f"{name}: deliveries {found}")
    assert found == deliveries
channel.connection.close()
END
