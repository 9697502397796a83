"""The stand-in for the interpreter ends, prints, reads and dies as the interpreter does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_python import warm_python

SCRIPT = "import os, sys; print(sys.argv[1:], __name__, sys.path[0], os.getcwd(), os.environ.get('WORD')); sys.exit(3)"
WAITS = "import time; print('waiting', flush=True); time.sleep(600)"
CASES = {
    "arguments": (["-c", SCRIPT, "a b", "ü"], None),
    "script": (["script.py", "--flag", ""], None),
    "module": (["-m", "script", "x"], None),
    "input": (["-c", "import sys; sys.stdout.write(sys.stdin.read().upper())"], "words"),
    "message": (["-c", "raise SystemExit('no such thing')"], None),
    "error": (["-c", "1 / 0"], None),
    "kill": (["-c", "import os; os.kill(os.getpid(), 9)"], None),
    "interrupt": (["-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"], None),
    "farewell": (["-c", "import atexit; atexit.register(print, 'last')"], None),
    "thread": (["-c", "import threading, time; threading.Timer(0.1, print, ['late']).start()"], None),
    "closed": (["-c", "import os; os.close(1); os._exit(5)"], None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_process_does(name: str, tmp_path: Path) -> None:
    arguments, given = CASES[name]
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "WORD": "ü",
        "PYTHONUTF8": "1",
    }
    expected, found = (
        subprocess.run(
            [python, *arguments], input=given, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
        )
        for python in (sys.executable, warm_python())
    )
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
    assert found.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_reach_the_process(number: signal.Signals) -> None:
    process = subprocess.Popen([warm_python(), "-c", WAITS], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    process.communicate(timeout=60)  # until the end of the stream, which the process that waits holds open
    assert process.returncode == -number


@pytest.mark.parametrize("milliseconds", [30, 50, 80])
def test_a_signal_before_the_process_runs_ends_it_too(milliseconds: int) -> None:
    process = subprocess.Popen([warm_python(), "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
