#!/usr/bin/env bash
# Everything that must pass before a change is merged: lint, format, types, tests, and those of the page in web/.
# Arguments go to pytest.
# Uses .venv when there is one; PYTHON=... chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .

# Before the tests in Python, of which some open the built page in a browser.
if command -v npm >/dev/null; then
    page_python="$PYTHON"
    case "$PYTHON" in /*) ;; */*) page_python="$PWD/$PYTHON" ;; esac
    (cd web && npm ci --no-fund --no-audit && PYTHON="$page_python" npm run build && npm test)
elif [ "${CI:-}" = true ]; then
    echo "npm is missing, which the tests of web/ need: install Node.js 20 or later" >&2
    exit 1
else
    echo "npm is missing: the tests of web/ are left out"
fi

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
