#!/bin/bash
# Builds the image, starts docker-compose.yml and uses it as its users would; ends by deleting what it started.
#   deploy/try-compose.sh            with the Docker engine that `docker` reaches
#   ENGINE=path/to/setup.sh deploy/try-compose.sh   with one that has `env` (prints exports) and `exec CMD` (where
#                                    published ports answer); its images are local stand-ins, so none is pulled
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
work=$(mktemp -d)
export COMPOSE_PROJECT_NAME=pigeonhole-try PIGEONHOLE_FOLDER=$work/home PIGEONHOLE_IMAGE=pigeonhole:try
# Beside whatever else may run here.
export PIGEONHOLE_API_PORTS=18000-18001 PROMETHEUS_PORT=19090 GRAFANA_PORT=13000 ENV_FILE=$work/env
if [ "$(id -u)" = 0 ]; then PIGEONHOLE_UID=10001 PIGEONHOLE_GID=10001; else PIGEONHOLE_UID=$(id -u) PIGEONHOLE_GID=$(id -g); fi
export PIGEONHOLE_UID PIGEONHOLE_GID
run_there=()
compose=(docker compose --project-directory . --file docker-compose.yml --env-file /dev/null)
if [ -n "${ENGINE:-}" ]; then
  eval "$("$ENGINE" env)"
  run_there=("$ENGINE" exec)
  # Stand-ins have a tag and no digest.
  untagged() { sed -n "s/.*{$1:-\([^@}]*\)@.*/\1/p" docker-compose.yml | head -n 1; }
  PYTHON_IMAGE=$(untagged PYTHON_IMAGE) PROMETHEUS_IMAGE=$(untagged PROMETHEUS_IMAGE) GRAFANA_IMAGE=$(untagged GRAFANA_IMAGE)
  export PYTHON_IMAGE PROMETHEUS_IMAGE GRAFANA_IMAGE PIGEONHOLE_BUILD_NETWORK=host
fi
say() { printf '%-64s %s\n' "$1" "$2"; }
ask() { "${run_there[@]}" curl --silent --show-error --fail --max-time 10 "$@"; }
until_true() { # WHAT COMMAND...: fails loudly after 60 s
  local what=$1 end=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "not seen within 60 s: $what"; exit 1; }
    sleep 0.3
  done
}
finish() {
  local code=$?
  [ $code = 0 ] || "${compose[@]}" logs --no-color --tail 30 || true
  "${compose[@]}" --profile '*' down --volumes --timeout 5 >/dev/null 2>&1 || true
  [ ! -e "$secrets_were_made" ] || rm -rf secrets
  rm -rf "$work"
  [ $code = 0 ] && echo "all of it worked" || echo "FAILED ($code)"
}
secrets_were_made=$work/secrets-were-made
[ -d secrets ] || : >"$secrets_were_made"
trap finish EXIT

deploy/prepare.sh "$PIGEONHOLE_FOLDER" >/dev/null
chmod 755 "$work"
"${compose[@]}" config --quiet
started=$(date +%s%N)
"${compose[@]}" build --quiet api >/dev/null
say "image built, seconds" "$((($(date +%s%N) - started) / 1000000000))"
say "image size, MB" "$(($(docker image inspect --format '{{.Size}}' "$PIGEONHOLE_IMAGE") / 1000000))"
say "torch in the image" "$(docker run --rm --entrypoint python "$PIGEONHOLE_IMAGE" -c 'import importlib.util as u; print("yes" if u.find_spec("torch") else "no")')"

started=$(date +%s%N)
"${compose[@]}" up --detach --wait --no-build --pull never >/dev/null 2>&1 || { "${compose[@]}" ps --all; exit 1; }
say "api x2, watcher, prometheus, grafana all healthy, after ms" "$((($(date +%s%N) - started) / 1000000))"
"${compose[@]}" ps --all --format '{{.Name}}  {{.Status}}  {{.Ports}}' | sed 's/^/    /'

