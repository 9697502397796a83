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
"$PYTHON" -m mypy
"$PYTHON" -m pytest "$@"
