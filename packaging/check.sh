#!/bin/sh
# All checks, each with its time; the tests last, so that their closing line is the last.
set -eu
bin=.venv/bin
step() {
    started=$(date +%s)
    echo "== $*"
    "$@"
    echo "   $(($(date +%s) - started)) s"
}
step $bin/ruff format --check -q .
step $bin/ruff check -q .
step $bin/mypy
step $bin/lint-imports
[ "${1:-}" = lint ] && exit 0
exec $bin/python -m pytest -n 2 -q