say "runs as user" "$("${compose[@]}" exec -T watcher python -c 'import os; print(os.getuid())')"
"${compose[@]}" exec -T watcher python -c 'open("/opt/pigeonhole/x", "w")' 2>/dev/null && { echo "the root can be written"; exit 1; }
say "root can be written" "no"
say "capabilities of the watcher" "$("${compose[@]}" exec -T watcher python -c 'print([l.split()[1] for l in open("/proc/1/status") if l.startswith("CapEff")][0])')"
say "no new privileges" "$("${compose[@]}" exec -T watcher python -c 'print([l.split()[1] for l in open("/proc/1/status") if l.startswith("NoNewPrivs")][0])')"

"${compose[@]}" exec -T watcher python -c 'import io, sys; from PIL import Image; b = io.BytesIO(); Image.linear_gradient("L").save(b, "PNG"); sys.stdout.buffer.write(b.getvalue())' >"$work/one.png"
"${compose[@]}" exec -T watcher python -c 'import io, sys; from PIL import Image; b = io.BytesIO(); Image.radial_gradient("L").save(b, "JPEG"); sys.stdout.buffer.write(b.getvalue())' >"$work/two.jpg"
cp "$work/one.png" "$PIGEONHOLE_FOLDER/inbox/one.png"
sorted() { find "$PIGEONHOLE_FOLDER/sorted" -name one.png | grep .; }
until_true "the file is sorted" sorted
say "dropped into the mounted inbox; came out as" "$(sorted | sed "s#$PIGEONHOLE_FOLDER/##")"
say "left in the inbox" "$(find "$PIGEONHOLE_FOLDER/inbox" -type f | wc -l)"

key=$(cat secrets/api_key)
for replica in $("${compose[@]}" ps --format '{{.Name}}' api); do
  port=$(docker port "$replica" 8000/tcp | sed 's/.*://')
  label=$(ask --header "X-API-Key: $key" --form "file=@$work/two.jpg" "http://127.0.0.1:$port/v1/predict" | sed 's/.*"label":"\([^"]*\)".*/\1/')
  say "upload through 127.0.0.1:$port" "$label"
done
say "rows, asked of the other replica" "$(ask --header "X-API-Key: $key" "http://127.0.0.1:$port/v1/results" | grep -o '"id":' | wc -l)"
say "without a key" "$("${run_there[@]}" curl --silent --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$port/v1/results")"

up() { ask --get --data-urlencode "query=$1" http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query | grep -o '"value":\[[^]]*\]' | sed 's/.*"\([0-9.]*\)".*/\1/'; }
four_up() { [ "$(up 'sum(up)')" = 4 ]; }
until_true "Prometheus sees four targets" four_up
say "targets up: api, watcher, prometheus" "$(up 'sum(up{job="api"})') $(up 'sum(up{job="watcher"})') $(up 'sum(up{job="prometheus"})')"
uploads_are_two() { [ "$(up 'sum(pigeonhole_images_total{source="upload",outcome="classified"})')" = 2 ]; }
until_true "the uploads are summed over the replicas" uploads_are_two
say "uploads, summed over the replicas" "$(up 'sum(pigeonhole_images_total{source="upload",outcome="classified"})')"
say "rules loaded" "$(ask http://127.0.0.1:$PROMETHEUS_PORT/api/v1/rules | grep -o '"type":' | wc -l)"
say "grafana says" "$(ask http://127.0.0.1:$GRAFANA_PORT/api/health | tr -d ' \n' | cut -c 1-200)"

watcher=$("${compose[@]}" ps --quiet watcher)
"${run_there[@]}" kill -9 "$(docker inspect --format '{{.State.Pid}}' "$watcher")"
healthy_again() { [ "$(docker inspect --format '{{.RestartCount}} {{.State.Health.Status}}' "$watcher")" = "1 healthy" ]; }
until_true "the watcher is restarted" healthy_again
cp "$work/two.jpg" "$PIGEONHOLE_FOLDER/inbox/after-kill.jpg"
sorted_after() { find "$PIGEONHOLE_FOLDER/sorted" -name after-kill.jpg | grep .; }
until_true "a file after the restart is sorted" sorted_after
say "watcher killed with -9; restarted and sorted the next file" "yes"
"${compose[@]}" stop --timeout 20 >/dev/null 2>&1
say "exit codes after stop: api watcher" "$(docker inspect --format '{{.State.ExitCode}}' $("${compose[@]}" ps --all --quiet api watcher) | tr '\n' ' ')"
