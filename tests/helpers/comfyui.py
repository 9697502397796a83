"""ComfyUI as far as nodes see it: its modules, the checks of a workflow's inputs, and the execution.

The rules are those of ComfyUI's ``execution.py`` (``validate_inputs``), October 2025: a
workflow is ``{id: {"class_type", "inputs"}}``, a link ``[id, index of the output]``, and every method runs in
``torch.inference_mode``.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

WIDGETS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
Workflow = Mapping[str, Mapping[str, Any]]


class StoppedError(Exception):
    """What ComfyUI raises where its button to stop was pressed."""


class Host:
    """The modules that ComfyUI offers to nodes, in ``sys.modules``.

    Attributes:
        bars: (value, total) of each call of a progress bar.
        stops: whether the button to stop is pressed.
    """

    def __init__(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models, self.bars, self.stops = models, list[tuple[int, int]](), False
        self.folders: dict[str, list[str]] = {}
        host = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None) -> None:
                host.bars.append((value, total or self.total))

        modules: dict[str, dict[str, Any]] = {
            "folder_paths": {
                "models_dir": str(models),
                "add_model_folder_path": lambda name, path: self.folders.setdefault(name, []).append(path),
                "get_filename_list": self.files,
                "get_full_path_or_raise": self.full_path,
            },
            "comfy": {},
            "comfy.model_management": {
                "get_torch_device": lambda: torch.device("cpu"),
                "throw_exception_if_processing_interrupted": self.heed_stop,
            },
            "comfy.utils": {"ProgressBar": ProgressBar},
        }
        for name, content in modules.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)

    def files(self, folder: str) -> list[str]:
        paths = [Path(path) for path in self.folders[folder]]
        return sorted(str(file.relative_to(path)) for path in paths for file in path.rglob("*") if file.is_file())

    def full_path(self, folder: str, name: str) -> str:
        found = [str(Path(path) / name) for path in self.folders[folder] if (Path(path) / name).is_file()]
        if not found:
            raise FileNotFoundError(f"Model in folder '{folder}' with filename '{name}' not found.")
        return found[0]

    def heed_stop(self) -> None:
        if self.stops:
            raise StoppedError


def problems(workflow: Workflow, nodes: Mapping[str, Any]) -> list[str]:
    """What ComfyUI has against a workflow, as ``type: input``; values are converted in place as it does."""
    found = []
    for node in workflow.values():
        declared = nodes[node["class_type"]].INPUT_TYPES()
        inputs, required = node["inputs"], declared.get("required", {})
        for name, (kind, *rest) in {**required, **declared.get("optional", {})}.items():
            extra: Mapping[str, Any] = rest[0] if rest else {}
            if name not in inputs:
                found += [f"required_input_missing: {name}"] if name in required else []
                continue
            value = inputs[name]
            if isinstance(value, list):
                source, index = value
                received = nodes[workflow[source]["class_type"]].RETURN_TYPES[index]
                found += [] if received == kind else [f"return_type_mismatch: {name}"]
                continue
            try:
                value = inputs[name] = WIDGETS.get(kind, lambda given: given)(value) if isinstance(kind, str) else value
            except (TypeError, ValueError):
                found.append(f"invalid_input_type: {name}")
                continue
            if "min" in extra and value < extra["min"]:
                found.append(f"value_smaller_than_min: {name}")
            elif "max" in extra and value > extra["max"]:
                found.append(f"value_bigger_than_max: {name}")
            elif isinstance(kind, list) and value not in kind:
                found.append(f"value_not_in_list: {name}")
    return found


def execute(workflow: Workflow, nodes: Mapping[str, Any], wanted: str) -> tuple[Any, ...]:
    """The outputs of node ``wanted``; each node that it needs runs once.

    Raises:
        AssertionError: the workflow is not valid, or a node breaks the contract of its outputs.
    """
    assert not problems(workflow, nodes)
    done: dict[str, tuple[Any, ...]] = {}

    def run(name: str) -> tuple[Any, ...]:
        if name not in done:
            node = workflow[name]
            cls = nodes[node["class_type"]]
            given = {
                key: run(value[0])[value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            }
            with torch.inference_mode():
                outputs = getattr(cls(), cls.FUNCTION)(**given)
            assert isinstance(outputs, tuple) and len(outputs) == len(cls.RETURN_TYPES)
            done[name] = outputs
        return done[name]

    outputs = run(wanted)
    for kind, output in zip(nodes[workflow[wanted]["class_type"]].RETURN_TYPES, outputs, strict=True):
        check_output(kind, output)
    return outputs


def check_output(kind: str, output: Any) -> None:
    """IMAGE is float32 (B, H, W, C), MASK float32 (B, H, W), both in [0, 1] on the CPU."""
    axes = {"IMAGE": 4, "MASK": 3}.get(kind)
    if axes:
        assert isinstance(output, torch.Tensor) and output.ndim == axes
        assert output.dtype == torch.float32 and output.device.type == "cpu"
        assert output.min() >= 0 and output.max() <= 1
