"""Rows without results: missing weights or folders, which are reported without an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amd_restore.benchmark.images import TestSet
from amd_restore.benchmark.methods import Folder, Method, Missing
from amd_restore.image_io import SUFFIXES

NOTE = "absent.txt"  # next to or instead of a data set's results: the reason why there are none


@dataclass(frozen=True)
class Absent:
    """Method without results on a data set, with the reason."""

    method: str
    dataset: str
    reason: str


def find_absent(methods: Sequence[Method], test_sets: Sequence[TestSet]) -> list[Absent]:
    """Return pairs of a method and a test set without results, because weights or a folder are missing.

    A folder without single images is still an error.
    """
    found = []
    for method in methods:
        if isinstance(method, Missing):
            found += [Absent(method.name, test_set.name, method.reason) for test_set in test_sets]
        elif isinstance(method, Folder):
            reasons = ((test_set.name, _reason(method, test_set.name)) for test_set in test_sets)
            found += [Absent(method.name, dataset, reason) for dataset, reason in reasons if reason]
    return found


def _reason(method: Folder, dataset: str) -> str | None:
    folder = method.path / dataset
    if (folder / NOTE).is_file():
        return " ".join((folder / NOTE).read_text(encoding="utf-8").split()) or "no reason given"
    place = "/".join(method.path.parts[-2:])  # Published tables must not contain paths of one machine.
    if not method.path.is_dir():
        return f"no folder of results {place}"
    flat = any(path.suffix.lower() in SUFFIXES for path in method.path.iterdir())
    return None if folder.is_dir() or flat else f"no results on {dataset} in {place}"
