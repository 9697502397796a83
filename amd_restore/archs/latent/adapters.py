"""One frozen network in memory, and any number of low-rank adapters (LoRA, 2106.09685) on it, by peft.

peft's own switching (``set_adapter``) turns ``requires_grad`` of the other adapters off, which silently drops the
gradients of a network that is still to be differentiated. Here a network's adapter is switched on for the time of its
call only, by setting the layers themselves, and again when gradient checkpointing repeats a part of that call.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from amd_restore import compat
from amd_restore.archs.latent.pretrained import fingerprint, load_model, resolve
from amd_restore.errors import AMDRestoreError

LORA_KEYS = ("rank", "alpha", "target_modules", "dropout")
_MATRICES = ("lora_A", "lora_B")


class _CastLinear(nn.Linear):
    """Weights in float32 for the optimizer, arithmetic in the precision of what comes in."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


class _CastConv2d(nn.Conv2d):
    """As :class:`_CastLinear`."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight.to(input.dtype), None)


class AdapterWeights(nn.Module):
    """The matrices of one adapter, under the names of the layers they belong to; what a network owns of its base."""

    def __init__(self, layers: Mapping[str, Any], adapter: str) -> None:
        super().__init__()
        for path, layer in layers.items():
            node: nn.Module = self
            for name in path.split("."):
                if name not in node._modules:
                    node.add_module(name, nn.Module())
                node = node.get_submodule(name)
            for name in _MATRICES:
                node.add_module(name, getattr(layer, name)[adapter])


class FrozenBase:
    """A frozen module, shared by all networks that add an adapter to it or use it as it is.

    Args:
        module: frozen here; its adapted layers are replaced by peft's, which hold the original ones.
        weights_name: fingerprint of its weights, where known.
    """

    def __init__(self, module: nn.Module, weights_name: str = "") -> None:
        self.module = module.requires_grad_(False).eval()
        self.fingerprint = weights_name
        self._layers: dict[str, Any] = {}  # path -> peft's layer
        self._tuner: Any = None
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # Two threads must not switch adapters at the same time.
        self._now: tuple[str | None, bool] = (None, False)  # adapter, whether checkpointing

    def to(self, device: torch.device) -> None:
        """Move the module and everything on it; parameters stay the same objects."""
        self.module.to(device)

    # ---- adapters ---------------------------------------------------------------------------------------------

    def add_adapter(self, options: Mapping[str, Any], default_targets: Sequence[str]) -> tuple[str, AdapterWeights]:
        """Put a new adapter on the module; it starts as nothing, for ``lora_B`` is 0.

        Args:
            options: ``rank`` (4), ``alpha`` (the rank), ``target_modules`` (names of layers by their ends).
            default_targets: where ``options`` name none.

        Returns:
            Its name for :meth:`active`, and its weights, float32 and trainable.

        Raises:
            AMDRestoreError: peft is missing, an unknown option, or no layer of these names.
        """
        config = _lora_config(options, default_targets)
        from peft import LoraModel

        name = f"adapter{next(self._numbers)}"
        # peft also decides who is trainable; that is for the owners of the adapters to say.
        trainable = {parameter: parameter.requires_grad for parameter in self.module.parameters()}
        try:
            if self._tuner is None:
                self._tuner = LoraModel(self.module, config, name)
            else:
                self._tuner.peft_config[name] = config
                self._tuner.inject_adapter(self.module, name)
        except ValueError as error:
            self._tuner = self._tuner if self._layers else None
            reason = " ".join(str(error).split())[:200]
            raise AMDRestoreError(f"lora: target_modules fit no layer of the network ({reason})") from error
        for parameter, requires_grad in trainable.items():
            parameter.requires_grad_(requires_grad)
        self._layers = {path: m for path, m in self.module.named_modules() if hasattr(m, "lora_A")}
        own = {path: layer for path, layer in self._layers.items() if name in layer.lora_A}
        for layer in own.values():
            layer.cast_input_dtype_enabled = False
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[name] = _casting(matrices[name])
        self._switch(*self._now)
        return name, AdapterWeights(own, name)

    def remove_adapter(self, name: str) -> None:
        """Remove an adapter that is not used any more."""
        for layer in self._layers.values():
            for table in (*(getattr(layer, matrices) for matrices in _MATRICES), layer.lora_dropout):
                if name in table:
                    del table[name]
            for values in (layer.r, layer.lora_alpha, layer.scaling):
                values.pop(name, None)
        # The configuration stays in peft's tuner, which reads it when the next adapter is added.

    @contextlib.contextmanager
    def active(self, adapter: str | None, checkpointing: bool = False) -> Iterator[Any]:
        """The module with one adapter switched on, or with none.

        Args:
            adapter: of :meth:`add_adapter`; None is the module as it was loaded.
            checkpointing: whether its blocks are computed again in the backward pass, which finds the same adapter on.
        """
        with self._lock:
            before = self._now
            self._switch(adapter, checkpointing)
            try:
                yield self.module
            finally:
                self._switch(*before)

    def _switch(self, adapter: str | None, checkpointing: bool) -> None:
        if checkpointing != self._now[1]:
            set_checkpointing(self.module, self._checkpoint if checkpointing else None)
        self._now = adapter, checkpointing
        for layer in self._layers.values():
            # What peft's set_adapter and enable_adapters set, without their looking after requires_grad.
            layer._active_adapter = [] if adapter is None else [adapter]
            layer._disable_adapters = adapter is None

    def _checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        now = self._now

        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), self.active(*now)

        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)

    def merged(self, adapter: str | None) -> nn.Module:
        """A copy of the module in float32 with the adapter's product added to its weights, without any peft."""
        with self._lock:
            others = {id(matrices[name]): None for matrices, name in self._other_matrices(adapter)}
            module = copy.deepcopy(self.module, others).float()  # other adapters are not worth copying
            set_checkpointing(module, None)
            for path in self._layers:
                layer: Any = module.get_submodule(path)
                if adapter is not None and adapter in layer.lora_A:
                    layer.merge(adapter_names=[adapter])
                parent, _, child = path.rpartition(".")
                setattr(module.get_submodule(parent), child, layer.get_base_layer())
        return module

    def _other_matrices(self, adapter: str | None) -> Iterator[tuple[Any, str]]:
        for layer in self._layers.values():
            for matrices in (layer.lora_A, layer.lora_B):
                yield from ((matrices, name) for name in matrices if name != adapter)


