#!/bin/sh
# Makes what docker-compose.yml mounts: the folder for images and the secrets. Run it as often as you like; what is
# there stays. `deploy/prepare.sh [FOLDER]`, default var/docker.
set -eu
cd "$(dirname "$0")/.."
env_file=${ENV_FILE:-.env}
folder=${1:-${PIGEONHOLE_FOLDER:-./var/docker}}

random() { LC_ALL=C tr -dc 'a-zA-Z0-9' </dev/urandom | head -c 40; }
secret() { [ -s "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"; }
setting() { grep -qs "^$1=" "$env_file" || printf '%s=%s\n' "$1" "$2" >>"$env_file"; }

# The folder keeps strangers out; two of the files must be read by other users inside their containers.
mkdir -p secrets "$folder/inbox"
chmod 700 secrets
secret api_key "$(random)"
secret grafana_password "$(random)"
secret postgres_password "$(random)"
secret pgpass "postgres:5432:pigeonhole:pigeonhole:$(cat secrets/postgres_password)"
chmod 600 secrets/api_key secrets/pgpass
chmod 644 secrets/grafana_password secrets/postgres_password

if [ "$(id -u)" = 0 ]; then # containers never run as root
  chown 10001:10001 "$folder" "$folder/inbox" secrets/api_key secrets/pgpass
else # files in the folder are yours, whatever made them
  setting PIGEONHOLE_UID "$(id -u)"
  setting PIGEONHOLE_GID "$(id -g)"
fi
[ "$folder" = ./var/docker ] || setting PIGEONHOLE_FOLDER "$folder"

echo "Ready: docker compose up --detach --wait"
echo "Drop images into $folder/inbox. The API key is in secrets/api_key, Grafana's password (user admin) in secrets/grafana_password."
