"""What pretrained latent networks share: loading, condition, prompts, one base for several networks."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amd_restore.archs.base import RestorationNetwork
from amd_restore.archs.flat_arch import zero_
from amd_restore.archs.latent.adapters import FrozenBase, checkpoint_blocks, set_checkpointing, shared_base
from amd_restore.archs.latent.pretrained import build_from_config, load_model, plain_config
from amd_restore.archs.latent.prompts import Prompts
from amd_restore.diffusion.denoiser import given_condition
from amd_restore.errors import AMDRestoreError

CONDITIONS = ("concat", "start")


class LatentNetwork(RestorationNetwork):
    """A network of diffusers behind our calling convention; subclasses name the class and call it.

    With neither ``lora`` nor ``frozen`` the network is a full copy of its own and all of it is trained. With ``lora``
    it owns an adapter (and what ``condition: concat`` adds) and nothing else: ``parameters()`` and ``state_dict()``
    hold just these, the base is shared by all networks of the process that name the same one. ``frozen`` without
    ``lora`` is the base itself.

    Args:
        in_channels: channels of x_t, checked against the network's; None takes what it has.
        cond_channels: channels of the condition; needed by ``concat``.
        pretrained_model_name_or_path: hub id, folder, or single ``.safetensors`` file.
        subfolder: folder of the network inside; None takes the usual one.
        revision: branch, tag or commit of the hub.
        config: of diffusers' class, in place of the path: random weights, to be loaded into.
        single_file_config: see :func:`~amd_restore.archs.latent.pretrained.load_model`.
        condition: ``concat``: a convolution of ``cond``, 0 at first, is added to that of the state, and a learned null
            condition stands for none, so that a pretrained network starts as itself; ``start``: ``cond`` is not
            an input, the student starts from it (OSEDiff, 2406.08177).
        prompt_embeds: file made by ``amd-restore prompts``; None: one token of zeros, for every image.
        lora: ``rank``, ``alpha``, ``target_modules``; see ``add_adapter`` of :mod:`~amd_restore.archs.latent.adapters`.
        frozen: use the shared base even without ``lora``.
        gradient_checkpointing: compute the blocks again in the backward pass.
        dtype: ``fp32``, or ``bf16`` for the weights of a frozen base, which then also computes in it.
        num_train_timesteps: of the process that the network was trained on.
        module: a network of diffusers' class that is there already, in place of loading it.

    Raises:
        AMDRestoreError: no such model, or options that contradict each other or it.
    """

    diffusers_class: str
    default_subfolder: str
    default_targets: tuple[str, ...]
    null_cond: nn.Parameter
    cond_in: nn.Conv2d

    def __init__(
        self,
        in_channels: int | None = None,
        cond_channels: int | None = None,
        pretrained_model_name_or_path: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        config: Mapping[str, Any] | None = None,
        single_file_config: str | None = None,
        condition: str = "concat",
        prompt_embeds: str | None = None,
        lora: Mapping[str, Any] | None = None,
        frozen: bool = False,
        gradient_checkpointing: bool = False,
        dtype: str = "fp32",
        num_train_timesteps: int = 1000,
        module: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._options = {k: v for k, v in locals().items() if k not in ("self", "__class__", "module")}
        path = pretrained_model_name_or_path
        self._check(bool(path) != bool(config), "needs pretrained_model_name_or_path or config, one of them")
        self._check(condition in CONDITIONS, f"condition must be one of {', '.join(CONDITIONS)}, not {condition!r}")
        shared = frozen or lora is not None
        self._check(not (shared and config), "lora and frozen need pretrained_model_name_or_path: a base to share")
        self._check(shared or dtype == "fp32", "dtype bf16 is for a frozen base; what is trained stays in fp32")
        self.condition, self.gradient_checkpointing = condition, gradient_checkpointing
        self.num_train_timesteps = num_train_timesteps
        self._base: FrozenBase | None = None
        self._adapter: str | None = None
        place: dict[str, Any] = {
            "subfolder": subfolder or self.default_subfolder,
            "revision": revision,
            "single_file_config": single_file_config,
        }
        if shared:
            assert path is not None
            self._base = shared_base(self.diffusers_class, path, dtype=dtype, **place)
            if lora is not None:
                self._adapter, self.adapter = self._base.add_adapter(lora, self.default_targets)
                forget = weakref.finalize(self, self._base.remove_adapter, self._adapter)
                forget.atexit = False
            module = self._base.module
        else:
            if module is None and path:
                module = load_model(self.diffusers_class, path, **place)
            elif module is None:
                module = build_from_config(self.diffusers_class, config or {})
            self.net = module.requires_grad_(True)
            set_checkpointing(self.net, checkpoint_blocks if gradient_checkpointing else None)
        self._describe(module)
        self._check(
            in_channels in (None, self.channels),
            f"the codec has {in_channels} channels, this network {self.channels}; take the autoencoder it belongs to",
        )
        if condition == "concat":
            self._check(cond_channels is not None, "condition: concat needs cond_channels")
            first = self.input_layer(module)
            first = getattr(first, "base_layer", first)  # under an adapter
            self.cond_in = nn.Conv2d(
                int(cond_channels or 0), first.out_channels, first.kernel_size, first.stride, first.padding
            )
            zero_(self.cond_in)
            self.null_cond = nn.Parameter(torch.zeros(1, int(cond_channels or 0), 1, 1))
        self.prompts = Prompts(prompt_embeds, *self.prompt_widths(module))
        self.float()  # The host program may have set another default dtype; the base keeps its own.

    # ---- what a subclass says about its class ------------------------------------------------------------------

    def input_layer(self, module: Any) -> Any:
        """The convolution that reads the state."""
        raise NotImplementedError

    def prompt_widths(self, module: Any) -> tuple[int, int | None]:
        """Width of a token, and of the pooled embedding where there is one."""
        raise NotImplementedError

    def multiple_of(self, config: Any) -> int:
        """What the sides of the latent must be multiples of."""
        raise NotImplementedError

    def call(self, module: Any, x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        """Raw output for a state, times in [0, 1] and embeddings (B, L, D) and (B, P)."""
        raise NotImplementedError

    # ---- the call ---------------------------------------------------------------------------------------------

    def forward(self, x_t: Tensor, t: Tensor, cond: Tensor | None, keep: Tensor | None = None) -> Tensor:
        """Raw prediction, see :class:`~amd_restore.archs.base.RestorationNetwork`.

        ``cond`` None also takes the negative prompt, as ``keep`` does where it is False.
        """
        height, width = x_t.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        extra = None
        if self.condition == "concat":
            extra = self.cond_in(_padded(given_condition(cond, self.null_cond, keep, x_t), below, right))
        kept = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device) if cond is None else keep
        with self._activated() as module, _added(self.input_layer(module), extra):
            dtype = next(module.parameters()).dtype
            tokens, pooled = self.prompts(len(x_t), kept, dtype)
            output = self.call(module, _padded(x_t.to(dtype), below, right), t, tokens, pooled)
        return output[:, :, :height, :width]

    @contextlib.contextmanager
    def _activated(self) -> Iterator[Any]:
        if self._base is None:
            yield self.net
        else:
            with self._base.active(self._adapter, self.gradient_checkpointing) as module:
                yield module

    # ---- the base ---------------------------------------------------------------------------------------------

    @property
    def base_fingerprint(self) -> str | None:
        """Names the weights of the shared base; None for a network that is whole."""
        return None if self._base is None else self._base.fingerprint

    def merged(self) -> Self:
        """The same network as a whole of its own in fp32, adapter added to the weights: for inference."""
        if self._base is None:
            return copy.deepcopy(self)
        module = self._base.merged(self._adapter)
        net = type(self)(**self._whole_options(module), module=module)
        own = {key: value for key, value in self.state_dict().items() if not key.startswith("adapter.")}
        net.load_state_dict(own, strict=False)
        return net.to(next(module.parameters()).device).train(self.training)

    def rebuild_options(self) -> dict[str, Any]:
        """Arguments with which another process builds a network that takes this one's ``state_dict()``.

        A whole network needs no folder for that. One that shares a base names it, as it was named here; prompts are
        part of the state.
        """
        if self._base is None:
            return self._whole_options(self.net)
        known = {"prompt_embeds": None, "gradient_checkpointing": False}
        return {key: value for key, value in (self._options | known).items() if value is not None}

    def _whole_options(self, module: Any) -> dict[str, Any]:
        kept = ("cond_channels", "condition", "num_train_timesteps")
        options = {key: self._options[key] for key in kept if self._options[key] is not None}
        return {**options, "config": plain_config(module)}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copy of an adapter is one more adapter on the same base, not one more base.
        net = type(self)(**self._options, module=None if self._base else copy.deepcopy(self.net, memo))
        net.load_state_dict(self.state_dict())
        for mine, copied in zip(self.parameters(), net.parameters(), strict=True):
            copied.requires_grad_(mine.requires_grad)
        return net.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The base is no submodule, but moves with its networks; its precision stays.
        super()._apply(fn, recurse)
        if self._base is not None:
            self._base.to(fn(torch.empty(0)).device)
        return self

    def get_submodule(self, target: str) -> nn.Module:
        """Also parts of a shared base, as ``net.mid_block``: hooks go there."""
        if self._base is not None and target.split(".")[0] == "net":
            return self._base.module.get_submodule(target.removeprefix("net").removeprefix("."))
        return super().get_submodule(target)

    def _describe(self, module: Any) -> None:
        config = module.config
        self._check(
            config.out_channels == config.in_channels,
            f"puts out {config.out_channels} channels for {config.in_channels}; it must return the shape of x_t",
        )
        self.channels: int = config.in_channels
        self.multiple = self.multiple_of(config)

    def _check(self, condition: bool, problem: str) -> None:
        if not condition:
            raise AMDRestoreError(f"{type(self).__name__}: {problem}")


def _padded(x: Tensor, below: int, right: int) -> Tensor:
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


@contextlib.contextmanager
def _added(layer: nn.Module, extra: Tensor | None) -> Iterator[None]:
    """Add ``extra`` to what ``layer`` puts out."""
    if extra is None:
        yield
        return

    def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + extra.to(output.dtype)

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
