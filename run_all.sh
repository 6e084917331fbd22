#!/usr/bin/env bash
# Usage: ./run_all.sh [--profile quick|cpu|gpu|paper] [options] [S1.T3 20_ablation ...]
#          set up, make the data, run everything, or these tables and notebooks alone, and print what came of it
#          --dry-run  the plan alone     --jobs N  runs at a time     --data ROOT  where the data sets lie, as VTLIB_DATA
#          --cluster slurm  the same on a cluster; options of Snakemake follow behind --
#        ./run_all.sh setup                    make or update .venv from requirements.lock
#        ./run_all.sh gate                     set up, ruff and the tests that train nothing: under a minute
#        ./run_all.sh test [pytest options]    set up and pass the tests
#        ./run_all.sh --help
# Needs Python 3.11 or newer; PYTHON=... names another interpreter, VTLIB_DATA and VTLIB_RESULTS move data/ and results/.
# What is finished is never made again: stop it at any time and call it once more.
set -euo pipefail
cd "$(dirname "$0")"
# .venv is all that is meant: modules of another Python, as a cluster's `module load` names them, would be taken for ours
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS PYTHONOPTIMIZE PIP_USER PIP_TARGET PIP_PREFIX

setup() {
  local want
  want=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
  [ "$(cat .venv/.lock 2>/dev/null || true)" = "$want" ] && return
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: PYTHON=... names it")'
  echo "setting up .venv (about 6 GB with the CUDA libraries of torch) ..."
  [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
  # uv takes half a minute where pip takes three; it does not read pip's settings, so pip stays the way out. Every run is a
  # process of its own: without bytecode, which a container often does not write, each compiles torch again, for 7 s
  { .venv/bin/python -m pip install -q --disable-pip-version-check uv &&
    UV_HTTP_TIMEOUT=180 .venv/bin/uv pip install -q --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.lock; } ||
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
  echo "$want" > .venv/.lock
}

case "${1:-}" in
  -h | --help) sed -n '2,11s/^# //p' "$0" ;;
  setup) setup ;;
  gate | test)
    setup
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    [ "$1" = test ] || set -- gate -m "not slow" -n auto "${@:2}"
    .venv/bin/python -m pytest "${@:2}"
    ;;
  "" | --* | S[12].* | X.* | [0-9]*_*)
    setup
    exec .venv/bin/python -m vtlib.launch all "$@"
    ;;
  *)
    echo "run_all.sh: unknown command '$1': choose setup, gate, test, --profile NAME or --help" >&2
    exit 2
    ;;
esac
