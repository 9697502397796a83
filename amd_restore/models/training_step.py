"""One training step, whatever is trained: random numbers, a batch in parts and processes, descent, logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.data.resumable import step_seed
from amd_restore.errors import AMDRestoreError
from amd_restore.models.diagnostics import Diagnostics, DiagnosticsFile
from amd_restore.models.distributed import (
    Share,
    average_gradients,
    clip_gradients,
    gathered,
    process_count,
    process_rank,
    synchronised,
)
from amd_restore.models.ending import StopRequest, TimeLimit


class TrainingStep:
    """Part of :class:`~amd_restore.models.restoration_model.RestorationModel`.

    Every random number of a step comes from ``self.generator``, which is reseeded from (seed, iteration): randomness is
    a function of progress, so a resumed run repeats the straight one bit for bit. It is drawn for the batch of all
    processes, of which each takes its rows, so that their number makes no difference.
    """

    opt: dict[str, Any]
    device: torch.device
    generator: torch.Generator
    host_generator: torch.Generator  # for what decides how a step goes: a GPU would have to be waited for
    diagnostics: Diagnostics
    diagnostics_file: DiagnosticsFile
    grad_clip: float
    current_iter: int
    lq: Tensor
    optimizers: list[torch.optim.Optimizer]
    is_train: bool
    time_limit: TimeLimit
    stop_request = StopRequest()
    saved_iter = 0  # iteration of the newest training state
    row_names: tuple[str, ...] = ("gt", "lq")  # attributes that hold a row for each sample

    def init_training_step(self, parts: int) -> None:
        """Start with the whole batch at hand; ``parts`` is ``train.accumulate``."""
        self.share = Share(parts)
        self.trained_nets: list[nn.Module] = []  # as every process holds them
        self._pending: dict[str, list[tuple[Tensor, ...]]] = {}

    def save(self, epoch: int, current_iter: int) -> None:
        """Write everything to disk."""
        raise NotImplementedError

    # ---- random numbers ---------------------------------------------------------------------------------------

    def seed_step(self, current_iter: int) -> None:
        """Make this step's randomness a function of (seed, iteration)."""
        for generator in {self.generator, self.host_generator}:
            generator.manual_seed(self.step_seed(current_iter))

    def step_seed(self, current_iter: int) -> int:
        """Seed of an iteration, see :func:`~amd_restore.data.resumable.step_seed`."""
        return step_seed(int(self.opt["manual_seed"]), current_iter)

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of the step's own generator, a row for each sample at hand."""
        rest = tuple(shape[1:])

        def draw(n: int) -> Tensor:
            return torch.randn((n, *rest), generator=self.generator, device=self.device)

        return self.share.rows(draw, shape[0])

    def randn_like(self, x: Tensor) -> Tensor:
        """:meth:`randn` of the shape of ``x``."""
        return self.randn(x.shape)

    def rand(self, n: int) -> Tensor:
        """``n`` uniform numbers in [0, 1) of the step's own generator, one for each sample or group at hand."""
        return self.share.rows(lambda count: torch.rand(count, generator=self.generator, device=self.device), n)

    # ---- a batch in parts -------------------------------------------------------------------------------------

    def parts(self) -> Iterator[slice]:
        """The rows of this process's batch in ``train.accumulate`` parts; in one, nothing changes.

        While a part is out, the attributes in ``row_names`` hold its rows only, and random numbers are those that its
        rows have in the whole batch.
        """
        if self.share.parts == 1:
            yield slice(None)
            return
        kept = {name: getattr(self, name) for name in self.row_names if getattr(self, name, None) is not None}
        before = [(generator, generator.get_state()) for generator in {self.generator, self.host_generator}]
        size = len(self.lq) // self.share.parts
        try:
            for index in range(self.share.parts):
                rows = slice(index * size, (index + 1) * size)
                self.share.part = index
                for generator, state in before:
                    generator.set_state(state)
                for name, value in kept.items():
                    setattr(self, name, value[rows])
                yield rows
        finally:
            self.share.part = None
            for name, value in kept.items():
                setattr(self, name, value)

    def in_parts(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """``compute`` for each part, its results put together again."""
        pieces = [compute() for _ in self.parts()]
        return pieces[0] if len(pieces) == 1 else tuple(torch.cat(column) for column in zip(*pieces, strict=True))

    # ---- one optimizer step -----------------------------------------------------------------------------------

    def step(self, optimizer: torch.optim.Optimizer, **losses: Tensor) -> None:
        """:meth:`descend` with losses that are there already, of a batch in one part."""
        self.descend(optimizer, lambda rows: losses)

    def descend(self, optimizer: torch.optim.Optimizer, losses_of: Callable[[slice], dict[str, Tensor]]) -> None:
        """Zero gradients, backward for each part, check, clip, step; the only place that does so.

        Args:
            optimizer: takes the step.
            losses_of: losses of a part, which are means over its samples; called with its rows.

        Raises:
            AMDRestoreError: when a gradient is not finite (the step is not taken).
        """
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        for rows in self.parts():
            with synchronised(self.trained_nets, self.share.is_last):
                losses = losses_of(rows)
                total = torch.stack([loss for loss in losses.values()]).sum()
                (total / self.share.parts if self.share.parts > 1 else total).backward()
            self.log(**losses)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        average_gradients(parameters, self.trained_nets)
        norm = clip_gradients(parameters, self.grad_clip or float("inf"))
        if not torch.isfinite(norm):
            values = ", ".join(f"{name} {float(loss.detach()):.3g}" for name, loss in losses.items())
            raise AMDRestoreError(f"gradient is not finite ({values}); lower the learning rate or set amp: none")
        optimizer.step()

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
        """BasicSR's; on a GPU in one kernel for all parameters instead of several for each."""
        if self.device.type == "cuda":
            options["fused"] = True
        optimizer: torch.optim.Optimizer = super().get_optimizer(optim_type, params, lr, **options)  # type: ignore[misc]
        return optimizer

    # ---- learning rates and the end of a run -----------------------------------------------------------------

    def setup_schedulers(self) -> None:
        """BasicSR's; with a time limit there are none, and the rate follows the clock."""
        if self.time_limit.seconds is None:
            super().setup_schedulers()  # type: ignore[misc]  # BaseModel's
            return
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group.setdefault("initial_lr", group["lr"])

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """BasicSR's, or :meth:`TimeLimit.rate`, both with a linear warm-up before iteration ``warmup_iter``."""
        if self.time_limit.seconds is None:
            super().update_learning_rate(current_iter, warmup_iter)  # type: ignore[misc]  # BaseModel's
            return
        factor = self.time_limit.rate(current_iter)
        if current_iter < warmup_iter:
            factor *= current_iter / warmup_iter
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor

    def schedules_of(self, resume_state: Mapping[str, Any]) -> list[Any]:
        """States of the schedulers, none with a time limit.

        Raises:
            AMDRestoreError: there are none, but this run has no time limit.
        """
        if self.time_limit.seconds is not None:
            return []
        if len(resume_state["schedulers"]) != len(self.optimizers):
            raise AMDRestoreError(
                f"{self.opt['path']['resume_state']}: was trained with train.time_limit, without a scheduler; "
                "give it a time limit again, or start a new run from its weights"
            )
        return list(resume_state["schedulers"])

    def save_if_told_to_stop(self) -> None:
        """Save at once what will be saved anyway: a long validation may not be waited for."""
        is_due = self.stop_request.number and self.saved_iter != self.current_iter
        if is_due and self.is_train and process_count() == 1:  # several would have to save together
            self.save(0, self.current_iter)

    # ---- logs -------------------------------------------------------------------------------------------------

    def log(self, **values: Tensor) -> None:
        """Add tensors to the log's window; they are read (a device sync) only at logging iterations.

        A scalar is taken for a mean over the samples at hand, or for what all processes agree on.
        """
        self.diagnostics.add(1.0 / self.share.count, **values)

    def log_of_batch(self, measure: Callable[..., dict[str, Tensor]], *tensors: Tensor) -> None:
        """Log what is no mean over samples: ``measure`` of tensors (B, ...) of the batch of all parts and processes."""
        if self.share.count == 1:
            self.log(**measure(*tensors))
            return
        self._pending.setdefault(measure.__qualname__, []).append(tensors)
        if self.share.is_last:
            columns = zip(*self._pending.pop(measure.__qualname__), strict=True)
            self.diagnostics.add(1.0 / process_count(), **measure(*(gathered(torch.cat(c)) for c in columns)))

    def get_current_log(self) -> dict[str, float]:
        """Means since the last call, also written to ``diagnostics.jsonl``; called every ``print_freq`` iterations."""
        means = self.diagnostics.read()
        if process_rank() == 0:
            values = {name if "/" in name else f"loss/{name}": value for name, value in means.items()}
            self.diagnostics_file.append(iter=self.current_iter, seconds=self.diagnostics.seconds, values=values)
        return means
