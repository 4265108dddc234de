#!/usr/bin/env bash
# Makes .venv ready from the locks.
#   setup.sh runtime   what serving and training need
#   setup.sh dev       the same, with everything that tests and checks need (default)
# PYTHON=... chooses the interpreter; TORCH_INDEX=... names a package index with the build of torch
# to take (CPU or a CUDA version), else it comes from where everything comes from.
# A stamp keyed on the locks makes a second run instant.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly kind=${1:-dev}
readonly torch=torch==2.13.0
case $kind in
  runtime | dev) ;;
  *)
    echo "setup: unknown kind '$kind'; choose runtime or dev" >&2
    exit 2
    ;;
esac

say() { echo "setup: $*"; }

stamp_of() { cat "requirements/$1.lock" pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1; }

is_ready() { [ -x .venv/bin/python ] && [ "$(cat ".venv/.ready-$1" 2> /dev/null)" = "$(stamp_of "$1")" ]; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "setup: no python >= 3.11 with venv and ensurepip found; name one with PYTHON=..." >&2
  return 1
}

pip_install() { .venv/bin/python -m pip install --disable-pip-version-check --quiet "$@"; }

# The lock leaves torch out, since its builds (CPU, CUDA) differ in hash and in what they pull in.
install_torch() {
  if .venv/bin/python -c "from importlib.metadata import version as v
raise SystemExit('torch==' + v('torch').partition('+')[0] != '$torch')" 2> /dev/null; then
    say "$torch is there"
  else
    say "installing $torch"
    PIP_INDEX_URL=${TORCH_INDEX:-${PIP_INDEX_URL:-}} pip_install "$torch"
  fi
}

# Installs a package whose command (or file) is missing where root and apt allow; tests do without
# it otherwise.
system_package() {
  local package=$1 made=$2 without=$3
  if command -v "$made" > /dev/null || [ -e "$made" ]; then
    return
  elif [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    say "no $package, and no root or no apt-get to install it: $without"
    return
  fi
  say "installing the system package $package"
  # RUNLEVEL keeps the package from starting a server of its own.
  { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$package"; } > /dev/null 2>&1 ||
    say "$package could not be installed: $without"
}

if is_ready "$kind" || is_ready dev; then
  exit 0
fi
python=$(find_python)
if ! .venv/bin/python -c '' 2> /dev/null; then
  say "creating .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
install_torch
# After torch: without --no-deps pip would report what packages of weights say about old versions.
say "installing requirements/$kind.lock (some minutes the first time)"
pip_install --require-hashes --no-deps -r "requirements/$kind.lock"
say "installing this project"
# A second --quiet: setuptools warns at length about editable installs as such.
pip_install --quiet --no-deps --no-build-isolation --editable .
if [ "$kind" = dev ]; then
  system_package chromium chromium "tests of the page in a browser will be skipped"
  system_package redis-server redis-server "tests of the queue run on Valkey alone"
  system_package nginx-light /usr/sbin/nginx "tests behind nginx will be skipped"
  system_package haproxy /usr/sbin/haproxy "tests behind haproxy will be skipped"
  system_package iproute2 ip "tests of cut networks will be skipped"
  system_package prometheus promtool "tests of alerting rules will be skipped"
  system_package curl curl "the test with curl will be skipped"
  system_package nodejs node "the test with Node will be skipped"
  system_package node-ws /usr/share/nodejs/ws "the test with Node will be skipped"
fi
stamp_of "$kind" > ".venv/.ready-$kind"
say "done ($kind)"
