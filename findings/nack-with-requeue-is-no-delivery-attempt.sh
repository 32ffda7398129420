#!/usr/bin/env bash
# On RabbitMQ 4.3 a message of a quorum queue that is given back by basic.nack comes again for ever: that does not count
# towards its delivery limit any more. basic.reject, which says the same in AMQP 0-9-1, does.
#
# basic.nack is RabbitMQ's own extension of basic.reject, for several messages at once, and both used to count. Since 4.3 the
# queue tells what is returned from what has failed, and takes a nack for the former. A consumer that relies on
# x-delivery-limit to get rid of what it cannot handle, and whose library sends nack, spins at the head of the queue.
#
# Seen with RabbitMQ 4.3.6 (Debian), pika 1.4.4; the limit is 3:
#
#     basic.reject: 4 deliveries, x-delivery-count None 1 2 3, then a dead letter
#     basic.nack:   30 deliveries, and no end; x-delivery-count None
#
# With 3.10.8 and 4.0.5 both are 4 deliveries. Needs RABBITMQ_4=FOLDER, into which Debian's rabbitmq-server 4.3 and the
# erlang-* that it needs are unpacked (.ci/rabbitmq 4.3 makes one: .servers/rabbitmq-4.3/root).
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

parameters = pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQP_PORT"]), connection_attempts=60, retry_delay=1)
channel = pika.BlockingConnection(parameters).channel()
channel.confirm_delivery()


def deliveries(name, give_back):
    """Return the x-delivery-count of each delivery, up to 30, of a message that is always given back."""
    channel.queue_declare(f"{name}-dead", durable=True)
    limits = {"x-delivery-limit": 3, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead"}
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum", **limits})
    channel.basic_publish("", name, b"x", mandatory=True)
    found = []
    for method, properties, _ in channel.consume(name, inactivity_timeout=5):
        if method is None:
            break
        found.append((properties.headers or {}).get("x-delivery-count"))
        if len(found) == 30:
            break
        give_back(method.delivery_tag, requeue=True)
    channel.cancel()
    dead = channel.queue_declare(f"{name}-dead", passive=True).method.message_count
    return found, dead


rejected, dead = deliveries("rejected", channel.basic_reject)
print(f"basic.reject: {len(rejected)} deliveries, x-delivery-count", *rejected, "then a dead letter" * dead)
returned, still = deliveries("returned", channel.basic_nack)
print(f"basic.nack:   {len(returned)} deliveries, x-delivery-count", *sorted({str(count) for count in returned}))
channel.connection.close()
assert (rejected, dead) == ([None, 1, 2, 3], 1)
assert (returned, still) == ([None] * 30, 0)
END
