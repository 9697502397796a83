"""Files appear whole or not at all; what a killed process left is cleared, what a living one writes is not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amd_restore import atomic
from amd_restore.atomic import open_atomically, remove_stale, write_atomically
from amd_restore.errors import AMDRestoreError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftover(folder: Path, process: int, host: str = atomic._host()) -> Path:
    path = folder / f".amd-restore-{host}-{process}-0123456789abcdef.part"
    path.write_bytes(b"half")
    return path


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / ("n" * 250)  # the longest name that file systems take
    write_atomically(target, b"first")
    with pytest.raises(ZeroDivisionError), open_atomically(target) as file:
        file.write(b"second, half")
        assert len(names(target.parent)) == 2
        raise ZeroDivisionError
    assert target.read_bytes() == b"first"
    assert names(target.parent) == [target.name]


def test_an_ordinary_file_mode(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(AMDRestoreError, match="it is a folder"):
        write_atomically(tmp_path, b"")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot ask whether a process lives")
def test_leftovers_of_the_dead_only(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover(tmp_path, dead.pid)
    living = leftover(tmp_path, os.getppid())
    foreign = leftover(tmp_path, dead.pid, host="00000000")
    own_name = tmp_path / ".amd-restore.part"
    own_name.touch()
    assert remove_stale(tmp_path) == 1
    assert names(tmp_path) == sorted([living.name, foreign.name, own_name.name])
    os.utime(foreign, (time.time() - 2 * 86400,) * 2)
    assert remove_stale(tmp_path) == 1
    assert foreign.name not in names(tmp_path)


def test_the_number_of_the_last_run_is_used_again(tmp_path: Path) -> None:
    # Usual in containers: the killed process had our own number.
    leftover(tmp_path, os.getpid())
    with open_atomically(tmp_path / "now") as file:
        file.write(b"whole")
        assert remove_stale(tmp_path) == 1
    assert names(tmp_path) == ["now"]
    assert remove_stale(tmp_path / "nowhere") == 0
