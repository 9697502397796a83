#!/usr/bin/env bash
# Everything that must pass before a change is merged: lint, format, types, tests. Arguments go to pytest.
# Uses .venv when there is one; PYTHON=... chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .

# Types are checked beside the tests; what mypy has to say follows in one piece.
mypy_says="$(mktemp)"
"$PYTHON" -m mypy >"$mypy_says" 2>&1 &
mypy=$!
trap 'kill "$mypy" 2>/dev/null || true; rm -f "$mypy_says"' EXIT
failed=""
"$PYTHON" -m pytest -n auto --dist worksteal "$@" || failed="tests"
wait "$mypy" || failed="${failed:+$failed, }types"
echo "mypy:"
cat "$mypy_says"
if [ -n "$failed" ]; then
    echo "failed: $failed" >&2
    exit 1
fi