def shared_base(class_name: str, name_or_path: str, **options: Any) -> FrozenBase:
    """The base of that name, loaded once per process and kept as long as a network uses it.

    Args:
        class_name, name_or_path, options: of :func:`~amd_restore.archs.latent.pretrained.load_model`.

    Raises:
        AMDRestoreError: as there.
    """
    key = base_key(class_name, name_or_path, **options)
    base = BASES.get(key)
    if base is None:
        module = load_model(class_name, name_or_path, **options)
        base = BASES[key] = FrozenBase(module, fingerprint(module))
    return base


def base_key(class_name: str, name_or_path: str, **options: Any) -> tuple[Any, ...]:
    """Key of ``BASES`` for the arguments of :func:`shared_base`."""
    return (class_name, resolve(name_or_path), *sorted(options.items()))


BASES: weakref.WeakValueDictionary[tuple[Any, ...], FrozenBase] = weakref.WeakValueDictionary()


def set_checkpointing(module: nn.Module, function: Callable[..., Any] | None) -> None:
    """Let the blocks of a diffusers model be called as ``function(block, *inputs)``; None calls them plainly."""
    for part in module.modules():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = function is not None  # type: ignore[assignment]
            part._gradient_checkpointing_func = function  # type: ignore[assignment]


def checkpoint_blocks(function: Callable[..., Any], *args: Any) -> Any:
    """Plain recomputing, for modules without adapters."""
    return checkpoint(function, *args, use_reentrant=False)


def _lora_config(options: Mapping[str, Any], default_targets: Sequence[str]) -> Any:
    unknown = sorted(set(options) - set(LORA_KEYS))
    if unknown:
        raise AMDRestoreError(f"lora: unknown key '{unknown[0]}'; known: {', '.join(LORA_KEYS)}")
    if options.get("dropout"):
        raise AMDRestoreError("lora: dropout must be 0; its randomness would not survive an exact resume")
    rank = int(options.get("rank") or 4)
    if rank < 1:
        raise AMDRestoreError(f"lora: rank must be at least 1, got {rank}")
    compat.patch()  # peft imports transformers, and that torchvision
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise AMDRestoreError("lora needs peft: pip install 'amd-restore[latent]'") from error
    targets = options.get("target_modules") or default_targets
    alpha = options.get("alpha")
    return LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        init_lora_weights="gaussian",
    )


def _casting(layer: nn.Module) -> nn.Module:
    """``layer`` of an adapter as one that casts, its weights in float32."""
    layer.__class__ = _CastConv2d if isinstance(layer, nn.Conv2d) else _CastLinear
    return layer.float().requires_grad_(True)
