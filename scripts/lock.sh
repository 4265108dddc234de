#!/usr/bin/env bash
# Writes the three locks from pyproject.toml: every file hashed, no index address in any of them.
# The larger one comes first and holds the versions of the smaller ones.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  local output=$1
  shift
  echo "lock: requirements/$output"
  ${UV:-.venv/bin/uv} pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-package torch --custom-compile-command "make lock" --quiet \
    --output-file "requirements/$output" "$@" > /dev/null
}

compile dev.lock --all-extras
compile runtime.lock --extra worker --extra build --constraint requirements/dev.lock
compile api.lock --extra build --constraint requirements/dev.lock
