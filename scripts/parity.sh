#!/usr/bin/env bash
# Medley against PyTorch: makes the goldens again, compares them with the checked-in ones, and runs the tests on them.
#
# PyTorch comes from PyPI into a virtual environment of its own (several gigabytes: its wheel for Linux carries CUDA, which is
# not used). PYTHON names an interpreter that has the packages of model/tests/golden/requirements.txt already.
set -euo pipefail
. "$(dirname "$0")/tools.sh"
use_tools
cd "$root"
golden=model/tests/golden
work=$fetched/parity
export PYTHONDONTWRITEBYTECODE=1

if [ -z "${PYTHON:-}" ]; then
  PYTHON=$work/venv/bin/python
  if ! cmp -s "$golden/requirements.txt" "$work/venv/installed.txt"; then
    python3 -m venv --clear "$work/venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$golden/requirements.txt"
    cp "$golden/requirements.txt" "$work/venv/installed.txt"
  fi
fi
export PYTHON

# stage NAME: begins a stage, and says how long the one before took.
began=
stage() {
  if [ -n "$began" ]; then echo "   $((SECONDS - began)) s"; fi
  began=$SECONDS
  echo "== $1"
}

stage "the PyTorch model against transformers"
"$PYTHON" "$golden/check_towers.py"

stage "goldens"
rm -rf "$work/goldens"
"$PYTHON" "$golden/make_goldens.py" "$work/goldens" --full
"$PYTHON" "$golden/compare.py" "$work/goldens" "$golden"

stage "captions of transformers"
mkdir "$work/goldens/captions"
"$PYTHON" model/tests/golden_generate/make.py "$work/goldens/captions/embeds" "$work/goldens/captions"
cmp "$work/goldens/captions/later.json" model/tests/golden_generate/later.json

stage "Medley against the goldens"
cargo nextest run --locked --release -p medley-model --test golden --test generate_golden --run-ignored all
cargo nextest run --locked --release -p medley-worker --test replay

stage "weights through PyTorch and transformers, and back"
scripts/roundtrip.sh
stage "Medley agrees with PyTorch"
