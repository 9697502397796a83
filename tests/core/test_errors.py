"""How commands speak and end: exit codes, one line each, whatever their standard streams are."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from places import REPOSITORY

from amd_restore.errors import (
    INTERRUPTED,
    NOT_STARTED,
    OK,
    SOME_FAILED,
    AMDRestoreError,
    DeliveryError,
    Parser,
    complain,
    run_command,
    say,
)

SCRIPT = """
import os, signal, sys
from amd_restore.errors import *
from amd_restore.errors import complain, note, run_command, say, write_output

def command():
    {body}

sys.exit(run_command(command))
"""


def run(body: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``body`` as a command by a shell that redirects its streams."""
    line = f'exec "{sys.executable}" -c "$BODY" {redirect}'
    added = {"BODY": SCRIPT.format(body=body), "PYTHONPATH": str(REPOSITORY)} | environment
    return subprocess.run(["sh", "-c", line], env=os.environ | added, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AMDRestoreError("a: broken;\n copy it"), NOT_STARTED, "error: a: broken; copy it\n"),
        (FileNotFoundError(2, "No such file", "b"), NOT_STARTED, "error: [Errno 2] No such file: 'b'\n"),
        (DeliveryError("c: full"), SOME_FAILED, "error: c: full\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted\n"),
    ],
)
def test_exit_codes_and_lines(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    assert run_command(command) == code
    assert capsys.readouterr() == ("", line)


def test_a_command_ends_with_its_own_code_and_shows_tracebacks_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise AMDRestoreError("x")

    assert run_command(lambda: None) == OK and run_command(lambda: 1) == 1
    assert run_command(command, debug=True, name="prog") == NOT_STARTED
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("prog: x\n")
    with pytest.raises(ZeroDivisionError):  # a fault of the program itself keeps its traceback
        run_command(lambda: 1 // 0)


def test_sigterm_is_an_interruption() -> None:
    done = run("os.kill(os.getpid(), signal.SIGTERM)")
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"interrupted\n")
    assert run("print(signal.getsignal(signal.SIGTERM).__name__)").stdout == b"interrupt\n"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interruption_that_native_code_turns_into_an_error(number: str) -> None:
    body = """try:
        os.kill(os.getpid(), signal.{number})
    except KeyboardInterrupt:
        raise {error}("could not determine the shape")"""
    for error in ("ValueError", "AMDRestoreError"):
        done = run(body.format(number=number, error=error))
        assert (done.returncode, done.stderr) == (INTERRUPTED, b"interrupted\n")


def test_the_parser_says_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        Parser(prog="prog").parse_args(["--nothing"])
    assert stopped.value.code == NOT_STARTED
    assert capsys.readouterr().err == "prog: unrecognized arguments: --nothing; see prog --help\n"
    assert Parser().parse_args(["--debug"]).debug


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="streams are redirected by a shell of Unix")
@pytest.mark.parametrize("redirect", [">/dev/full", ">&-", "2>/dev/full", "| true"])
def test_help_is_given_whatever_the_streams_are(redirect: str) -> None:
    done = run("Parser(prog='x').parse_args(['--help'])", redirect, PYTHONUNBUFFERED="")
    assert done.returncode == 0
    assert done.stderr.startswith(b"usage: x") if redirect == ">&-" else done.stderr == b""


def test_the_home_folder_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/mine")
    parser = Parser()
    parser.add_argument_group("files").add_argument("--out", type=Path, default="~/default")
    assert parser.parse_args([]).out == Path("/mine/default")
    assert parser.parse_args(["--out=~/x"]).out == Path("/mine/x")
    assert parser.parse_args(["--out=$x~y"]).out == Path("$x~y")  # variables belong to the shell


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
def test_work_is_done_whatever_the_streams_are(redirect: str, tmp_path: Path) -> None:
    body = f"say('result'); note('advice'); complain('line'); open({str(tmp_path / 'done')!r}, 'x').close()"
    done = run(body, redirect)
    assert done.returncode == 0
    assert (tmp_path / "done").exists()
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr
    if "2>" not in redirect:
        assert done.stderr == b"note: advice\nline\n"


def test_nobody_reads(tmp_path: Path) -> None:
    body = "import time; time.sleep(0.2); [say('x' * 10000) for _ in range(20)]"
    added = {"BODY": SCRIPT.format(body=body), "PYTHONPATH": str(REPOSITORY)}
    line = f'{{ "{sys.executable}" -c "$BODY"; echo "code $?" >&2; }} | true'
    done = subprocess.run(["sh", "-c", line], env=os.environ | added, capture_output=True, check=True)
    assert done.stderr == b"code 0\n"


@pytest.mark.parametrize(("redirect", "reason"), [(">&-", "it is closed"), (">/dev/full", "no space left on device")])
def test_data_that_nobody_gets_is_a_failure(redirect: str, reason: str) -> None:
    for size in (10, 10**6):  # within a buffer, and beyond
        done = run(f"write_output(b'x' * {size})", redirect)
        said = done.stderr.decode()
        assert (done.returncode, said) == (SOME_FAILED, f"error: standard output: cannot be written ({reason})\n")


def test_a_closed_standard_error_is_not_the_next_file(tmp_path: Path) -> None:
    file = tmp_path / "picture"
    done = run(f"f = open({str(file)!r}, 'wb'); os.write(2, b'warning'); f.close()", "2>&-")
    assert done.returncode == 0 and file.read_bytes() == b""


def test_names_that_a_stream_cannot_show(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("say('\\u5199'); complain('\\u5199')", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u5199\n", b"\\u5199\n")
    say("\x1b[31mred \udcff é\ta\nb")
    complain("\x9b1m\u202e  two  blanks")
    assert capsys.readouterr() == ("\\x1b[31mred \\udcff é\ta\nb\n", "\\x9b1m\\u202e  two  blanks\n")


def test_a_missing_package_of_an_extra_is_named_and_a_missing_module_of_ours_is_a_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lack(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    assert run_command(partial(lack, "scipy.ndimage"), extra="train") == NOT_STARTED
    assert capsys.readouterr().err == "error: this needs scipy: pip install 'amd-restore[train]'\n"
    for name, extra in (("scipy", None), ("amd_restore.gone", "train")):
        with pytest.raises(ModuleNotFoundError):
            run_command(partial(lack, name), extra=extra)
