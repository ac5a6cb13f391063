#!/bin/sh
# Time and peak memory of a training step, with activations kept and with activations computed again, each in a process of its
# own: `benches/recompute.sh [PRESET] [BATCH] [THREADS]`, without words ViT-L, 2 samples, one thread: 4 minutes, 10 GiB.
set -eu
cd "$(dirname "$0")/.."
step=$(cargo bench --workspace --bench step --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*\/step-[^"]*\)".*/\1/p')
"$step" "${1:-vit-l}" "${2:-2}" "${3:-1}"
"$step" "${1:-vit-l}" "${2:-2}" "${3:-1}" recompute
