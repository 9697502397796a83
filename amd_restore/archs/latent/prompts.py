"""Text embeddings: computed once by the model's own text encoders, kept in a small file, never needed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from amd_restore.archs.latent.pretrained import diffusers_class, load_config, one_line, resolve
from amd_restore.atomic import expanded, write_atomically
from amd_restore.errors import AMDRestoreError

TOKENS, POOLED = "prompt_embeds", "pooled_prompt_embeds"
_NEGATIVE = "negative_"
METADATA_KEY = "amd_restore_prompts"
# What makes no embeddings need not be loaded.
_NOT_NEEDED = ("unet", "transformer", "vae", "scheduler", "safety_checker", "feature_extractor", "image_encoder")


class Prompts(nn.Module):
    """The embeddings that a network is given with every image: (1, L, D) per token and (1, P) pooled.

    Without a file: one token of zeros, and zeros pooled, for the prompt and the negative prompt alike. They are no
    parameters; they are part of the state only where they came from a file, so that weights bring their own.

    Args:
        path: file of :func:`write_prompts`, or None.
        width: D of the network.
        pooled_width: P, or None for networks without.

    Raises:
        AMDRestoreError: no such file, or embeddings of another width.
    """

    def __init__(self, path: str | None, width: int, pooled_width: int | None) -> None:
        super().__init__()
        self.widths = {TOKENS: width} if pooled_width is None else {TOKENS: width, POOLED: pooled_width}
        values = {} if path is None else read_prompts(path)
        for name, size in self.widths.items():
            for key in (name, _NEGATIVE + name):
                value = values.get(key)
                if path is not None and (value is None or value.shape[-1] != size):
                    found = "none" if value is None else f"width {value.shape[-1]}"
                    raise AMDRestoreError(
                        f"{path}: '{key}' of width {size} expected, found {found}; made for another model"
                    )
                empty = torch.zeros(1, 1, size) if name == TOKENS else torch.zeros(1, size)
                self.register_buffer(key, empty if value is None else value.clone(), persistent=path is not None)

    def forward(self, count: int, keep: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Embeddings for a batch.

        Args:
            count: images in the batch.
            keep: bool (B,), False where the negative prompt is taken; None takes the prompt everywhere.
            dtype: of the result.

        Returns:
            (B, L, D), and (B, P) or None.
        """
        found = []
        for name in self.widths:
            value = getattr(self, name)
            value = value.expand(count, *value.shape[1:])
            if keep is not None:
                chosen = keep.reshape(-1, *[1] * (value.ndim - 1))
                value = torch.where(chosen, value, getattr(self, _NEGATIVE + name))
            found.append(value.to(dtype))
        return found[0], found[1] if len(found) > 1 else None

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        # Prompts of a file have any length, and a network may be built without the file that they came from.
        for name in self.widths:
            for key in (name, _NEGATIVE + name):
                if (value := state_dict.get(prefix + key)) is not None:
                    self.register_buffer(key, torch.empty_like(value, device=getattr(self, key).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def compute_prompts(
    name_or_path: str, prompt: str, negative: str = "", revision: str | None = None
) -> dict[str, Tensor]:
    """Embeddings by the text encoders of a Stable Diffusion 1, 2, XL or 3 model, as its diffusers pipeline makes them.

    Args:
        name_or_path: folder or hub id of the whole model (with ``model_index.json``).
        prompt, negative: what images should, and should not, look like.
        revision: branch, tag or commit of the hub.

    Returns:
        ``prompt_embeds`` and ``negative_prompt_embeds`` (1, L, D); where the model has them ``pooled_prompt_embeds``
        and ``negative_pooled_prompt_embeds`` (1, P); float32 on the CPU.

    Raises:
        AMDRestoreError: no such model, or one without text encoders.
    """
    if importlib.util.find_spec("transformers") is None:
        raise AMDRestoreError("prompts need transformers: pip install 'amd-restore[latent]'")
    source = resolve(name_or_path)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    pipeline_class = diffusers_class("DiffusionPipeline")
    with _quiet(), one_line("the text encoders", source):
        index = pipeline_class.load_config(source, **options)
        absent = {name: None for name, part in index.items() if _absent(Path(source), name, part)}
        pipeline = pipeline_class.from_pretrained(source, **options, **absent).to(torch.float32)
    if not hasattr(pipeline, "encode_prompt"):
        raise AMDRestoreError(f"{source}: {type(pipeline).__name__} does not turn text into embeddings")
    arguments: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative, "device": torch.device("cpu")}
    arguments |= {"num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    if "StableDiffusion3" in type(pipeline).__name__:
        arguments |= {"prompt_2": None, "prompt_3": None}
        # The pipeline reads the width of a missing third text encoder from its network, which was not loaded.
        config = load_config(source, "transformer", revision)
        object.__setattr__(pipeline, "transformer", SimpleNamespace(config=SimpleNamespace(**config)))
    with torch.no_grad():
        values = pipeline.encode_prompt(**arguments)
    names = (TOKENS, _NEGATIVE + TOKENS, POOLED, _NEGATIVE + POOLED)
    return {name: value.float().contiguous() for name, value in zip(names, values, strict=False)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of both libraries, which say nothing for a few small files."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    bars = diffusers_logging, transformers_logging
    for bar in bars:
        bar.disable_progress_bar()
    try:
        yield
    finally:
        for bar in bars:
            bar.enable_progress_bar()


def _absent(folder: Path, name: str, part: Any) -> bool:
    """Whether a part of a pipeline is not needed, or not there; the large third text encoder is often left out."""
    if name in _NOT_NEEDED or not isinstance(part, list):
        return name in _NOT_NEEDED
    return part[0] is None or (name.endswith("_3") and folder.is_dir() and not (folder / name).is_dir())


def write_prompts(path: str | Path, values: Mapping[str, Tensor], **about: str) -> None:
    """Write embeddings as safetensors; ``about`` (model, prompt, negative) is kept with them."""
    tensors = {key: value.contiguous().clone() for key, value in values.items()}
    write_atomically(path, save(tensors, metadata={METADATA_KEY: json.dumps(about)}))


def read_prompts(path: str | Path) -> dict[str, Tensor]:
    """Inverse of :func:`write_prompts`.

    Raises:
        AMDRestoreError: no such file, or not one of these.
    """
    path = expanded(path)
    advice = "make one with: amd-restore prompts --model DIR --prompt TEXT -o FILE.safetensors"
    if not path.is_file():
        raise AMDRestoreError(f"{path}: no such file of prompts; {advice}")
    try:
        with safe_open(path, framework="pt") as file:
            values = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AMDRestoreError(f"{path}: not a file of prompts ({error}); {advice}") from error
    if TOKENS not in values:
        raise AMDRestoreError(f"{path}: not a file of prompts, '{TOKENS}' is missing; {advice}")
    return values
