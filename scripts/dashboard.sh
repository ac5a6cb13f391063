#!/usr/bin/env bash
# The dashboard's packages, build and checks, each done only when its sources have changed.
#
#   scripts/dashboard.sh build       dashboard/dist, which the coordinator embeds
#   scripts/dashboard.sh packages DIR    npm ci in DIR, when its lock file has changed
#   scripts/dashboard.sh check       types, lint and unit tests
set -euo pipefail
. "$(dirname "$0")/tools.sh"
use_tools

# fingerprint DIR: names the content of DIR's sources and the Node.js that builds them.
fingerprint() {
  {
    node --version
    find "$1" \( -name node_modules -o -name dist \) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c 1-64
}

packages() {
  local dir=$1 stamp=$1/node_modules/.medley-packages wanted
  wanted=$({ node --version && cat "$dir/package-lock.json"; } | sha256sum | cut -c 1-64)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
  say "installing the packages of ${dir#"$root"/}"
  (cd "$dir" && deadline 600 npm ci --no-audit --no-fund --loglevel=error >/dev/null)
  printf '%s\n' "$wanted" >"$stamp"
}

build() {
  local stamp=$fetched/dashboard.stamp wanted
  wanted=$(fingerprint "$root/dashboard")
  if [ -f "$root/dashboard/dist/index.html" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return 0; fi
  packages "$root/dashboard"
  say "building the dashboard"
  (cd "$root/dashboard" && deadline 600 npm run --silent build >&2)
  mkdir -p "$fetched"
  printf '%s\n' "$wanted" >"$stamp"
}

check() {
  packages "$root/dashboard"
  cd "$root/dashboard" && deadline 600 npm run check
}

case ${1:-} in
  build) build ;;
  packages) packages "$(cd "${2:?name the folder}" && pwd)" ;;
  check) check ;;
  *) die "say what to do: build, packages DIR or check" ;;
esac
