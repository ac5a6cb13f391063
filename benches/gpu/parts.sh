# shellcheck shell=bash
# Parts of `run.sh`, which sources this: each a function `part_NAME`.

# What is not timed comes first, with the sanitizers beside it.
all_parts=(info sanitizer ops lanes ranks nccl chaos job settle
  speed profile vit lanes32 train500 checkpoint capfilt library torch best ncu)

part_info() {
  try info 60 30 "$programs/gpu" info
  try doctor 60 20 "$programs/medley-worker" doctor
}

part_ops() { try ops 200 4 "$programs/gpu" ops; }

part_lanes() {
  local format
  for format in fp32 bf16; do
    try "lane nano $format" 60 2 "$programs/gpu" lane nano 4 $format
    try "lane tiny $format" 60 2 "$programs/gpu" lane tiny 8 $format
  done
  try "lane vit-b bf16" 110 2 "$programs/gpu" lane vit-b 2 bf16 1
}

# sanitize TOOL SECONDS COMMAND...: what a tool of compute-sanitizer finds: the first of it, and how often in which kernel.
sanitize() {
  local tool=$1 limit=$2 found status=0
  shift 2
  found=$(mktemp)
  timeout --kill-after=2 "$limit" compute-sanitizer --tool "$tool" --print-limit 3000 --error-exitcode 9 "$@" >"$found" 2>&1 || status=$?
  if [ $status != 0 ]; then
    head -n 60 "$found"
    echo "by kernel, and by frame:"
    grep -oE '^=========     at .*' "$found" | sed -E 's/\+0x[0-9a-f]+.*//; s/ in .*//' | sort | uniq -c | sort -rn | head -n 12
    grep -oE 'Host Frame: ?.*' "$found" | sed -E 's/\[0x[0-9a-f]+\]//' | sort | uniq -c | sort -rn | head -n 12
  fi
  tail -n 1 "$found"
  rm -f "$found"
  return $status
}
export -f sanitize

# Beside parts that are not timed. Those tools that follow every access are slow: they get the smallest lane, and kernels apart.
part_sanitizer() {
  local limit=${SANITIZER_LIMIT:-200} tool kind
  aside "memcheck lane" $((limit + 5)) 3 bash -c "sanitize memcheck $limit '$programs/gpu' lane nano 2 bf16 1"
  for tool in racecheck initcheck; do
    aside "$tool lane" $((limit + 5)) 26 bash -c "sanitize $tool $limit '$programs/gpu' lane nano 1 bf16 1"
  done
  for kind in rows attention; do
    aside "racecheck $kind" $((limit + 5)) 3 bash -c "sanitize racecheck $limit '$programs/gpu' ops $kind"
  done
}

part_speed() {
  local batch
  for batch in 32 90; do
    try "vit-b $batch fp32" 60 1 "$programs/gpu" bench vit-b $batch fp32 5
    try "vit-b $batch bf16" 60 1 "$programs/gpu" bench vit-b $batch bf16 10
  done
  MEDLEY_LENGTHS=30 try "vit-b 90 bf16, texts of 30" 60 1 "$programs/gpu" bench vit-b 90 bf16 10
  try "vit-b 256 bf16" 60 1 "$programs/gpu" bench vit-b 256 bf16 8
  try "vit-l 75 bf16" 100 1 "$programs/gpu" bench vit-l 75 bf16 6
  MEDLEY_RECOMPUTE=1 try "vit-l 75 bf16, recomputed" 100 1 "$programs/gpu" bench vit-l 75 bf16 6
}

part_profile() {
  try "profile vit-b 90" 60 40 "$programs/gpu" profile vit-b 90 bf16
  try "profile vit-b 256" 60 14 "$programs/gpu" profile vit-b 256 bf16
}

part_checkpoint() { try checkpoint 120 15 "$programs/gpu" checkpoint vit-b; }

# data: generated shards, made once.
data() {
  if [ ! -d "$work/data" ]; then "$programs/synth" "$work/data" 1500 5000 500 >"$logs/data.log" 2>&1; fi
  printf '%s\n' "$work/data"
}

part_train500() { try "500 steps of tiny" 150 12 python3 benches/gpu/trainings.py "$programs" "$(data)" train; }

part_vit() { try "vit-b and vit-l, a lane" 120 6 python3 benches/gpu/trainings.py "$programs" "$(data)" vit; }

part_lanes32() { try "32 lanes against one" 120 3 python3 benches/gpu/trainings.py "$programs" "$(data)" lanes; }

# A whole job: in single precision by one rank, and in bf16 by two that share the GPU.
part_job() {
  try "job fp32, 1 rank" "${JOB_LIMIT:-150}" 34 benches/gpu/job.sh "$programs" tiny
  PRECISION=bf16 RANKS=2 try "job bf16, 2 ranks" "${JOB_LIMIT:-150}" 14 benches/gpu/job.sh "$programs" tiny
}

# Image files of a web's size: decoded by the processor alone, and captioned and matched by a ViT-B.
part_capfilt() {
  "$programs/synth" "$work/large" 16 2000 16 >"$logs/large.log" 2>&1
  "$programs/images" enlarge "$work/large/web" 480 >>"$logs/large.log" 2>&1
  try "decoding" 60 7 "$programs/images" decode "$work/large/web" 384
  PRECISION=bf16 try "capfilt vit-b" 240 12 benches/gpu/job.sh "$programs" capfilt
}

# versus BATCHES LIMIT OPTIONS...: in turns with PyTorch, which has one thread: with 16 its generation was slower.
versus() {
  local batches=$1 limit=$2
  shift 2
  MEDLEY_DEVICE=cuda:0:bf16 timeout "$limit" python3 benches/compare.py "$programs/versus" vit-b "$batches" --threads "$(nproc)" --torch-threads 1 \
    --limit $((limit - 10)) --torch "--device cuda --bf16" "$@"
}
export -f versus
export programs

part_torch() { try "torch eager" 120 8 bash -c "versus ${MEDLEY_BATCHES:-90} 115 --rounds 5 --warm 2 --only reference"; }

part_best() {
  try "torch best" 250 8 bash -c "versus ${MEDLEY_BATCHES:-90} 245 --rounds 10 --warm 3 --only best"
  # Texts are padded to 30 there anyway, so that nothing is compiled again.
  try "torch best, texts of 30" 120 8 bash -c "versus 90 115 --rounds 10 --warm 3 --only best --lengths 30"
  if [ -n "${OUT:-}" ]; then tar -C $kept -czf "$OUT/inductor.tar.gz" inductor; fi
}

part_library() { try "transformers" 280 20 bash -c "versus 32,128,512 275 --rounds 2 --only library"; }

part_ncu() { try "ncu" 240 12 python3 benches/gpu/ncu.py "$programs" vit-b 90 bf16; }
