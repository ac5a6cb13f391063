#!/usr/bin/env bash
# Medley against PyTorch: makes the goldens again, compares them with the checked-in ones, and runs the tests on them.
#
# PyTorch comes from PyPI into a virtual environment of its own (several gigabytes: its wheel for Linux carries CUDA, which is
# not used). PARITY_PYTHON names an interpreter that has the packages of model/tests/golden/requirements.txt already.
set -euo pipefail
cd "$(dirname "$0")/.."
golden=model/tests/golden
work=${CARGO_TARGET_DIR:-target}/parity
export PYTHONDONTWRITEBYTECODE=1

python=${PARITY_PYTHON:-}
if [ -z "$python" ]; then
  python=$work/venv/bin/python
  if ! cmp -s "$golden/requirements.txt" "$work/venv/installed.txt"; then
    python3 -m venv --clear "$work/venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$golden/requirements.txt"
    cp "$golden/requirements.txt" "$work/venv/installed.txt"
  fi
fi

echo "== the PyTorch model against transformers"
"$python" "$golden/check_towers.py"

# Round trips of weights through transformers belong here.
if [ -f "$golden/roundtrip.py" ]; then
  echo "== round trips through transformers"
  "$python" "$golden/roundtrip.py"
fi

echo "== goldens"
rm -rf "$work/goldens"
"$python" "$golden/make_goldens.py" "$work/goldens" --full
"$python" "$golden/compare.py" "$work/goldens" "$golden"

echo "== Medley against the goldens"
. scripts/tools.sh && use_tools
cargo nextest run --locked --release -p medley-model --test golden --run-ignored all
cargo nextest run --locked --release -p medley-worker --test replay
