#!/usr/bin/env bash
# A job over two machines, simulated by two network namespaces that are joined by one cable and reach nothing else.
#
# On machine a: the coordinator and an agent. On machine b: an agent, and the user who submits. Coordinator and agents
# read the settings files of deploy/env, with addresses and folders of the test put in. The machines share the file
# system, as they would share one for data and object store.
#
# Needs root and the programs in target/release. Exits with 77, and a line that says why, where it cannot run.
set -euo pipefail
. "$(dirname "$0")/../../scripts/tools.sh"
use_tools

address_a=10.77.0.1
address_b=10.77.0.2
url=http://$address_a:7700
ready_within=60
job_within=300

skip() {
  say "skipped: $*"
  exit 77
}
[ "$(id -u)" = 0 ] || skip "only root can make network namespaces"
command -v ip >/dev/null || skip "the command ip is missing (Debian, Ubuntu: apt-get install iproute2)"
for program in medley medley-coordinator medley-worker; do
  [ -x "$target/release/$program" ] || die "$target/release/$program is not there: run \`make build\` first"
done

machine_a=medley-a-$$
machine_b=medley-b-$$
scratch=$(mktemp -d "${TMPDIR:-/tmp}/medley-two-machines.XXXXXX")
# The private database server runs as a user of its own, who must be able to come this way.
chmod 0755 "$scratch"
pids=()

clean_up() {
  local status=$? pid index
  # Agents first, then the coordinator: the reverse of the order they were started in.
  for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
    pid=${pids[index]}
    kill -TERM "$pid" 2>/dev/null || true
    timeout 25 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
  done
  if [ $status != 0 ]; then tail -n 25 "$scratch"/*.log "$scratch"/*/rank-*.log >&2 2>/dev/null || true; fi
  ip netns del "$machine_a" 2>/dev/null || true
  ip netns del "$machine_b" 2>/dev/null || true
  rm -rf "$scratch"
  exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# join: one cable between the two machines. Neither has another interface or a default route.
join_machines() {
  ip netns add "$machine_a" 2>/dev/null || skip "this system does not let root make network namespaces"
  ip netns add "$machine_b"
  ip link add eth0 netns "$machine_a" type veth peer name eth0 netns "$machine_b"
  plug_in "$machine_a" $address_a
  plug_in "$machine_b" $address_b
}

plug_in() {
  ip -n "$1" link set lo up
  ip -n "$1" address add "$2/24" dev eth0
  ip -n "$1" link set eth0 up
}

# settings FILE NAME=VALUE...: the settings of deploy/env/FILE with these values put in. Each NAME must be one of the
# file's, and each setting of the file must be given, so that the file and this test cannot drift apart.
settings() {
  local file=$root/deploy/env/$1 pair given
  shift
  for pair in "$@"; do
    grep -q "^${pair%%=*}=" "$file" || die "$file has no setting ${pair%%=*}"
  done
  given=$(printf '%s\n' "${@%%=*}" | sort)
  [ "$given" = "$(grep -o '^[A-Z_]*=' "$file" | tr -d = | sort)" ] ||
    die "$file has settings that the test does not give"
  printf '%s\n' "$@"
}

# start MACHINE NAME SETTINGS COMMAND...: starts a long-lived program; its log is NAME.log.
start() {
  local machine=$1 name=$2 values
  mapfile -t values <<<"$3"
  shift 3
  ip netns exec "$machine" env -i PATH="$PATH" ${MEDLEY_PG_BINDIR:+MEDLEY_PG_BINDIR="$MEDLEY_PG_BINDIR"} "${values[@]}" "$@" \
    >"$scratch/$name.out" 2>"$scratch/$name.log" </dev/null &
  pids+=($!)
}

start_coordinator() {
  local values line
  values=$(settings coordinator.env MEDLEY_STATE_DIR="$scratch/state" MEDLEY_LISTEN=$address_a:7700 \
    MEDLEY_STORE="file://$scratch/store")
  mkfifo "$scratch/coordinator.out"
  start "$machine_a" coordinator "$values" "$target/release/medley-coordinator" serve
  exec 3<"$scratch/coordinator.out"
  read -r -t $ready_within line <&3 || die "the coordinator did not say within $ready_within s that it serves"
  [ "$line" = "listening on $url" ] || die "the coordinator said: $line"
}

start_agent() {
  local machine=$1 name=$2 address=$3 values
  values=$(settings agent.env MEDLEY_URL=$url MEDLEY_TOKEN_FILE="$scratch/state/tokens/node" MEDLEY_NODE_NAME="$name" \
    MEDLEY_HOST="$address" MEDLEY_DEVICES=1 MEDLEY_THREADS=1)
  mkdir "$scratch/$name"
  start "$machine" "$name" "$values" "$target/release/medley-worker" agent --log-dir "$scratch/$name"
}

submit_job() {
  cat >"$scratch/job.toml" <<TOML
name = "two machines"
kind = "pretrain"
preset = "nano"

[data]
root = "$scratch/data"
web = ""
test = ""

# One rank on each machine: the job waits until both are there.
[cluster]
min_ranks = 2
max_ranks = 2
TOML
  deadline $job_within ip netns exec "$machine_b" "$target/release/medley" submit "$scratch/job.toml" --watch \
    --url $url --token-file "$scratch/state/tokens/admin" || die "the job did not succeed"
}

# What went over the cable from b: with less than this the gradients of 20 steps cannot have been exchanged.
check_traffic() {
  local sent least=1000000
  sent=$(ip netns exec "$machine_b" cat /sys/class/net/eth0/statistics/tx_bytes)
  say "machine b sent $sent bytes"
  [ "$sent" -ge $least ] || die "machine b sent only $sent bytes: its rank took no part in training"
}

join_machines
node "$root/tests/deploy/two-machines.mjs" corpus "$scratch/data"
start_coordinator
start_agent "$machine_a" node-a $address_a
start_agent "$machine_b" node-b $address_b
submit_job
ip netns exec "$machine_b" "$(command -v node)" "$root/tests/deploy/two-machines.mjs" verify $url \
  "$scratch/state/tokens/admin" node-a=$address_a node-b=$address_b
check_traffic
for name in node-a node-b; do
  compgen -G "$scratch/$name/rank-*.log" >/dev/null || die "no rank has run on $name"
done
say "a job ran over two machines and succeeded"
