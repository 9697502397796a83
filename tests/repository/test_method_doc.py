"""docs/method.md and docs/experiments.md cite functions, options and logged quantities; all of them exist."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from typing import Any

import pytest
from places import REPOSITORY

from amd_restore.options.blocks import DistillOptions

TEXT = "".join((REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in ("method.md", "experiments.md"))
PACKAGES = ("archs", "benchmark", "diffusion", "losses", "models", "rewards")
CODE = re.findall(r"`([^`\n]+)`", TEXT)
CITED = sorted({code for code in CODE if re.match(rf"({'|'.join(PACKAGES)})\.", code)})
OPTIONS = sorted({name for code in CODE for name in re.findall(r"distill\.(\w+)", code)})
KEYS = sorted({code for code in CODE if re.fullmatch(r"(amd|reward)/\w+", code)})


def resolve(dotted: str) -> Any:
    """Object named relative to the package: modules as far as they go, then attributes."""
    parts = dotted.split(".")
    found: Any = importlib.import_module(f"amd_restore.{parts[0]}")
    for index, part in enumerate(parts[1:], 2):
        if inspect.ismodule(found) and not hasattr(found, part):
            found = importlib.import_module(f"amd_restore.{'.'.join(parts[:index])}")
        elif inspect.isclass(found) and part in found.__annotations__:
            found = found.__annotations__[part]
        else:
            found = getattr(found, part)
    return found


def test_the_document_cites_much() -> None:
    assert len(CITED) > 40 and len(OPTIONS) > 15 and len(KEYS) > 15


@pytest.mark.parametrize("code", CITED)
def test_function_exists_with_the_cited_arguments(code: str) -> None:
    match = re.fullmatch(r"([\w.]+)(?:\((.*)\))?", code)
    assert match, "cite as `package.name` or `package.name(argument=...)`"
    found = resolve(match[1])
    if match[2]:
        known = inspect.signature(found).parameters
        assert set(re.findall(r"(\w+)=", match[2])) <= set(known)


@pytest.mark.parametrize("name", OPTIONS)
def test_option_exists(name: str) -> None:
    assert name in {field.name for field in dataclasses.fields(DistillOptions)}


@pytest.mark.parametrize("key", KEYS)
def test_quantity_is_logged(key: str) -> None:
    files = [
        *(REPOSITORY / "amd_restore" / "models").glob("*.py"),
        REPOSITORY / "amd_restore" / "losses" / "diagnostics.py",
    ]
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    name = key.replace("/", "__")
    weight = re.fullmatch(r"amd__(alpha|beta)_(mean|min|max|std)", name)  # made from two lists
    if weight:
        assert f'("{weight[1]}", {weight[1]})' in sources and f'"{weight[2]}": weight.' in sources
    else:
        assert re.search(rf"\b{name}=", sources) or f'"{key}"' in sources or f'"{name}":' in sources
