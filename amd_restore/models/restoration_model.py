"""What teacher and student training share, on top of BasicSR's SRModel: networks seen as denoisers, safe and exact
saving and resuming, validation at several numbers of steps."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amd_restore.archs.base import RestorationNetwork, checked_network
from amd_restore.data.degradations import build_degradation
from amd_restore.diffusion import Denoiser, Recipe, cell_sized, field_noise, restore_latent
from amd_restore.models.diagnostics import FILE_NAME, Diagnostics, DiagnosticsFile
from amd_restore.models.distributed import (
    images_of_process,
    process_count,
    process_rank,
    replicate,
)
from amd_restore.models.ending import TimeLimit
from amd_restore.models.latent import TrainedEncoder, bases, build_space, rebuild_options
from amd_restore.models.persistence import BASE_KEY, load_weights, remove_old, revision, torch_save
from amd_restore.models.training_step import TrainingStep
from amd_restore.models.validation import check_metrics, cost_name, validate
from amd_restore.options import RunOptions
from amd_restore.precision import has_bfloat16
from amd_restore.registry import import_basicsr
from amd_restore.weights import ENCODER_PREFIX, Header, load_checkpoint, save_checkpoint

import_basicsr()

from basicsr.archs import build_network  # noqa: E402
from basicsr.models.sr_model import SRModel  # noqa: E402
from basicsr.utils import get_root_logger  # noqa: E402


def channels_last(net: nn.Module) -> nn.Module:
    """``net`` with its convolutions in channels-last layout: 15% faster training on CPUs, the same numbers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return net


