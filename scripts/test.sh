#!/usr/bin/env bash
# All tests, in a throw-away PostgreSQL that ends with them. Arguments go to the test runner.
#
# TEST_DATABASE_URL, if set, names a server that is used instead; every test makes its own database in it.
set -euo pipefail
. "$(dirname "$0")/tools.sh"
use_tools
cd "$root"

# Tests of the whole cluster start the programs, which the test runner alone would not build.
cargo build --locked --release --workspace --bins

if cargo nextest --version >/dev/null 2>&1; then
  runner=(cargo nextest run --locked --release --workspace --no-fail-fast)
else
  say "cargo-nextest is not installed: using cargo test, which shows less and ends no test that hangs"
  runner=(cargo test --locked --release --workspace --no-fail-fast)
fi
use_memory
if [ -n "${TEST_DATABASE_URL:-}" ]; then
  "${runner[@]}" "$@"
  exit
fi
"$target/release/medley-coordinator" with-postgres -- "${runner[@]}" "$@"
