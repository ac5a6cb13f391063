# shellcheck shell=bash
# Parts of `run.sh`, which sources this: each a function `part_NAME`.

# What is not timed comes first, with the sanitizers beside it.
all_parts=(info sanitizer ops lanes ranks nccl job settle
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
    try "lane vit-b $format" 200 2 "$programs/gpu" lane vit-b 2 $format
  done
}

# Those that follow every access to shared memory, or every byte, are slow: they get the smallest lane, and the kernels apart.
part_sanitizer() {
  local limit=${SANITIZER_LIMIT:-200} tool part
  aside "memcheck lane" "$limit" 3 compute-sanitizer --tool memcheck --error-exitcode 9 "$programs/gpu" lane nano 2 bf16
  for tool in racecheck initcheck; do
    aside "$tool lane" "$limit" 3 compute-sanitizer --tool $tool --error-exitcode 9 "$programs/gpu" lane nano 1 bf16
  done
  for part in rows attention; do
    aside "racecheck $part" "$limit" 3 compute-sanitizer --tool racecheck --error-exitcode 9 "$programs/gpu" ops $part
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
}

part_profile() { try profile 100 40 "$programs/gpu" profile vit-b 90 bf16; }

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
  PRECISION=bf16 try "capfilt vit-b" 200 12 benches/gpu/job.sh "$programs" capfilt
}

# versus BATCHES LIMIT OPTIONS...: in turns with PyTorch.
versus() {
  local batches=$1 limit=$2
  shift 2
  MEDLEY_DEVICE=cuda:0:bf16 timeout "$limit" python3 benches/compare.py "$programs/versus" vit-b "$batches" --threads "$(nproc)" \
    --limit $((limit - 10)) --torch "--device cuda --bf16" "$@"
}
export -f versus
export programs

part_torch() { try "torch eager" 120 8 bash -c "versus ${MEDLEY_BATCHES:-90} 115 --rounds 5 --warm 2 --only reference"; }

part_best() {
  try "torch best" 250 8 bash -c "versus ${MEDLEY_BATCHES:-90} 245 --rounds 10 --warm 3 --only best"
  try "torch best, texts of 30" 250 8 bash -c "versus 90 245 --rounds 10 --warm 3 --only best --lengths 30"
}

part_library() { try "transformers" 280 20 bash -c "versus 32,128,512 275 --rounds 2 --only library"; }

part_ncu() { try "ncu" 100 12 python3 benches/gpu/ncu.py "$programs" vit-b 90 bf16; }
