"""Tiny models with random weights of the classes of Stable Diffusion, written as diffusers and transformers write them.

Tests load them by the same path as real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from amd_restore import compat

compat.patch()

import diffusers  # noqa: E402
import transformers  # noqa: E402

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
TRANSFORMER = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 24,
    "pos_embed_max_size": 16,
}
STABLE_DIFFUSION_SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


def build(cls: Any, **options: Any) -> Any:
    """Random weights that are the same each time, and to which every layer contributes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(**options)
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # zero-initialised ends
                nn.init.normal_(parameter, std=0.1)
    return model


def autoencoder(channels: int = 4, **options: Any) -> Any:
    """AutoencoderKL with 4 pixels per cell side."""
    return build(
        diffusers.AutoencoderKL,
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        **options,
    )


def tiny_autoencoder() -> Any:
    """AutoencoderTiny with 4 pixels per cell side."""
    return build(
        diffusers.AutoencoderTiny,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )


def tokenizer() -> Any:
    """CLIP's tokenizer that knows single letters only."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def text_encoder(width: int, projection: int | None = None) -> Any:
    """CLIP's text encoder, with a pooled embedding of width ``projection`` where that is given."""
    config = transformers.CLIPTextConfig(
        vocab_size=190,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection or width,
        bos_token_id=188,
        eos_token_id=189,
        pad_token_id=189,
    )
    cls = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return build(cls, config=config)


def save_stable_diffusion(folder: Path, prediction_type: str = "epsilon", text: bool = False, **unet: Any) -> Path:
    """A model of the kind of Stable Diffusion 1 and 2; without ``text`` the parts that training needs, no more."""
    parts: dict[str, Any] = {
        "unet": build(diffusers.UNet2DConditionModel, **(UNET | unet)),
        "vae": autoencoder(),
        "scheduler": diffusers.DDPMScheduler(prediction_type=prediction_type, **STABLE_DIFFUSION_SCHEDULER),
    }
    if not text:
        return _save_parts(folder, parts)
    pipeline: Any = diffusers.StableDiffusionPipeline(
        **parts,
        text_encoder=text_encoder(16),
        tokenizer=tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_stable_diffusion_xl(folder: Path) -> Path:
    """Network of the kind of Stable Diffusion XL, which is told sizes and a pooled embedding."""
    options: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    }
    return _save_parts(folder, {"unet": build(diffusers.UNet2DConditionModel, **(UNET | options))})


def save_stable_diffusion_3(folder: Path, text: bool = False) -> Path:
    """A model of the kind of Stable Diffusion 3, without its third text encoder, as it is often used."""
    parts: dict[str, Any] = {
        "transformer": build(diffusers.SD3Transformer2DModel, **TRANSFORMER),
        "vae": autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    if not text:
        return _save_parts(folder, parts)
    pipeline: Any = diffusers.StableDiffusion3Pipeline(
        **parts,
        text_encoder=text_encoder(12, 12),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(12, 12),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_autoencoder(folder: Path) -> Path:
    """AutoencoderTiny in the folder itself, as it is published."""
    tiny_autoencoder().save_pretrained(folder)
    return folder


def _save_parts(folder: Path, parts: dict[str, Any]) -> Path:
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder
