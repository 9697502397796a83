"""An object store for the tests, as a package of fsspec: a folder behind URLs, shared by processes, with faults.

``flaky`` in the name of an object makes its first transfers fail, ``poison`` ends the process that reads it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from places import REPOSITORY

PROTOCOL = "teststore"
ROOT, FAULTS = "TESTSTORE_ROOT", "TESTSTORE_FAULTS"  # environment: the folder; how many transfers of an object fail


class ObjectStore(AbstractFileSystem):
    """Objects are files below ``ROOT``; ``puts.log`` there has a line for each that was put."""

    protocol = PROTOCOL
    cachable = False

    @property
    def root(self) -> Path:
        return Path(os.environ[ROOT])

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        place = self.root / self._strip_protocol(path)
        if place.is_file():
            return [self.info(path)] if detail else [path]
        if not place.is_dir():
            raise FileNotFoundError(path)
        names = sorted(entry.relative_to(self.root).as_posix() for entry in place.iterdir())
        return [self.info(name) for name in names] if detail else names

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        place = self.root / name
        if not place.exists():
            raise FileNotFoundError(path)
        return {"name": name, "size": place.stat().st_size, "type": "directory" if place.is_dir() else "file"}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        (self.root / self._strip_protocol(path)).mkdir(parents=True, exist_ok=exist_ok)

    def get_file(self, rpath: str, lpath: Any = None, **options: Any) -> None:
        if "poison" in rpath:
            os.kill(os.getpid(), signal.SIGKILL)
        self._fault(rpath)
        if not (self.root / rpath).is_file():
            raise FileNotFoundError(rpath)
        shutil.copyfile(self.root / rpath, lpath)

    def put_file(self, lpath: Any, rpath: str, *arguments: Any, **options: Any) -> None:
        self._fault(rpath)
        shutil.copyfile(lpath, self.root / rpath)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        os.replace(self.root / path1, self.root / path2)
        with open(self.root / "puts.log", "a") as log:
            log.write(path2 + "\n")

    def rm_file(self, path: str) -> None:
        (self.root / self._strip_protocol(path)).unlink()

    def _fault(self, name: str) -> None:
        if "flaky" not in name:
            return
        with open(self.root / "faults.log", "a+") as log:
            log.seek(0)
            if sum(line.strip() == "fault" for line in log) < int(os.environ.get(FAULTS, "0")):
                log.write("fault\n")
                raise ConnectionResetError("the connection was reset")


@contextmanager
def installed(folder: Path, root: Path) -> Iterator[dict[str, str]]:
    """The store in this process, and the environment in which others have it, as if its package were installed."""
    package = folder / "object_store-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: object-store\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[fsspec.specs]\n{PROTOCOL} = object_store:ObjectStore\n")
    root.mkdir(parents=True, exist_ok=True)
    fsspec.register_implementation(PROTOCOL, ObjectStore, clobber=True)
    paths = [str(folder), str(Path(__file__).parent), str(REPOSITORY)]
    before = {name: os.environ.get(name) for name in (ROOT, FAULTS, "PYTHONPATH")}
    added = {ROOT: str(root), FAULTS: "2", "PYTHONPATH": os.pathsep.join(paths)}
    os.environ.update(added)
    try:
        yield added
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
