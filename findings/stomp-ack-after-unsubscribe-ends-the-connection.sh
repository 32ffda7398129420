#!/usr/bin/env bash
# Over RabbitMQ's STOMP a message cannot be acknowledged once its subscription was ended: the ACK is answered by ERROR, "Subscription
# not found", and the connection is closed. So the usual end of a consumer (UNSUBSCRIBE, let what is being
# handled end, acknowledge it) has all of that handled again by another one, and loses the connection for everything else.
#
# AMQP 0-9-1, of the same broker, takes acknowledgements after basic.cancel as long as the channel is open, and section UNSUBSCRIBE of
# STOMP 1.2 speaks of no end of what was delivered. What works: acknowledge first, and end the subscription then; what
# comes in between is redelivered.
#
# Seen with RabbitMQ 3.10.8 (Debian) and stomp.py 9.0.0; three messages are taken with ack:client-individual, and acknowledged
# with a receipt:
#
#     acknowledged, then unsubscribed: 0 come again
#     unsubscribed, then acknowledged: 3 come again, ERROR: Subscription not found
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
"$work/venv/bin/pip" --quiet --disable-pip-version-check install stomp.py==9.0.0
for _ in $(seq 120); do (exec 3<>"/dev/tcp/127.0.0.1/$AMQP_PORT") 2>/dev/null && break; sleep 1; done
"$work/venv/bin/python" - <<'END'
import os
import threading

import stomp


class Heard(stomp.ConnectionListener):
    """Keeps what comes."""

    def __init__(self):
        self.messages, self.errors, self.receipts = [], [], []
        self.news = threading.Condition()

    def _keep(self, where, frame):
        with self.news:
            where.append(frame)
            self.news.notify_all()

    def on_message(self, frame):
        self._keep(self.messages, frame)

    def on_error(self, frame):
        self._keep(self.errors, frame)

    def on_receipt(self, frame):
        self._keep(self.receipts, frame)

    def wait(self, ready, seconds):
        with self.news:
            return self.news.wait_for(ready, seconds)


def connected():
    heard = Heard()
    client = stomp.Connection12([("127.0.0.1", int(os.environ["STOMP_PORT"]))], vhost="/", reconnect_attempts_max=60)
    client.set_listener("", heard)
    client.connect("guest", "guest", wait=True)
    return client, heard


def end(order):
    """Take three messages and end in an order; return how many come again, and what was answered."""
    queue = f"/queue/{order[0]}"
    client, heard = connected()
    client.subscribe(queue, "1", ack="client-individual", headers={"prefetch-count": "10"})
    for number in range(3):
        client.send(queue, str(number))
    assert heard.wait(lambda: len(heard.messages) == 3, 30)
    for step in order:
        if step == "unsubscribe":
            client.unsubscribe("1", receipt="unsubscribed")
            assert heard.wait(lambda: heard.receipts or heard.errors, 30)
        else:
            for frame in heard.messages[:3]:
                client.ack(frame.headers["ack"], receipt=f"acked-{frame.headers['ack']}")
    heard.wait(lambda: heard.errors or len(heard.receipts) == 4, 10)
    answered = ", ERROR: " + heard.errors[0].headers["message"] if heard.errors else ""
    if client.is_connected():
        client.disconnect()
    other, again = connected()
    other.subscribe(queue, "1", ack="auto")
    again.wait(lambda: len(again.messages) == 3, 3)
    other.disconnect()
    return len(again.messages), answered


found = {}
for order in (("acknowledge", "unsubscribe"), ("unsubscribe", "acknowledge")):
    first, then = (f"{step}d" for step in order)
    count, answered = found[first] = end(order)
    print(f"{first}, then {then}: {count} come again{answered}")
assert found == {"acknowledged": (0, ""), "unsubscribed": (3, ", ERROR: Subscription not found")}
END
