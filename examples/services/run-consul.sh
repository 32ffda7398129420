#!/bin/sh
# Both processes of the example with Consul between them: that of CONSUL_URL, else an agent of its own, from the program CONSUL.
set -eu
cd "$(dirname "$0")"
export SHOP_SETTINGS=consul.yml
if [ -n "${CONSUL_URL:-}" ]; then
    exec ./run.sh
fi
port=${CONSUL_PORT:-8500}
log=$(mktemp)
"${CONSUL:-consul}" agent -dev -bind=127.0.0.1 -client=127.0.0.1 -http-port="$port" -server-port="${CONSUL_SERVER_PORT:-8300}" \
    -serf-lan-port="${CONSUL_SERF_PORT:-8301}" -serf-wan-port=-1 -dns-port=-1 -grpc-port=-1 -log-level=warn > "$log" 2>&1 &
agent=$!
trap 'kill "$agent" 2> /dev/null || true; rm -f "$log"' EXIT
until "${CONSUL:-consul}" catalog services -http-addr="http://127.0.0.1:$port" > /dev/null 2>&1; do
    kill -0 "$agent" || { cat "$log" >&2; exit 1; }
    sleep 0.1
done
CONSUL_URL="http://127.0.0.1:$port" ./run.sh
