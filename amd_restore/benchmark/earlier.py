"""Rows of an earlier report that stay (``--keep``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amd_restore.benchmark.evaluate import Result
from amd_restore.benchmark.images import TestSet
from amd_restore.benchmark.methods import Method
from amd_restore.benchmark.options import BenchmarkOptions
from amd_restore.errors import AMDRestoreError

WHEN = ("date", "commit", "machine")
PROTOCOL = ("seeds", "crop_border", "dtype")
OF_A_ROW = ("type", "dtype", "guidance_scale")


class EarlierReport:
    """Report that a benchmark wrote before, ``NAME.json``.

    Args:
        folder: folder of the report.
        options: benchmark.

    Raises:
        AMDRestoreError: there is none, or it cannot be read.
    """

    def __init__(self, folder: Path, options: BenchmarkOptions) -> None:
        self.options, file = options, folder / f"{options.name}.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            self.protocol: dict[str, Any] = content["protocol"]
            self._before: dict[str, Any] = content.get("options", {})
            self._rows = {(entry["method"], entry["dataset"]): entry for entry in content["results"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AMDRestoreError(f"{file}: no report with rows to keep ({error}); leave out --keep") from error

    def find(self, method: Method, test_set: TestSet) -> Result | None:
        """Return the row, or None if its weights, the data set's files, the metrics or the protocol were others.

        Its seconds are NaN: they are those of another run, perhaps on another machine.
        """
        entry, weights = self._rows.get((method.name, test_set.name)), method.describe()
        same_weights = {name: self.protocol["weights"].get(name) for name in weights} == weights
        same_files = self.protocol["test_sets"].get(test_set.name) == test_set.fingerprint()
        is_same = self._same_protocol(method) and same_weights and same_files
        if entry is None or not (is_same and {*self.options.metrics} <= {*entry["values"]}):
            return None
        values = {metric: np.array(entry["values"][metric], dtype=np.float64) for metric in self.options.metrics}
        seconds = np.full(values[self.options.metrics[0]].shape, np.nan)
        return Result(method, test_set.name, tuple(entry["images"]), values, seconds)

    def _same_protocol(self, method: Method) -> bool:
        if any(self._before.get(key) != getattr(self.options, key) for key in PROTOCOL):
            return False
        before = next((one for one in self._before.get("methods", []) if one["name"] == method.family), None)
        now = next((one for one in self.options.methods if one.name == method.family), None)
        if before is None or now is None:
            return before is now
        return all(before.get(key) == getattr(now, key) for key in OF_A_ROW)

    def origins(self, kept: Sequence[Result]) -> list[dict[str, Any]]:
        """Return for the protocol when, where and with which commit these rows were measured."""
        found: list[dict[str, Any]] = []
        before = self.protocol.get("kept", [])
        for result in kept:
            row = f"{result.method.name}: {result.dataset}"
            source = next((one for one in before if row in one["rows"]), self.protocol)
            when = {key: source[key] for key in WHEN}
            same = [one for one in found if all(one[key] == when[key] for key in WHEN)]
            if same:
                same[0]["rows"].append(row)
            else:
                found.append({**when, "rows": [row]})
        return found
