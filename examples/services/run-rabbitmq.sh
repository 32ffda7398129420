#!/bin/sh
# Both processes of the example, without an HTTP port: calls go over the RabbitMQ of RABBITMQ_URL, else over that of this machine.
set -eu
cd "$(dirname "$0")"
export SHOP_SETTINGS=rabbitmq.yml SHOP_PROFILES=rabbitmq-profiles.yml
exec ./run.sh
