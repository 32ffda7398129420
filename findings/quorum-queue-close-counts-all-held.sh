#!/usr/bin/env bash
# A quorum queue of RabbitMQ 4 counts a delivery attempt for everything that a closed consumer was holding, and not only
# for what it was working on; at the 21st it drops the message, and without a dead-letter exchange says so nowhere.
#
# Five messages are in a queue with no arguments but its type. A consumer with a prefetch of five, which has begun with
# none of them, closes its connection in an orderly manner, twenty-one times. All five are gone. The default limit of 20
# came with 4.0; on 3.10 all five stay. A consumer with a large prefetch that is restarted, or that the broker cuts off
# for its consumer_timeout (4.0), loses messages so which no code of it has ever seen.
#
# Seen with RabbitMQ 4.0.5 and 4.3.6 (Debian), pika 1.4.4:
#
#     left after 20 closings: 5
#     left after 21 closings: 0
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
import time

import pika

parameters = pika.ConnectionParameters("127.0.0.1", int(os.environ["AMQP_PORT"]), connection_attempts=60, retry_delay=1)


def channel():
    return pika.BlockingConnection(parameters).channel()


deadline = time.monotonic() + 120


def left():
    made = channel()
    time.sleep(1)  # returned messages are ready a moment later
    found = made.queue_declare("q", passive=True).method.message_count
    made.connection.close()
    return found


def hold_and_close():
    """Take what the prefetch allows, settle nothing, and close the connection."""
    made = channel()
    made.basic_qos(prefetch_count=5)
    held = []
    made.basic_consume("q", lambda *delivery: held.append(delivery))
    while len(held) < 5:
        made.connection.process_data_events(time_limit=1)
        assert time.monotonic() < deadline, f"{len(held)} of 5 came"
    made.connection.close()


made = channel()
made.queue_declare("q", durable=True, arguments={"x-queue-type": "quorum"})
made.confirm_delivery()
for number in range(5):
    made.basic_publish("", "q", str(number).encode(), mandatory=True)
made.connection.close()
for _ in range(20):
    hold_and_close()
print("left after 20 closings:", before := left())
hold_and_close()
print("left after 21 closings:", after := left())
assert (before, after) == (5, 0)
END
