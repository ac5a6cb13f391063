#!/usr/bin/env bash
# All that is to be shown on a machine with a GPU, from the programs that `make gpu-bin` built: `benches/gpu/run.sh FOLDER [PART…]`.
#
# FOLDER holds `gpu`, `versus` and `medley-worker`. Parts: info, ops, lanes, ranks, nccl, sanitizer, speed, torch, best; all of them if
# none is named. `torch` compares with PyTorch, `best` with PyTorch at its best, which is compiled first; they need a python3 that has it. What fails is listed last, and makes the exit status 1.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
programs=$(realpath "${1:?the folder of the programs}")
shift
parts=("$@")
if [ $# = 0 ]; then parts=(info ops lanes ranks nccl sanitizer speed torch best); fi
failed=()

# CUDA's libraries may be those of a Python package.
libraries=$(python3 -c "
import glob, os, sysconfig
found = glob.glob(sysconfig.get_paths()['purelib'] + '/nvidia/**/lib*.so.*', recursive=True)
print(':'.join(sorted({os.path.dirname(path) for path in found})))" 2>/dev/null)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$libraries

# try NAME SECONDS COMMAND...: notes a command that fails.
try() {
  local name=$1 limit=$2
  shift 2
  printf '\n== %s: %s\n' "$name" "$*"
  timeout "$limit" "$@" || failed+=("$name ($?)")
}

part_info() {
  try info 60 "$programs/gpu" info
  try doctor 60 "$programs/medley-worker" doctor
}

part_ops() { try ops 200 "$programs/gpu" ops; }

part_lanes() {
  local format
  for format in fp32 bf16; do
    try "lane nano $format" 60 "$programs/gpu" lane nano 4 $format
    try "lane tiny $format" 60 "$programs/gpu" lane tiny 8 $format
    try "lane vit-b $format" 200 "$programs/gpu" lane vit-b 2 $format
  done
}

out=/tmp/medley-ranks

# go_on DEVICE RANKS SPEC: trains from where it was left; prints the digest of the last state.
go_on() {
  MEDLEY_DEVICE=$1 timeout 100 "$programs/medley-worker" train --out $out --ranks "$2" --threads 2 "$3" 2>$out.log | tail -n 1
}

# train DEVICE RANKS SPEC: the same from the start.
train() {
  rm -rf $out
  go_on "$@"
}

# The same training by 1, 2 and 4 processes that share the device must end with the same bytes. FOLDER/spec.json says which.
part_ranks() {
  local format ranks first state
  for format in "" :bf16; do
    first=
    for ranks in 1 2 4; do
      state=$(train "cuda:0$format" "$ranks" "$programs/spec.json")
      printf '%s ranks on cuda:0%s: %s\n' "$ranks" "$format" "$state"
      first=${first:-$state}
      if [ -z "$state" ] || [ "$state" != "$first" ]; then
        failed+=("$ranks ranks$format")
        tail -n 3 $out.log
      fi
    done
  done
}

# same NAME STATE: notes a training that did not end with the bytes of the `first`.
same() {
  printf '%s: %s\n' "$1" "$2"
  first=${first:-$2}
  if [ -z "$2" ] || [ "$2" != "$first" ]; then
    failed+=("$1")
    tail -n 5 $out.log
  fi
}

# The same training over TCP, and over NCCL by one rank and by two and four that share the device, must end with the same bytes, whether
# exchanges go on during the last lane or begin behind it. The model is wide enough for several turns of slices by four ranks.
part_nccl() {
  local way ranks first=""
  export NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=${NCCL_MAX_CTAS:-8} RUST_LOG=info,medley_worker::collective=debug
  for way in tcp nccl; do
    python3 - "$programs/spec.json" $way >/tmp/medley-$way.json <<'PYTHON'
import json, sys
def merge(into, values):
    for name, value in values.items():
        if isinstance(value, dict):
            merge(into.setdefault(name, {}), value)
        else:
            into[name] = value
spec = json.load(open(sys.argv[1]))
merge(spec, {
    "cluster": {"collective": sys.argv[2]},
    "model": {"vision": {"width": 768, "heads": 12, "mlp": 3072, "depth": 6}, "text": {"width": 768, "heads": 12, "ffn": 3072}},
    "pretrain": {"length": {"by": "steps", "count": 100}},
    "checkpoint": {"every_steps": 25},
})
json.dump(spec, sys.stdout)
PYTHON
  done
  same "2 ranks over tcp" "$(train cuda:0 2 /tmp/medley-tcp.json)"
  for ranks in 1 2 4; do
    for way in 0 1; do
      same "$ranks ranks over nccl, overlap $way" "$(MEDLEY_NCCL_OVERLAP=$way train cuda:0 $ranks /tmp/medley-nccl.json)"
      grep -o 'begun with the last lane.*' $out.log | sort | uniq -c | sort -n | tail -n 3
    done
  done
  lose_a_rank
  same "2 ranks over nccl, after a lost one" "$(go_on cuda:0 2 /tmp/medley-nccl.json)"
  unset NCCL_MULTI_RANK_GPU_ENABLE NCCL_MAX_CTAS RUST_LOG
}

# A rank that stands still in the middle of a step: the other one must give up the exchange that is under way and say so, which it can
# only if the abort has returned.
lose_a_rank() {
  local training lost steps=0
  rm -rf $out
  MEDLEY_DEVICE=cuda:0 "$programs/medley-worker" train --out $out --ranks 2 --threads 2 /tmp/medley-nccl.json >/dev/null 2>$out.log &
  training=$!
  for _ in $(seq 600); do
    steps=$(cat $out/metrics.jsonl 2>/dev/null | wc -l)
    [ "$steps" -ge 12 ] && break
    sleep 0.1
  done
  lost=$(pgrep -P $training | tail -n 1)
  [ -n "$lost" ] && kill -STOP "$lost"
  # Peers are lost after 15 s of silence.
  if ! timeout 60 tail --pid=$training -f /dev/null; then
    failed+=("a rank that lost its peer hangs")
    kill -KILL $training
  elif [ "$steps" -lt 12 ] || grep -q 'does not come back' $out.log || ! grep -q '^error: rank [01]: ' $out.log; then
    failed+=("abort of an exchange that is under way")
  fi
  wait $training 2>/dev/null
  kill -KILL "$lost" 2>/dev/null
  printf 'a rank stood still after %s steps; the other one:\n' "$steps"
  tail -n 3 $out.log
}

part_sanitizer() {
  local tool
  for tool in memcheck racecheck initcheck; do
    try $tool 200 compute-sanitizer --tool $tool --error-exitcode 9 "$programs/gpu" lane nano 2 bf16
  done
}

part_speed() {
  local batch
  for batch in 32 90; do
    try "vit-b $batch fp32" 100 "$programs/gpu" bench vit-b $batch fp32 6
    try "vit-b $batch bf16" 100 "$programs/gpu" bench vit-b $batch bf16 10
  done
  try "vit-l 75 bf16" 200 "$programs/gpu" bench vit-l 75 bf16 6
}

part_torch() {
  local batch=${MEDLEY_BATCH:-90}
  export MEDLEY_DEVICE=cuda:0:bf16
  try "torch bf16" 300 python3 benches/compare.py "$programs/versus" vit-b "$batch" --rounds 5 --only step \
    --torch "--device cuda --bf16"
}

part_best() {
  export MEDLEY_DEVICE=cuda:0:bf16
  try "torch best" 400 python3 benches/compare.py "$programs/versus" vit-b "${MEDLEY_BATCHES:-90}" --rounds 10 --warm 3 --only best \
    --limit 380 --torch "--device cuda --bf16"
}

for part in "${parts[@]}"; do "part_$part"; done
printf '\n%s failed: %s\n' "${#failed[@]}" "$(printf '%s; ' "${failed[@]}")"
[ ${#failed[@]} = 0 ]
