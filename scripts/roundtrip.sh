#!/usr/bin/env bash
# Weights go out to PyTorch and transformers and come back: makes the files of weights that the tests read anew, and loads
# what Medley exports. PYTHON names an interpreter that has the packages of model/tests/golden/requirements.txt; without it,
# one is made in target/parity/venv (some gigabytes).
set -euo pipefail
. "$(dirname "$0")/tools.sh"
use_tools
cd "$root"

venv=$target/parity/venv
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$venv/bin/python
  [ -x "$PYTHON" ] || python3 -m venv "$venv"
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r model/tests/golden/requirements.txt
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" model/tests/weights/make.py "$work/files" model/tests/weights/files
mkdir "$work/exports"
MEDLEY_ROUNDTRIP=$work/exports cargo test --locked --release -p medley-model --test weights
"$PYTHON" model/tests/golden/roundtrip.py "$work/exports"