class RestorationModel(TrainingStep, SRModel):
    """Base of :class:`TeacherModel` and :class:`DMDModel`.

    ``net_g`` is the network being trained (EMA, saving, validation come from BasicSR).
    """

    kind = "teacher"
    gt: Tensor
    lq: Tensor

    def __init__(self, opt: dict[str, Any]) -> None:
        self.run = RunOptions.from_dict(opt, opt.get("opt_path", "options"))
        device = torch.device("cuda" if opt["num_gpu"] else "cpu")
        self.codec, self.process, self.prediction_type = build_space(opt, self.run, device)
        for key in [key for key in opt if key.startswith("network_") and key != "network_d"]:
            opt[key].setdefault("in_channels", self.codec.channels)
            opt[key].setdefault("cond_channels", self.codec.cond_channels)
        self.encoder = TrainedEncoder(self.codec) if self.run.codec.train_encoder else None
        if opt.get("num_threads") and device.type == "cpu":
            torch.set_num_threads(int(opt["num_threads"]))
        train = opt.get("train") or {}
        self.time_limit = TimeLimit(train.get("time_limit"), int(train.get("total_iter") or 1))
        self.accumulate = self.run.train.accumulate if self.run.train else 1
        self.trained_nets = []
        self.diagnostics = Diagnostics(device)
        self.current_iter = 0
        self.validated: dict[str, int] = {}  # iteration of the newest validation, by data set
        wanted = opt.get("amp") == "bf16"
        self.use_bfloat16 = wanted and has_bfloat16(device)
        if wanted and not self.use_bfloat16:
            get_root_logger().info("amp: bf16 is off, this processor would only emulate it")
        self.grad_clip = float(train.get("grad_clip") or 0.0)
        super().__init__(opt)
        self.diagnostics_file = DiagnosticsFile(Path(opt["path"]["log"]) / FILE_NAME)
        if self.is_train and not opt.get("resume_iter") and process_rank() == 0:
            self.diagnostics_file.rewind(0)
        self.degradation = build_degradation(self.run.degradation, opt["scale"]).to(self.device)
        self.generator = torch.Generator(self.device)
        self.host_generator = self.generator if self.device.type == "cpu" else torch.Generator()

    # ---- set-up -----------------------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """EMA, optimizers, schedulers; unlike SRModel no pixel loss is required."""
        check_metrics(self.opt.get("val") or {})
        self.net_g.train()
        train = self.opt["train"]
        self.ema_decay = float(train.get("ema_decay", 0))
        if self.ema_decay > 0 and process_rank() == 0:
            self.net_g_ema = channels_last(build_network(self.opt["network_g"])).to(self.device).eval()
            path = self.opt["path"].get("pretrain_network_g")
            if path is None:
                self.model_ema(0)
            else:
                self.load_network(self.net_g_ema, path, True, "params_ema")
        self.setup_optimizers()
        self.setup_schedulers()

    def print_network(self, net: nn.Module) -> None:
        """One line instead of BasicSR's listing of every layer."""
        count = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f"Network: {type(self.get_bare_model(net)).__name__}, {count:,d} parameters")

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = "params", grow: bool = False
    ) -> None:
        """Load weights, see :func:`~amd_restore.models.persistence.load_weights`."""
        grow = grow or bool(self.run.train and self.run.train.grow_networks)
        path = load_weights(self.get_bare_model(net), load_path, param_key, strict, grow)
        if self.encoder and net is getattr(self, "net_g", None) and path.suffix == ".safetensors":
            self.encoder.load_exported(load_checkpoint(path)[1])
        get_root_logger().info(f"Loaded {path}")

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """BasicSR's, in channels-last layout, on CPUs too."""
        net = channels_last(checked_network(net))
        if not self.opt["dist"]:
            wrapped: nn.Module = super().model_to_device(net)
            return wrapped
        net = replicate(net.to(self.device), self.device)
        self.trained_nets.append(net)
        return net

    def denoiser(self, net: nn.Module) -> Denoiser:
        """``net`` as an estimator of x0."""
        return Denoiser(net, self.process, self.prediction_type)

    # ---- data -------------------------------------------------------------------------------------------------

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch; without ``lq`` the degradation makes it, seeded for the iteration that follows."""
        if hasattr(self, "gt"):
            del self.gt
        if "gt" in data:
            self.gt = data["gt"].to(self.device, non_blocking=True)
        if "lq" in data:
            self.lq = data["lq"].to(self.device, non_blocking=True)
        else:
            self.degradation.reseed(self.step_seed(self.current_iter + 1), process_rank() * len(self.gt))
            self.lq = self.degradation(self.gt)

    def autocast(self) -> torch.autocast:
        """bf16 autocast when ``amp: bf16`` and the hardware has it, else a no-op."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bfloat16)

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of BasicSR's loop: :meth:`train_step`, seeded and timed."""
        self.current_iter = current_iter
        with self.diagnostics.step():
            self.seed_step(current_iter)
            self.train_step(current_iter)

    def train_step(self, current_iter: int) -> None:
        """What a model does in one iteration."""
        raise NotImplementedError

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """EMA as BasicSR's, in two fused calls; of networks that every process has, the first one keeps it."""
        if not hasattr(self, "net_g_ema"):
            return
        source: list[Tensor] = list(self.get_bare_model(self.net_g).parameters())
        target: list[Tensor] = list(self.net_g_ema.parameters())
        torch._foreach_mul_(target, decay)
        torch._foreach_add_(target, source, alpha=1.0 - decay)

    # ---- test and validation ----------------------------------------------------------------------------------

    def recipe(self, num_steps: int = 1, guidance_scale: float = 1.0) -> Recipe:
        """How validation restores, and released weights do."""
        return Recipe(num_steps, guidance_scale=guidance_scale)

    @torch.no_grad()
    def restore(self, lq: Tensor, num_steps: int, seed: int = 0, guidance_scale: float = 1.0) -> Tensor:
        """Restored images (B, 3, sH, sW), clamped to [0, 1], with the EMA network if there is one."""
        net: Any = self.get_bare_model(getattr(self, "net_g_ema", self.net_g))
        was_training = net.training
        net.eval()
        rows, columns = lq.shape[2:]
        lq = cell_sized(lq, self.codec.lq_patch)
        n, channels, height, width = self.codec.latent_shape(lq)

        def draw(step: int) -> Tensor:
            return field_noise(range(seed, seed + n), channels, 0, 0, height, width, step).to(self.device)

        averaged = self.encoder.averaged() if self.encoder else contextlib.nullcontext()
        with self.autocast(), averaged:
            recipe = self.recipe(num_steps, guidance_scale)
            x0 = restore_latent(self.denoiser(net), self.codec, lq, draw, recipe)
        net.train(was_training)
        scale = self.codec.scale
        return self.codec.decode(x0, lq)[:, :, : rows * scale, : columns * scale].clamp(0, 1)

    def dist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Validation by the first process."""
        if process_rank() == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """Metrics at every number of steps in ``val.num_steps``, best values, sample panels."""
        name = dataloader.dataset.opt.get("name", "val")
        if self.is_train and self.validated.get(name) == self.current_iter:
            return  # BasicSR validates once more when a run ends
        self.validated[name] = self.current_iter
        with self.time_limit.measure(cost_name(dataloader)):
            self.metric_results = validate(self, dataloader, current_iter, tb_logger, save_img)
            if self.is_train and process_rank() == 0:
                results = {name: self.metric_results}
                seconds = self.diagnostics.seconds
                self.diagnostics_file.append(iter=self.current_iter, seconds=seconds, validation=results)
                self.after_validation(dataloader)

    def after_validation(self, dataloader: Any) -> None:
        """What a model adds to a validation during training."""

    # ---- saving and resuming ----------------------------------------------------------------------------------

    def header(self, net: RestorationNetwork | None = None) -> Header:
        """Description that travels with exported weights, those of ``net`` if they are not ``net_g``'s."""
        net = net or self.get_bare_model(self.net_g)
        steps = tuple(self.run.distill.num_steps) if self.kind == "student" else (1, 4, 10, 20)
        recipe = self.recipe()
        return Header(
            name=self.opt["name"],
            kind=self.kind,
            scale=self.opt["scale"],
            network=rebuild_options(net, self.opt["network_g"]),
            codec=self.codec.config(),
            process=self.process.config(),
            prediction_type=self.prediction_type,
            steps=steps,
            default_steps=min(steps) if self.kind == "student" else 10,
            sampler=recipe.sampler,
            time_shift=recipe.time_shift,
            start=recipe.start,
            start_noise=recipe.start_noise,
            bases=bases(net, self.codec),
            degradation=(self.opt.get("degradation") or {}).get("type", "bicubic"),
            training_data=self.opt["datasets"].get("train", {}).get("name", ""),
            licence=self.opt.get("licence", ""),
            rewards=self.reward_names(),
            commit=revision(),
        )

    def reward_names(self) -> tuple[str, ...]:
        """Metrics that trained this model, as reward or as loss."""
        return ()

    def save_network(self, net: Any, net_label: str, current_iter: int, param_key: Any = "params") -> None:
        """BasicSR's ``net_X_ITER.pth``, atomically, and loudly when it fails."""
        if process_rank() != 0:
            return
        nets, keys = (net, param_key) if isinstance(net, list) else ([net], [param_key])
        label = "latest" if current_iter == -1 else current_iter
        state = {k: self.get_bare_model(n).state_dict() for n, k in zip(nets, keys, strict=True)}
        base = bases(self.get_bare_model(nets[0]), self.codec).get("network")
        if base:
            state[BASE_KEY] = base
        torch_save(state, Path(self.opt["path"]["models"]) / f"{net_label}_{label}.pth")

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Optimizers, schedulers and whatever :meth:`extra_state` adds; atomic."""
        if current_iter == -1:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedulers": [s.state_dict() for s in self.schedulers],
            "extra": self.extra_state(),
            "diagnostics": self.diagnostics.state_dict(),
            "batch": {"processes": process_count(), "images": images_of_process(self.opt)},
        }
        if self.time_limit.seconds is not None:  # else times are not state: no two runs share them
            state["time"] = self.time_limit.state_dict()
        self.saved_iter = current_iter
        if process_rank() == 0:
            torch_save(state, Path(self.opt["path"]["training_states"]) / f"{current_iter}.state")
            keep = int(self.opt["logger"].get("keep_checkpoints") or 0)
            remove_old(Path(self.opt["path"]["training_states"]), Path(self.opt["path"]["models"]), keep)

    def extra_state(self) -> dict[str, Any]:
        """State beyond networks, optimizers and schedulers that an exact resume needs."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`extra_state`."""

    def save(self, epoch: int, current_iter: int) -> None:
        """Networks first, the training state last: a state on disk implies that its networks are complete."""
        with self.time_limit.measure("save"):
            self.save_other_networks(current_iter)
            self.save_student(current_iter)
            self.save_training_state(epoch, current_iter)

    def save_other_networks(self, current_iter: int) -> None:
        """What a model trains besides ``net_g``."""

    def save_student(self, current_iter: int) -> None:
        """``net_g`` and its average in BasicSR's file, and what is released in one of ours."""
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
        save_checkpoint(Path(self.opt["path"]["models"]) / f"net_g_{label}.safetensors", best, self.header(net))

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Optimizers, schedulers, extra state; networks were loaded by BasicSR's ``check_resume`` paths."""
        super().resume_training({**resume_state, "schedulers": self.schedules_of(resume_state)})
        if "time" in resume_state:
            self.time_limit.load_state_dict(resume_state["time"])
        self.load_extra_state(resume_state.get("extra", {}))
        self.diagnostics.load_state_dict(resume_state.get("diagnostics", {"sums": {}}))
        self.current_iter = self.saved_iter = int(resume_state["iter"])
        if process_rank() == 0:
            self.diagnostics.seconds = self.diagnostics_file.rewind(self.current_iter)
