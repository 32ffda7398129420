#!/bin/sh
# Both processes of the example: the server, and a client that finds it by services.yml.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
said=$(mktemp)
"$python" server.py > "$said" &
server=$!
trap 'kill "$server" 2> /dev/null || true; rm -f "$said"' EXIT
until grep -q open "$said"; do
    kill -0 "$server"
    sleep 0.1
done
"$python" client.py
kill "$server"
wait "$server"
cat "$said"
