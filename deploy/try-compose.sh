#!/bin/bash
# Builds the image, starts docker-compose.yml and uses it as its users would; ends by deleting what it started.
#   deploy/try-compose.sh [PROFILE...]   with the Docker engine that `docker` reaches; profiles that are named (postgres,
#                                    train, mlflow) are tried after the default, and train's image is some 8 GB
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
run_there=() pull=missing
for profile in "$@"; do
  case $profile in postgres | train | mlflow) ;; *) echo "no such profile: $profile"; exit 2 ;; esac
done
compose=(docker compose --project-directory . --file docker-compose.yml --env-file /dev/null)
if [ -n "${ENGINE:-}" ]; then
  eval "$("$ENGINE" env)"
  run_there=("$ENGINE" exec)
  pull=never # stand-ins have a tag and no digest
  untagged() { sed -n "s/.*{$1:-\([^@}]*\)@.*/\1/p" docker-compose.yml | head -n 1; }
  PYTHON_IMAGE=$(untagged PYTHON_IMAGE) PROMETHEUS_IMAGE=$(untagged PROMETHEUS_IMAGE) GRAFANA_IMAGE=$(untagged GRAFANA_IMAGE) POSTGRES_IMAGE=$(untagged POSTGRES_IMAGE)
  export PYTHON_IMAGE PROMETHEUS_IMAGE GRAFANA_IMAGE POSTGRES_IMAGE PIGEONHOLE_BUILD_NETWORK=host
fi
say() { printf '%-64s %s\n' "$1" "$2"; }
ask() { "${run_there[@]}" curl --silent --show-error --fail --max-time 10 "$@"; }
start() { "$@" up --detach --wait --no-build --pull $pull >/dev/null 2>&1 || { "$@" ps --all; exit 1; }; } # COMPOSE...
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
  [ ! -d "$work/checkout" ] || "${there[@]}" --profile '*' down --volumes --timeout 5 >/dev/null 2>&1 || true
  [ ! -e "$secrets_were_made" ] || rm -rf secrets
  rm -rf "$work"
  [ $code = 0 ] && echo "all of it worked" || echo "FAILED ($code)"
}
secrets_were_made=$work/secrets-were-made
[ -d secrets ] || : >"$secrets_were_made"
trap finish EXIT

deploy/prepare.sh "$PIGEONHOLE_FOLDER" >/dev/null
chmod 755 "$work"
for profile in '' postgres train mlflow; do
  "${compose[@]}" ${profile:+--profile $profile} config --quiet
  say "valid${profile:+ with --profile $profile}: services" "$("${compose[@]}" ${profile:+--profile $profile} config --services | wc -l)"
done
started=$(date +%s%N)
"${compose[@]}" build --quiet api >/dev/null
say "image built, seconds" "$((($(date +%s%N) - started) / 1000000000))"
say "image size, MB" "$(($(docker image inspect --format '{{.Size}}' "$PIGEONHOLE_IMAGE") / 1000000))"
say "torch in the image" "$(docker run --rm --entrypoint python "$PIGEONHOLE_IMAGE" -c 'import importlib.util as u; print("yes" if u.find_spec("torch") else "no")')"

started=$(date +%s%N)
start "${compose[@]}"
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

# --- the profiles that were named ---

try_postgres() { # the same two programs on PostgreSQL
  "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1
  export PIGEONHOLE_DATABASE_URL=postgresql+psycopg://pigeonhole@postgres/pigeonhole
  local with=("${compose[@]}" --profile postgres) started
  started=$(date +%s%N)
  start "${with[@]}"
  say "postgres: all healthy on PostgreSQL, after ms" "$((($(date +%s%N) - started) / 1000000))"
  sql() { "${with[@]}" exec -T postgres psql --username=pigeonhole --no-align --tuples-only --command "$1"; }
  say "postgres: the server is" "$(sql 'show server_version')"
  cp "$work/two.jpg" "$PIGEONHOLE_FOLDER/inbox/in-postgres.jpg"
  sorted_there() { find "$PIGEONHOLE_FOLDER/sorted" -name in-postgres.jpg | grep .; }
  until_true "the file is sorted" sorted_there
  port=$(docker port "$("${with[@]}" ps --format '{{.Name}}' api | head -n 1)" 8000/tcp | sed 's/.*://')
  say "postgres: its row, through the API" "$(ask --header "X-API-Key: $key" "http://127.0.0.1:$port/v1/results" | grep -o '"filename":"[^"]*"')"
  say "postgres: its row, in the database" "$(sql "select source, status from results where filename = 'in-postgres.jpg'")"
  "${with[@]}" down --volumes --timeout 20 >/dev/null 2>&1
  unset PIGEONHOLE_DATABASE_URL
}

in_a_checkout() { # containers of the training image work on this one, and not on ours
  [ ! -d "$work/checkout" ] || return 0
  started=$(date +%s%N)
  "${compose[@]}" --profile train build --quiet train >/dev/null
  say "train: image built, seconds" "$((($(date +%s%N) - started) / 1000000000))"
  say "train: image size, MB" "$(($(docker image inspect --format '{{.Size}}' "$PIGEONHOLE_TRAIN_IMAGE") / 1000000))"
  git clone --quiet . "$work/checkout"
  sed -i 's/^  run: \[cnn1,.*/  run: [cnn1]/' "$work/checkout/params.yaml" # of the networks from nothing, one
  [ "$(id -u)" != 0 ] || chown -R 10001:10001 "$work/checkout"
}
there=(docker compose --project-directory "$work/checkout" --project-name pigeonhole-try-there --file "$work/checkout/docker-compose.yml" --env-file /dev/null)
export PIGEONHOLE_TRAIN_IMAGE=pigeonhole-train:try

try_train() {
  in_a_checkout
  started=$(date +%s%N)
  "${there[@]}" --profile train run --rm --no-deps train >"$work/train.log" 2>&1 || { tail -n 40 "$work/train.log"; exit 1; }
  say "train: pigeonhole train ended well, after s" "$((($(date +%s%N) - started) / 1000000000))"
  say "train: it says" "$(grep -E 'promoted|serves' "$work/train.log" | tail -n 1)"
  say "train: what serves from now on" "$(readlink "$PIGEONHOLE_FOLDER/models/current")"
}

try_mlflow() {
  in_a_checkout
  started=$(date +%s%N)
  "${there[@]}" --profile mlflow up --detach --wait --no-build --pull never --no-deps mlflow >/dev/null 2>&1 || { "${there[@]}" --profile mlflow logs --tail 40; exit 1; }
  say "mlflow: healthy, after ms" "$((($(date +%s%N) - started) / 1000000))"
  runs=$(ask --header 'Content-Type: application/json' --data '{"max_results": 100}' http://127.0.0.1:5000/api/2.0/mlflow/experiments/search)
  say "mlflow: experiments" "$(grep -o '"name": *"[^"]*"' <<<"$runs" | sed 's/.*: *//' | tr '\n' ' ')"
  "${there[@]}" --profile mlflow down --timeout 5 >/dev/null 2>&1
}

for profile in "$@"; do "try_$profile"; done
