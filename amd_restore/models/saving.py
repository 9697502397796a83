"""Saving and resuming of a run: networks, training states, and weights with a header."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from amd_restore.archs.base import RestorationNetwork
from amd_restore.diffusion import Codec, Process, Recipe
from amd_restore.errors import AMDRestoreError
from amd_restore.models.diagnostics import Diagnostics, DiagnosticsFile
from amd_restore.models.distributed import process_count, process_rank
from amd_restore.models.ending import TimeLimit
from amd_restore.models.latent import TrainedEncoder, bases, rebuild_options
from amd_restore.models.persistence import BASE_KEY, RunFolders, remove_old, revision, torch_save
from amd_restore.options import RunOptions
from amd_restore.weights import ENCODER_PREFIX, Header, save_checkpoint

SCHEDULE_SETTINGS = ("periods", "cumulative_period", "restart_weights", "eta_min", "milestones", "gamma")


class Saving:
    """Part of :class:`~amd_restore.models.restoration_model.RestorationModel`."""

    kind: str  # teacher or student, for the header
    run: RunOptions
    folders: RunFolders
    codec: Codec
    process: Process
    prediction_type: str
    encoder: TrainedEncoder | None
    time_limit: TimeLimit
    diagnostics: Diagnostics
    diagnostics_file: DiagnosticsFile
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    net_g: Any
    get_bare_model: Callable[[Any], Any]  # BaseModel's
    current_iter: int
    saved_iter: int

    def recipe(self, num_steps: int = 1, guidance_scale: float = 1.0) -> Recipe:
        """Return the recipe of validation and of released weights."""
        raise NotImplementedError

    def released_steps(self) -> tuple[tuple[int, ...], int]:
        """Return the numbers of steps of released weights, and their default."""
        raise NotImplementedError

    def header(self, net: RestorationNetwork | None = None) -> Header:
        """Return the header of exported weights of ``net``, by default ``net_g``."""
        net = net or self.get_bare_model(self.net_g)
        steps, default_steps = self.released_steps()
        recipe = self.recipe()
        trained_on = self.run.datasets.get("train")
        return Header(
            name=self.run.name,
            kind=self.kind,
            scale=self.run.scale,
            network=rebuild_options(net, self.run.network_g),
            codec=self.codec.config(),
            process=self.process.config(),
            prediction_type=self.prediction_type,
            steps=steps,
            default_steps=default_steps,
            sampler=recipe.sampler,
            time_shift=recipe.time_shift,
            start=recipe.start,
            start_noise=recipe.start_noise,
            bases=bases(net, self.codec),
            degradation=self.run.degradation.type,
            training_data=trained_on.name if trained_on else "",
            licence=self.run.licence,
            rewards=self.reward_names(),
            commit=revision(),
        )

    def reward_names(self) -> tuple[str, ...]:
        """Return the metrics that trained this model, as rewards or losses."""
        return ()

    def save_network(self, net: Any, net_label: str, current_iter: int, param_key: Any = "params") -> None:
        """Save BasicSR's ``net_X_ITER.pth`` atomically; raises an error on failure."""
        if process_rank() != 0:
            return
        nets, keys = (net, param_key) if isinstance(net, list) else ([net], [param_key])
        label = "latest" if current_iter == -1 else current_iter
        state = {k: self.get_bare_model(n).state_dict() for n, k in zip(nets, keys, strict=True)}
        base = bases(self.get_bare_model(nets[0]), self.codec).get("network")
        if base:
            state[BASE_KEY] = base
        torch_save(state, self.folders.models / f"{net_label}_{label}.pth")

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Save optimizers, schedulers and :meth:`extra_state` atomically."""
        if current_iter == -1:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedulers": [s.state_dict() for s in self.schedulers],
            "extra": self.extra_state(),
            "diagnostics": self.diagnostics.state_dict(),
            "batch": {"processes": process_count(), "images": self.run.datasets["train"].batch_size_per_gpu},
        }
        if (
            self.time_limit.seconds is not None
        ):  # Times are part of the state only with a limit, because they differ between runs.
            state["time"] = self.time_limit.state_dict()
        self.saved_iter = current_iter
        if process_rank() == 0:
            torch_save(state, self.folders.states / f"{current_iter}.state")
            remove_old(self.folders.states, self.folders.models, self.run.logger.keep_checkpoints or 0)

    def extra_state(self) -> dict[str, Any]:
        """Return further state that an exact resume needs."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""

    def save(self, epoch: int, current_iter: int) -> None:
        """Save the networks first: a training state on disk implies that its networks are complete."""
        with self.time_limit.measure("save"):
            self.save_other_networks(current_iter)
            self.save_student(current_iter)
            self.save_training_state(epoch, current_iter)

    def save_other_networks(self, current_iter: int) -> None:
        """Save the networks trained besides ``net_g``."""

    def save_student(self, current_iter: int) -> None:
        """Save ``net_g`` and its average in BasicSR's file, and the weights for release in a file with a header."""
        nets = OrderedDict(params=self.net_g)
        if hasattr(self, "net_g_ema"):
            nets["params_ema"] = self.net_g_ema
        self.save_network(list(nets.values()), "net_g", current_iter, list(nets))
        net = self.get_bare_model(getattr(self, "net_g_ema", self.net_g))
        if process_rank() != 0:
            return
        if self.run.export == "merged" and bases(net, self.codec).get("network"):
            net = net.merged()
        best = net.state_dict()
        if self.encoder:
            best = {**best, **{f"{ENCODER_PREFIX}{key}": value for key, value in self.encoder.average.items()}}
        label = "latest" if current_iter == -1 else current_iter
        save_checkpoint(self.folders.models / f"net_g_{label}.safetensors", best, self.header(net))

    def schedules_of(self, resume_state: Mapping[str, Any]) -> list[Any]:
        """Return the states of the schedulers: progress and rates of the saved ones, settings of the option file.

        None with a time limit.

        Raises:
            AMDRestoreError: the saved state has none, but this run has no time limit.
        """
        if self.time_limit.seconds is not None:
            return []
        if not resume_state["schedulers"]:
            raise AMDRestoreError(
                f"{self.run.path.resume_state}: was trained with train.time_limit, without a scheduler; "
                "give it a time limit again, or start a new run from its weights"
            )
        # With its own periods a run that is extended would have no rate beyond their end.
        own = [scheduler.state_dict() for scheduler in self.schedulers]
        return [
            {**state, **{key: value for key, value in settings.items() if key in SCHEDULE_SETTINGS}}
            for state, settings in zip(resume_state["schedulers"], own, strict=False)  # BasicSR refuses other lengths
        ]

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Restore optimizers, schedulers and extra state; networks were loaded through BasicSR's ``check_resume``.

        Raises:
            AMDRestoreError: the state does not fit the model.
        """
        try:
            schedules = self.schedules_of(resume_state)
            # This class is mixed into BasicSR's BaseModel, whose method it calls; mypy sees the mixin alone.
            super().resume_training({**resume_state, "schedulers": schedules})  # type: ignore[misc]
            if "time" in resume_state:
                self.time_limit.load_state_dict(resume_state["time"])
            self.load_extra_state(resume_state.get("extra", {}))
        except (AssertionError, KeyError, RuntimeError, ValueError) as error:
            raise AMDRestoreError(
                f"{self.run.path.resume_state}: is the state of other options ({' '.join(str(error).split())[:120]}); "
                "set them back, or start a new run from its weights"
            ) from error
        self.diagnostics.load_state_dict(resume_state.get("diagnostics", {"sums": {}}))
        self.current_iter = self.saved_iter = int(resume_state["iter"])
        if process_rank() == 0:
            self.diagnostics.seconds = self.diagnostics_file.rewind(self.current_iter)
