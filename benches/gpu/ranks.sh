# shellcheck shell=bash
# Parts of `run.sh`, which sources this: trainings by several ranks that must end with the same bytes.

# In memory: the state of a wide model is written again and again.
out=/dev/shm/medley-ranks

# go_on DEVICE RANKS SPEC: trains from where it was left; prints the digest of the last state.
go_on() {
  MEDLEY_DEVICE=$1 timeout 100 "$programs/medley-worker" train --out "$out" --ranks "$2" --threads 2 "$3" 2>"$out.log" | tail -n 1
}

# train DEVICE RANKS SPEC: the same from the start.
train() {
  rm -rf "$out"
  go_on "$@"
}

# same NAME STATE BEGAN: notes whether a training ended with the bytes of the `first`.
same() {
  local status=0
  printf '%s: %s\n' "$1" "$2"
  first=${first:-$2}
  if [ -z "$2" ] || [ "$2" != "$first" ]; then
    status=1
    tail -n 5 "$out.log"
  fi
  record "$1" $status $((SECONDS - $3))
}

# spec NAME CHANGES: writes a spec of 24 steps of `tiny` with these values changed; its path.
spec() {
  python3 - "$(data)" "$2" >"$work/$1.json" <<'PYTHON'
import json, sys
def merge(into, values):
    for name, value in values.items():
        if isinstance(value, dict):
            merge(into.setdefault(name, {}), value)
        else:
            into[name] = value
spec = {"name": "ranks", "kind": "pretrain", "preset": "tiny", "data": {"root": sys.argv[1]}, "checkpoint": {"every_steps": 12}}
spec.update(lanes={"count": 8, "batch": 8}, cluster={"max_ranks": 8})
spec["pretrain"] = {"length": {"by": "steps", "count": 24}, "warmup_steps": 5}
merge(spec, json.loads(sys.argv[2]))
json.dump(spec, sys.stdout)
PYTHON
  printf '%s\n' "$work/$1.json"
}

# The same training by 1, 2 and 4 processes that share the device.
part_ranks() {
  local format ranks first of_tiny began
  of_tiny=$(spec tiny '{}')
  for format in "" :bf16; do
    first=
    for ranks in 1 2 4; do
      began=$SECONDS
      same "$ranks ranks on cuda:0$format" "$(train "cuda:0$format" "$ranks" "$of_tiny")" $began
    done
  done
}

# The same training over TCP, and over NCCL by one rank and by two and four that share the device, whether exchanges go on during the
# last lane or begin behind it. The model is wide enough for several turns of slices by four ranks. Ranks that share a device need NCCL
# 2.30.3, which FOLDER/nccl may hold.
part_nccl() {
  local way ranks first="" began wide LD_LIBRARY_PATH=$programs/nccl:$LD_LIBRARY_PATH
  export NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=${NCCL_MAX_CTAS:-8} RUST_LOG=info,medley_worker::collective=debug
  wide='"model": {"vision": {"width": 768, "heads": 12, "mlp": 3072, "depth": 6}, "text": {"width": 768, "heads": 12, "ffn": 3072}}'
  for way in tcp nccl; do spec $way "{\"cluster\": {\"collective\": \"$way\"}, $wide}" >/dev/null; done
  began=$SECONDS
  same "2 ranks over tcp" "$(train cuda:0 2 "$work/tcp.json")" $began
  for ranks in 1 2 4; do
    for way in 0 1; do
      began=$SECONDS
      same "$ranks ranks over nccl, overlap $way" "$(MEDLEY_NCCL_OVERLAP=$way train cuda:0 $ranks "$work/nccl.json")" $began
      grep -o 'begun with the last lane.*' "$out.log" | sort | uniq -c | sort -n | tail -n 3
    done
  done
  lose_a_rank
  began=$SECONDS
  same "2 ranks over nccl, after a lost one" "$(go_on cuda:0 2 "$work/nccl.json")" $began
  unset NCCL_MULTI_RANK_GPU_ENABLE NCCL_MAX_CTAS RUST_LOG
  rm -rf "$out"
}

# A rank that stands still in the middle of a step: the other one must give up the exchange that is under way and say so, which it can
# only if the abort has returned.
lose_a_rank() {
  local training lost steps=0 status=0 began=$SECONDS
  rm -rf "$out"
  MEDLEY_DEVICE=cuda:0 "$programs/medley-worker" train --out "$out" --ranks 2 --threads 2 "$work/nccl.json" >/dev/null 2>"$out.log" &
  training=$!
  for _ in $(seq 600); do
    steps=$(cat "$out/metrics.jsonl" 2>/dev/null | wc -l)
    [ "$steps" -ge 12 ] && break
    sleep 0.1
  done
  lost=$(pgrep -P $training | tail -n 1)
  [ -n "$lost" ] && kill -STOP "$lost"
  # Peers are lost after 15 s of silence.
  if ! timeout 60 tail --pid=$training -f /dev/null; then
    echo "a rank that lost its peer hangs"
    status=1
    kill -KILL $training
  elif [ "$steps" -lt 12 ] || grep -q 'does not come back' "$out.log" || ! grep -q '^error: rank [01]: ' "$out.log"; then
    status=1
  fi
  wait $training 2>/dev/null
  kill -KILL "$lost" 2>/dev/null
  printf 'a rank stood still after %s steps; the other one:\n' "$steps"
  tail -n 3 "$out.log"
  record "abort of an exchange under way" $status $((SECONDS - began))
}

# Ranks that share the device lose some of them while they train over NCCL: `medley chaos` compares the bytes with those of a training
# that nothing happened to. What it logs says how often a generation's gradients travelled over NCCL, and how often a rank had to end
# itself since a call did not come back.
part_chaos() {
  local state=/tmp/medley-chaos LD_LIBRARY_PATH=$programs/nccl:$LD_LIBRARY_PATH
  local -x MEDLEY_DEVICE=${MEDLEY_DEVICE:-cuda:0} NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=${NCCL_MAX_CTAS:-8}
  if [ -x "$programs/postgres/bin/initdb" ]; then local -x MEDLEY_PG_BINDIR=$programs/postgres/bin; fi
  try "chaos over nccl" "${CHAOS_LIMIT:-170}" 24 "$programs/medley" chaos --nodes 1 --devices "${RANKS:-4}" --lanes 8 --preset tiny \
    --faults kill-rank,hang-rank --count "${COUNT:-4}" --every 2 --seed 5 --state-dir $state
  local travelled
  travelled=$(cat $state/logs/* $state/logs/*/* 2>/dev/null |
    grep -aoE 'gradients travel over [A-Z]+( after all)?|NCCL does not come back from `[^`]*`' | sort | uniq -c)
  printf '%s\n' "$travelled"
  # The job falls back to TCP where it must, and its bytes are the same then.
  if ! grep -q 'gradients travel over NCCL' <<<"$travelled"; then record "chaos never travelled over nccl" 1 0; fi
}
