# shellcheck shell=bash
# Finds what Medley needs from its machine. Sourced by the other scripts; changes nothing and downloads nothing.
#
# A tool of the machine is taken when it is recent enough. What scripts/install.sh had to fetch lies under target/:
# target/postgres (server binaries) and target/node.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
fetched=$root/target
export root target fetched

# The oldest PostgreSQL whose SQL the store may use.
oldest_postgres=15
# The oldest releases of Node.js that run the dashboard's build.
oldest_node_20=20.19.0
oldest_node_22=22.12.0
# The oldest CUDA whose compiler builds the kernels.
oldest_cuda=12.8

say() { printf '%s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# at_least HAVE WANT: whether dotted version HAVE is WANT or newer.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# first_version: the first dotted number of standard input.
first_version() { grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1; }

# deadline SECONDS COMMAND...: runs COMMAND, ended after SECONDS. On a terminal it stays in the foreground, so that
# Ctrl-C reaches it.
deadline() {
  local seconds=$1 foreground=()
  shift
  if [ -t 0 ]; then foreground=(--foreground); fi
  timeout "${foreground[@]}" --kill-after=20 "$seconds" "$@"
}

# postgres_serves DIR: whether DIR holds the binaries of a recent enough server.
postgres_serves() {
  [ -x "$1/initdb" ] && [ -x "$1/postgres" ] || return 1
  at_least "$("$1/postgres" --version 2>/dev/null | first_version)" "$oldest_postgres"
}

# find_postgres: prints the folder of the server binaries to use.
find_postgres() {
  local dir candidates=()
  if [ -n "${MEDLEY_PG_BINDIR:-}" ]; then
    candidates=("$MEDLEY_PG_BINDIR")
  else
    while IFS= read -r dir; do candidates+=("$dir"); done < <(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV)
    if dir=$(pg_config --bindir 2>/dev/null); then candidates+=("$dir"); fi
    if dir=$(command -v postgres); then candidates+=("$(dirname "$(readlink -f "$dir")")"); fi
    candidates+=("$fetched/postgres/bin")
  fi
  for dir in "${candidates[@]}"; do
    if postgres_serves "$dir"; then
      printf '%s\n' "$dir"
      return 0
    fi
  done
  return 1
}

# node_builds DIR: whether DIR holds Node.js and npm, recent enough for the dashboard's build.
node_builds() {
  local version
  [ -x "$1/node" ] && [ -x "$1/npm" ] || return 1
  version=$("$1/node" --version 2>/dev/null | first_version)
  case $version in
    20.*) at_least "$version" "$oldest_node_20" ;;
    21.*) return 1 ;;
    *) at_least "$version" "$oldest_node_22" ;;
  esac
}

# find_node: prints the folder of the Node.js to use.
find_node() {
  local found
  if found=$(command -v node) && node_builds "$(dirname "$found")"; then
    dirname "$found"
  elif node_builds "$fetched/node/bin"; then
    printf '%s\n' "$fetched/node/bin"
  else
    return 1
  fi
}

# find_chromium: prints the browser of the smoke test. It is asked its version, since some distributions install a
# stand-in of that name.
find_chromium() {
  local name found
  for name in "${CHROMIUM:-chromium}" chromium chromium-browser google-chrome; do
    if found=$(command -v "$name") && timeout 20 "$found" --version >/dev/null 2>&1; then
      printf '%s\n' "$found"
      return 0
    fi
  done
  return 1
}

# find_nvcc: prints the CUDA compiler to use.
find_nvcc() {
  local nvcc
  for nvcc in "${NVCC:-}" "$(command -v nvcc)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" "$fetched/cuda/bin/nvcc"; do
    if [ -x "$nvcc" ] && at_least "$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')" "$oldest_cuda"; then
      printf '%s\n' "$nvcc"
      return 0
    fi
  done
  return 1
}

# use_tools: puts fetched tools where the programs look for them.
use_tools() {
  local node postgres nvcc
  if node=$(find_node) && [ "$node" = "$fetched/node/bin" ]; then
    export PATH="$node:$PATH"
  fi
  if postgres=$(find_postgres) && [ "$postgres" = "$fetched/postgres/bin" ]; then
    export MEDLEY_PG_BINDIR=$postgres
  fi
  if nvcc=$(find_nvcc); then export NVCC=$nvcc; fi
}

# use_memory: lets tests keep their files in memory where there is plenty, until this script ends. They start and kill databases
# by the dozen, which would wait for the disk for most of the time.
use_memory() {
  local room_mib free_mib left owner
  # What a killed script has left.
  for left in /dev/shm/medley-tests.*.*; do
    owner=${left#/dev/shm/medley-tests.}
    if [ -O "$left" ] && ! kill -0 "${owner%%.*}" 2>/dev/null; then rm -rf "$left"; fi
  done
  if [ -n "${TMPDIR:-}" ] || grep -q '^[^ ]* /dev/shm tmpfs [^ ]*noexec' /proc/mounts 2>/dev/null; then return 0; fi
  room_mib=$(df --block-size=1M --output=avail /dev/shm 2>/dev/null | tail -n 1) || room_mib=0
  free_mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null) || free_mib=0
  if [ "${room_mib:-0}" -lt 4096 ] || [ "${free_mib:-0}" -lt 8192 ]; then return 0; fi
  TMPDIR=$(mktemp -d /dev/shm/medley-tests.$$.XXXXXX)
  # The private database server runs as a user of its own, who must be able to come this way.
  chmod 0755 "$TMPDIR"
  export TMPDIR
  trap 'rm -rf "$TMPDIR"' EXIT
}
