#!/bin/sh
# Compares Medley with PyTorch and transformers on this machine: `benches/run.sh PRESET BATCH [OPTIONS OF compare.py]`,
# for example `benches/run.sh tiny 8 --rounds 50` and `benches/run.sh vit-b 4 --rounds 3 --memory`.
# PYTHON is an interpreter with torch and transformers.
set -eu
cd "$(dirname "$0")/.."
medley=$(cargo bench --workspace --bench versus --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*versus-[^"]*\)".*/\1/p')
# PyTorch gets the allocator settings that Medley makes for itself.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647
exec "${PYTHON:-python3}" benches/compare.py "$medley" "$@"
