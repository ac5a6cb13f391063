#!/usr/bin/env bash
# A whole bootstrap job on this machine, with coordinator, database and agent: `benches/gpu/job.sh FOLDER [tiny|quick|demo|capfilt]`.
#
# FOLDER is what `pack.sh` packed, unpacked: all programs, and PostgreSQL in it where the machine has none. Kinds:
#   tiny      the preset `tiny` with one rank on the GPU, or with RANKS of them on it, in the format PRECISION (fp32, bf16)
#   quick     the same with a few steps, to see that it runs
#   demo      `medley demo`: four ranks that share the GPU, and its report
#   capfilt   ViT-B with a few steps of training, then captions and match scores of 2,000 large images: images/s
# MEDLEY_DEVICE says where ranks are if not on the GPU: cpu.
set -euo pipefail
programs=$(realpath "${1:?the folder of the programs}")
kind=${2:-tiny}
here=$(cd "$(dirname "$0")" && pwd)
state=$(mktemp -d "${TMPDIR:-/tmp}/medley-job.XXXXXX")
# The server runs as another user where this is root.
chmod 755 "$state"
if [ -x "$programs/postgres/bin/initdb" ]; then export MEDLEY_PG_BINDIR=$programs/postgres/bin; fi
export MEDLEY_STATE_DIR=$state MEDLEY_RANKS_PER_GPU=${RANKS:-1}
cluster=

finish() {
  if [ -n "$cluster" ] && kill -TERM "$cluster" 2>/dev/null; then wait "$cluster" || true; fi
  rm -rf "$state"
}
trap finish EXIT

if [ "$kind" = demo ]; then
  export MEDLEY_DEVICE=${MEDLEY_DEVICE:-cuda:0}
  "$programs/medley" demo
  exit
fi

# No line where the preset says it all.
case $kind in
  tiny) sizes=(1500 5000 500) ;;
  quick) sizes=(160 240 60) ;;
  capfilt) sizes=(200 2000 60) ;;
  *) echo "job.sh: $kind is none of tiny, quick, demo, capfilt" >&2 && exit 2 ;;
esac
"$programs/synth" "$state/data" "${sizes[@]}"
if [ "$kind" = capfilt ]; then
  for set in web human test; do "$programs/images" enlarge "$state/data/$set" "${SIDE:-480}"; done
fi
python3 "$here/job.py" "$kind" "$state/data" "${PRECISION:-fp32}" >"$state/job.json"

devices=auto
if [ "${MEDLEY_DEVICE:-}" = cpu ]; then devices=${RANKS:-1}; fi
"$programs/medley" up --nodes 1 --devices "$devices" --threads "${THREADS:-$(nproc)}" --listen 127.0.0.1:0 >"$state/up.log" 2>&1 &
cluster=$!
for _ in $(seq 300); do
  if grep -q 'dashboard' "$state/up.log"; then break; fi
  if ! kill -0 "$cluster" 2>/dev/null; then break; fi
  sleep 0.1
done
if ! "$programs/medley" submit "$state/job.json" --watch; then
  tail -n 20 "$state/up.log" "$state"/logs/*.log "$state"/logs/*/* >&2
  exit 1
fi
"$programs/medley" nodes
"$programs/medley" jobs show latest
"$programs/medley" --json jobs show latest >"$state/shown.json"
python3 "$here/job.py" show "$state/shown.json"
