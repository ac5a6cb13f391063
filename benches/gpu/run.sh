#!/usr/bin/env bash
# All that is to be shown on a machine with a GPU: `benches/gpu/run.sh FOLDER [PART…]`.
#
# FOLDER is what `pack.sh` packed, unpacked; for parts without job, data or ranks what `make gpu-bin` built is enough: `gpu`, `versus` and
# `medley-worker` side by side. `parts.sh` has the parts, in the order in which all of them are run if none is named. Each command has a time
# limit; the ends of what they print are shown, and last a table of all with their seconds. Whole logs go to $OUT/all.log as soon as a
# command ends, if OUT is set. What fails makes the exit status 1.
set -uo pipefail
programs=$(realpath "${1:?the folder of the programs}")
shift
cd "$(dirname "$0")/../.." || exit 1
kept=/tmp/medley-measured
logs=$kept/logs
all_logs=${OUT:-$kept}/all.log
work=$(mktemp -d "${TMPDIR:-/tmp}/medley-run.XXXXXX")
results=$work/results
mkdir -p "$logs"
: >"$results"
: >"$all_logs"
# What runs beside other parts.
beside=()
trap 'rm -rf "$work"' EXIT

# CUDA's libraries may be those of a Python package.
libraries=$(python3 -c "
import glob, os, sysconfig
found = glob.glob(sysconfig.get_paths()['purelib'] + '/nvidia/**/lib*.so.*', recursive=True)
print(':'.join(sorted({os.path.dirname(path) for path in found})))" 2>/dev/null)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$libraries
# What PyTorch compiled before may have been taken along.
export TORCHINDUCTOR_CACHE_DIR=$kept/inductor
if [ -f "$programs/inductor.tar.gz" ] && [ ! -d $kept/inductor ]; then tar -C $kept -xzf "$programs/inductor.tar.gz"; fi

# record NAME STATUS SECONDS: a line of the table.
record() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$results"; }

# try NAME SECONDS LINES COMMAND...: runs a command within a time; shows so many of its last lines, and before them all that are WRONG.
try() {
  local name=$1 limit=$2 lines=$3 began=$SECONDS status=0 log shown
  shift 3
  log=$logs/$(printf '%s' "$name" | tr -cs '[:alnum:]' _).log
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1 </dev/null || status=$?
  record "$name" $status $((SECONDS - began))
  # At once: others may write beside.
  {
    printf '\n== %s: %s, %s s: %s\n' "$name" "$(verdict $status)" $((SECONDS - began)) "$*"
    head -c 200000 "$log"
  } | flock "$work" tee -a "$all_logs" >/dev/null
  shown=$({ grep -a WRONG "$log" | head -n 5; tail -n "$lines" "$log"; } | cut -c 1-600)
  printf '\n== %s: %s, %s s\n%s\n' "$name" "$(verdict $status)" $((SECONDS - began)) "$shown"
}

verdict() {
  case $1 in
    0) echo "well" ;;
    124 | 137) echo "LATE" ;;
    *) echo "FAILED ($1)" ;;
  esac
}

# aside NAME SECONDS LINES COMMAND...: as `try`, beside what follows.
aside() {
  try "$@" &
  beside+=($!)
}

# Waits for what runs beside, so that nothing disturbs what is timed.
part_settle() {
  if [ ${#beside[@]} -gt 0 ]; then wait "${beside[@]}"; fi
  beside=()
}

. benches/gpu/parts.sh
. benches/gpu/ranks.sh

parts=("$@")
if [ $# = 0 ]; then parts=("${all_parts[@]}"); fi
for part in "${parts[@]}"; do
  if ! declare -F "part_$part" >/dev/null; then
    echo "run.sh: no part is called $part: ${all_parts[*]}" >&2
    exit 2
  fi
done
for part in "${parts[@]}"; do "part_$part"; done
part_settle

printf '\n%-34s %-12s %7s\n' "of $SECONDS s" "" seconds
failed=0
while IFS=$'\t' read -r name status seconds; do
  printf '%-34s %-12s %7s\n' "$name" "$(verdict "$status")" "$seconds"
  if [ "$status" != 0 ]; then failed=$((failed + 1)); fi
done <"$results"
printf '%s failed\n' $failed
[ $failed = 0 ]
