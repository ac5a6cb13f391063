#!/usr/bin/env bash
# Everything that must be green before a change lands, in one list for people and for CI.
#
#   scripts/check.sh             all steps, up to the first that fails
#   scripts/check.sh STEP...     these steps only
set -euo pipefail
. "$(dirname "$0")/tools.sh"

# name:seconds it may take. An hour for all together is the aim, on two cores and with nothing compiled before; `budget`
# leaves room beyond it, so that a slow machine does not lose a change by a minute.
steps=(
  install:1500 scripts:60 format:120 clippy:2400 docs:1200 cuda:1500 tests:3000 simulation:420 licences:300 dashboard:300 machines:900 browser:240
)
budget=4500
# Exit status of a step that cannot be done on this machine.
skipped=77

# Each step is a function `step_NAME`; its first failing command ends it.

step_install() { "$root/scripts/install.sh" --browser; }

step_scripts() {
  local file scripts=()
  while IFS= read -r file; do scripts+=("$file"); done < <(git ls-files '*.sh' .ci/run)
  for file in "${scripts[@]}"; do bash -n "$file"; done
  if ! command -v shellcheck >/dev/null; then
    say "shellcheck is not installed: only the syntax was checked"
    return 0
  fi
  shellcheck -x -P SCRIPTDIR "${scripts[@]}"
}

step_format() { cargo fmt --all --check; }

step_clippy() { cargo clippy --locked --release --workspace --all-targets -- -D warnings; }

step_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps; }

# Code for GPUs is compiled and linted, and tested as far as that takes none; the rest runs where there is one
# (benches/gpu/run.sh).
step_cuda() {
  if ! "$root/scripts/install.sh" --cuda; then
    say "without a CUDA compiler the code for GPUs was not checked"
    return $skipped
  fi
  use_tools
  cargo clippy --locked --release --workspace --features medley-worker/cuda --all-targets -- -D warnings
  cargo test --locked --release --workspace --features medley-worker/cuda --lib -- cuda:: nccl:: doctor:: gpu::
}

# The demo is one of the tests: the whole product once, small.
step_tests() { "$root/scripts/test.sh"; }

# Ten thousand fault schedules against the pure decisions. One that breaks a rule is printed with how to play it again.
step_simulation() { cargo run --locked --release -p medley-tests --example simulation -- 0..10000; }

step_licences() {
  if ! cargo deny --version >/dev/null 2>&1; then
    say "cargo-deny is not installed: the licences and sources of the dependencies were not checked"
    say "(cargo install --locked cargo-deny)"
    return $skipped
  fi
  cargo deny --locked check bans licenses sources
}

step_dashboard() { "$root/scripts/dashboard.sh" check; }

# A job over two machines that share nothing but a cable and a file system, and what a network can do to a training.
step_machines() {
  cargo build --locked --release --workspace --bins
  use_memory
  "$root/tests/deploy/two-machines.sh"
  cargo test --locked --release --workspace --test whole network:: -- --ignored --test-threads=1
}

step_browser() {
  local chromium
  if ! chromium=$(find_chromium); then
    say "no chromium: the dashboard was not opened in a browser (Debian: apt-get install chromium)"
    return $skipped
  fi
  "$root/scripts/dashboard.sh" packages "$root/tests/browser"
  CHROMIUM=$chromium node "$root/tests/browser/smoke.mjs" --out "$fetched/browser"
}

# The list around the steps.

run_one() {
  use_tools
  cd "$root"
  "step_$1"
}

print_times() {
  local row
  printf '\n%-10s %8s  %s\n' step seconds result
  for row in "${rows[@]}"; do
    # shellcheck disable=SC2086 # a row is three words
    printf '%-10s %8s  %s\n' $row
  done
  printf '%-10s %8s\n\n' total "$SECONDS"
}

run_list() {
  local entry name limit began status result
  rows=()
  for entry in "$@"; do
    name=${entry%:*} limit=${entry#*:} began=$SECONDS status=0
    if [ "$limit" -gt $((budget - SECONDS)) ]; then limit=$((budget - SECONDS)); fi
    printf '\n== %s\n' "$name"
    if [ "$limit" -le 0 ]; then
      status=124
    else
      deadline "$limit" "${BASH_SOURCE[0]}" --one "$name" || status=$?
    fi
    case $status in
      0) result=passed ;;
      "$skipped") result=skipped ;;
      124 | 137) result=too-long ;;
      *) result=failed ;;
    esac
    rows+=("$name $((SECONDS - began)) $result")
    if [ $result != passed ] && [ $result != skipped ]; then
      print_times
      if [ $result = too-long ]; then die "$name did not end within $limit s"; fi
      die "$name failed"
    fi
  done
  print_times
}

if [ "${1:-}" = --one ]; then
  run_one "$2"
  exit
fi
wanted=()
for name in "$@"; do
  for entry in "${steps[@]}"; do
    if [ "${entry%:*}" = "$name" ]; then wanted+=("$entry") && continue 2; fi
  done
  die "unknown step $name: use some of ${steps[*]%:*}"
done
if [ $# = 0 ]; then wanted=("${steps[@]}"); fi
run_list "${wanted[@]}"
