#!/usr/bin/env bash
# All that is to be shown on a machine with a GPU, from the programs that `make gpu-bin` built: `benches/gpu/run.sh FOLDER [PART…]`.
#
# FOLDER holds `gpu`, `versus` and `medley-worker`. Parts: info, ops, lanes, ranks, nccl, sanitizer, speed, torch, compiled; all of them if
# none is named. `torch` compares with PyTorch, `compiled` with towers through `torch.compile`, which takes minutes; they need a python3 that
# has it. What fails is listed last, and makes the exit status 1.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
programs=$(realpath "${1:?the folder of the programs}")
shift
parts=("$@")
if [ $# = 0 ]; then parts=(info ops lanes ranks nccl sanitizer speed torch compiled); fi
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

# train DEVICE RANKS SPEC: prints the digest of the last state.
train() {
  rm -rf "/tmp/medley-ranks"
  MEDLEY_DEVICE=$1 timeout 100 "$programs/medley-worker" train --out /tmp/medley-ranks --ranks "$2" --threads 2 "$3" \
    2>/tmp/medley-ranks.log | tail -n 1
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
        tail -n 3 /tmp/medley-ranks.log
      fi
    done
  done
}

# The same training over TCP, and over NCCL by one rank and by two that share the device, must end with the same bytes.
part_nccl() {
  local way ranks first="" state
  export NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=${NCCL_MAX_CTAS:-8}
  for way in tcp nccl; do
    python3 - "$programs/spec.json" $way >/tmp/medley-$way.json <<'PYTHON'
import json, sys
spec = json.load(open(sys.argv[1]))
spec.setdefault("cluster", {})["collective"] = sys.argv[2]
json.dump(spec, sys.stdout)
PYTHON
    for ranks in 1 2; do
      state=$(train cuda:0 $ranks /tmp/medley-$way.json)
      printf '%s ranks over %s: %s\n' "$ranks" "$way" "$state"
      first=${first:-$state}
      if [ -z "$state" ] || [ "$state" != "$first" ]; then
        failed+=("$ranks ranks over $way")
        tail -n 5 /tmp/medley-ranks.log
      fi
    done
  done
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

part_compiled() {
  local batch=${MEDLEY_BATCH:-90}
  export MEDLEY_DEVICE=cuda:0:bf16
  try "torch compiled" 560 python3 benches/compare.py "$programs/versus" vit-b "$batch" --rounds 5 --only reference \
    --torch "--device cuda --bf16 --compile"
}

for part in "${parts[@]}"; do "part_$part"; done
printf '\n%s failed: %s\n' "${#failed[@]}" "$(printf '%s; ' "${failed[@]}")"
[ ${#failed[@]} = 0 ]
