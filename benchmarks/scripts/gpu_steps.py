"""The steps of gpu_check.py."""

from __future__ import annotations

import contextlib
import functools
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from amd_restore.models.diagnostics import read_diagnostics
from amd_restore.options import OptionFile
from amd_restore.pipeline import RestorationPipeline
from amd_restore.precision import has_bfloat16
from amd_restore.training.pipeline import build_parser, prepare_options, run_pipeline, settle_devices

ROOT = Path(__file__).resolve().parents[2]
TINY = {"type": "FlatDenoiser", "num_feat": 8, "num_block": 1, "time_feat": 8}
SAME = 0.02  # greatest difference of logged losses after a resume, relative: a GPU adds up in any order
LEVELS = 3  # greatest difference of a restored pixel from the CPU's, of 255, in float32


class Check:
    """The steps, in the order in which they are most likely to find a fault.

    Args:
        folder: where runs are made.
        miniature: tiny networks, few and small images, and no demand on the device.
    """

    def __init__(self, folder: Path, miniature: bool = False) -> None:
        self.folder, self.miniature = folder.resolve(), miniature
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu" and not miniature:
            raise SystemExit("error: no GPU is found; --miniature tries the script itself on a CPU")
        self.size = 48 if miniature else 128
        folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / "crops.npy", crops(8 if miniature else 256, 64 if miniature else 256))

    def steps(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """All of them, by name."""
        batches = (2,) if self.miniature else (4, 32, 128)
        times = {f"step time, batch {n}": lambda n=n: self.step_time(n) for n in batches}
        without = {f"step time, batch {n}, no NIQE": lambda n=n: self.step_time(n, niqe=False) for n in batches[-2:]}
        return {
            "versions": self.versions,
            "autocast": self.autocast,
            "resume": self.resume,
            "adversarial": lambda: self.short_run("adversarial_x4_real"),
            "second order": lambda: self.short_run("amd_x4_real"),
            "spatial": lambda: self.short_run("amd_x4_classical", distill={"spatial": True}),
            "restore x4 of a small picture": lambda: self.restoration(32 if self.miniature else 128),
            "restore x4 of a picture": lambda: self.restoration(40 if self.miniature else 512),
            **times,
            **without,
            "profile": self.profile,
        }

    # ---- what must hold ---------------------------------------------------------------------------------------

    def versions(self) -> dict[str, Any]:
        """What is installed, and that BasicSR can be imported with it."""
        from amd_restore.registry import import_basicsr

        import_basicsr()
        found: dict[str, Any] = {
            name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "scipy", "basicsr")
        }
        found |= {"python": platform.python_version(), "cuda": torch.version.cuda, "bf16": has_bfloat16(self.device)}
        if self.device.type == "cuda":
            found["cudnn"] = torch.backends.cudnn.version()
            found["gpu"] = torch.cuda.get_device_name()
            found["gpu_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
            found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        return found

    def autocast(self) -> dict[str, Any]:
        """A call without gradient must not take the gradient from one that follows.

        Older PyTorch keeps the weights that autocast has rounded without a history. Blocks of their own are what
        training relies on; what one block for both does is only noted.
        """
        layer = torch.nn.Conv2d(8, 8, 3, padding=1).to(self.device)
        x = torch.randn(2, 8, 16, 16, device=self.device)

        def gradient(blocks: int) -> bool:
            layer.weight.grad = None
            with torch.autocast(self.device.type, torch.bfloat16):
                with torch.no_grad():
                    layer(x)
                if blocks == 1:
                    y = layer(x)
            if blocks == 2:
                with torch.autocast(self.device.type, torch.bfloat16):
                    y = layer(x)
            if not y.requires_grad:
                return False
            y.float().square().mean().backward()
            return layer.weight.grad is not None and bool(layer.weight.grad.abs().sum() > 0)

        assert gradient(2), "two autocast blocks: the second call has no gradient; this torch cannot train in bf16"
        return {"two blocks": True, "one block": gradient(1)}

    def resume(self) -> dict[str, Any]:
        """Twenty iterations straight, and ten, resumed: the same losses."""
        total = 4 if self.miniature else 20
        half = total // 2
        losses: dict[str, dict[int, dict[str, float]]] = {}
        seconds = {}
        for name in ("straight", "halves"):
            options = self.options("amd_x4_classical", name, total)
            options["logger"]["save_checkpoint_freq"] = half
            options["datasets"]["train"]["batch_size_per_gpu"] = 2 if self.miniature else 16
            start = time.perf_counter()
            if name == "halves":
                self.train(options, f"train:total_iter={half}")
                self.train(options, resume=True)
            else:
                self.train(options)
            seconds[name] = round(time.perf_counter() - start, 1)
            rows = read_diagnostics(self.folder / "experiments" / name / "diagnostics.jsonl")
            losses[name] = {row["iter"]: row["values"] for row in rows if "values" in row}
        worst = 0.0
        for iteration in range(half + 1, total + 1):
            for key, value in losses["straight"][iteration].items():
                if key.startswith("loss/"):
                    again = losses["halves"][iteration][key]
                    worst = max(worst, abs(again - value) / max(abs(value), 1e-3))
        assert worst <= SAME, f"losses after a resume differ by {worst:.3g} of their size"
        return {"iterations": total, "greatest difference": float(f"{worst:.3g}"), "seconds": seconds}

    def short_run(self, recipe: str, **changes: dict[str, Any]) -> dict[str, Any]:
        """Ten iterations of a recipe: losses are numbers."""
        total = 2 if self.miniature else 10
        options = self.options(recipe, recipe, total)
        for block, values in changes.items():
            options[block].update(values)
        start = time.perf_counter()
        self.train(options)
        rows = read_diagnostics(self.folder / "experiments" / options["name"] / "diagnostics.jsonl")
        values = [row for row in rows if "values" in row][-1]
        losses = {key: value for key, value in values["values"].items() if key.startswith("loss/")}
        assert losses and all(value is not None and np.isfinite(value) for value in losses.values()), losses
        per_step = (values["seconds"] - rows[0]["seconds"]) / max(1, total - 1)
        took = time.perf_counter() - start
        return {"seconds of a step": round(per_step, 4), "seconds of the run": round(took, 1), **losses}

    def restoration(self, side: int) -> dict[str, Any]:
        """Bytes against the CPU's, and seconds, in float32 and bf16."""
        weights = ROOT / "amd_restore" / "weights" / "x4-classical.safetensors"
        picture = np.ascontiguousarray(crops(1, side)[0])
        start = time.perf_counter()
        reference = RestorationPipeline.from_pretrained(weights, "cpu", torch.float32).restore_image(picture)
        found: dict[str, Any] = {"pixels": f"{side} -> {4 * side}", "cpu, s": round(time.perf_counter() - start, 2)}
        kinds = {"float32": torch.float32}
        if self.miniature or has_bfloat16(self.device):
            kinds["bf16"] = torch.bfloat16
        for name, dtype in kinds.items():
            pipeline = RestorationPipeline.from_pretrained(weights, self.device, dtype)
            picture_of_device = pipeline.restore_image(picture)
            restore = functools.partial(pipeline.restore_image, picture)
            times = [self.seconds(restore) for _ in range(1 if self.miniature else 3)]
            difference = np.abs(picture_of_device.astype(int) - reference)
            found[f"{name}, s"] = round(statistics.median(times), 4)
            found[f"{name}, levels"] = {"max": int(difference.max()), "mean": round(float(difference.mean()), 4)}
            if dtype == torch.float32:
                assert difference.max() <= LEVELS, f"float32 differs from the CPU by {difference.max()} of 255"
        return found

    # ---- how fast ---------------------------------------------------------------------------------------------

    def step_time(self, batch: int, niqe: bool = True) -> dict[str, Any]:
        """Seconds of an AMD iteration of so many crops times ``group_size``, and the memory that it takes."""
        model, feed = self.model(batch, niqe)
        period = model.run.distill.fake_updates_per_student
        rounds = 1 if self.miniature else 6
        iteration = 0
        times = []
        for number in range(2 + rounds):
            start = time.perf_counter()
            for _ in range(period):
                iteration += 1
                feed(iteration)
            self.wait()
            if number >= 2 or self.miniature:
                times.append((time.perf_counter() - start) / period)
        step = statistics.median(times)
        found = {"seconds": round(step, 4), "crops per second": round(batch / step, 1)}
        if self.device.type == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found

    def profile(self) -> dict[str, Any]:
        """The kernels of two iterations; a trace for chrome://tracing."""
        model, feed = self.model(2 if self.miniature else 32)
        for iteration in range(1, 3):
            feed(iteration)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            for iteration in range(3, 5):
                feed(iteration)
            self.wait()
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        events = profiler.key_averages()
        own = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        top = sorted(events, key=lambda event: getattr(event, own), reverse=True)[:12]
        waits = sum(event.count for event in events if event.key in ("aten::item", "cudaStreamSynchronize"))
        kernels = sum(event.count for event in events if "LaunchKernel" in event.key)
        milliseconds = {event.key[:60]: round(getattr(event, own) / 1e3, 2) for event in top}
        return {"host waits per step": waits / 2, "launches per step": kernels / 2, "ms of two steps": milliseconds}

    # ---- parts ------------------------------------------------------------------------------------------------

    def options(self, recipe: str, name: str, iterations: int) -> dict[str, Any]:
        """A recipe with the released networks, made-up crops and no validation, that logs each iteration."""
        options = OptionFile.read(ROOT / "options" / "train" / f"{recipe}.yml").content
        degradation = "real" if "real" in recipe else "classical"
        weights = str(ROOT / "amd_restore" / "weights" / f"x4-{degradation}-teacher.safetensors")
        options.update(name=name, num_gpu=1 if self.device.type == "cuda" else 0)
        options["path"] = {"ignore_resume_networks": ["network_teacher"]}
        if self.miniature:
            options |= {key: dict(TINY) for key in ("network_g", "network_teacher", "network_fake") if key in options}
            if "network_d" in options:
                options["network_d"]["num_feat"] = 8
            options["num_threads"] = 1
            weights = str(self.tiny_weights())
        elif "network_teacher" in options:
            options["network_g"] = dict(options["network_teacher"])
        else:
            weights = str(ROOT / "amd_restore" / "weights" / f"x4-{degradation}.safetensors")
        options["path"] |= {
            f"pretrain_network_{net}": weights for net in ("g", "teacher") if f"network_{net}" in options
        }
        options["datasets"]["train"].update(crops_file=str(self.folder / "crops.npy"), gt_size=self.size)
        options["datasets"] = {"train": options["datasets"]["train"]}
        options.pop("val", None)
        if self.miniature:
            options["datasets"]["train"]["batch_size_per_gpu"] = 2
            options["rewards"] = [one for one in options.get("rewards", []) if one["type"] != "NIQEReward"]
        options["train"]["total_iter"] = iterations
        options["logger"] = {"print_freq": 1, "save_checkpoint_freq": iterations, "keep_checkpoints": 2}
        return options

    def tiny_weights(self) -> Path:
        """Weights of the tiny network, which answer with something."""
        from amd_restore.archs.flat_arch import FlatDenoiser

        path = self.folder / "tiny.pth"
        if not path.is_file():
            torch.manual_seed(0)
            net = FlatDenoiser(num_feat=8, num_block=1, time_feat=8)
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            torch.save({"params": net.state_dict(), "params_ema": net.state_dict()}, path)
        return path

    def written(self, options: dict[str, Any]) -> str:
        """An option file of these."""
        file = self.folder / f"{options['name']}.yml"
        file.write_text(yaml.safe_dump(options), encoding="utf-8")
        return str(file)

    def train(self, options: dict[str, Any], *force: str, resume: bool = False) -> None:
        """The training command, in this process."""
        arguments = ["-opt", self.written(options)] + (["--auto_resume"] if resume else [])
        arguments += ["--force_yml", *force] if force else []
        with contextlib.chdir(self.folder):
            code = run_pipeline(True, arguments)
        assert code == 0, f"the training of {options['name']} ended with {code}; its error is in log.txt"

    def model(self, batch: int, niqe: bool = True) -> tuple[Any, Callable[[int], None]]:
        """An AMD model, and what takes one step of it with crops that are on the device."""
        from amd_restore.registry import import_basicsr, register_all

        import_basicsr()
        register_all(training=True)
        from basicsr.models import build_model
        from basicsr.utils import get_root_logger

        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        options = self.options("amd_x4_classical", "timed", 100)
        options["datasets"]["train"]["batch_size_per_gpu"] = batch
        if not niqe:
            options["rewards"] = [reward for reward in options["rewards"] if reward["type"] != "NIQEReward"]
        parsed = build_parser(True).parse_args(["-opt", self.written(options)])
        opt = prepare_options(parsed, self.folder, is_train=True)
        settle_devices(opt, get_root_logger())
        model: Any = build_model(opt)
        images = crops(batch, self.size).transpose(0, 3, 1, 2)
        gt = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float() / 255

        def step(iteration: int) -> None:
            model.update_learning_rate(iteration)
            model.feed_data({"gt": gt})
            model.optimize_parameters(iteration)

        return model, step

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long ``work`` takes, its kernels included."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def crops(count: int, side: int) -> np.ndarray[Any, Any]:
    """Made-up pictures (count, side, side, 3) of 8 bits: waves of all directions and lengths, and some grain."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / 16.0
    images = []
    for _ in range(count):
        waves = sum(
            amplitude * np.sin(x * a + y * b + phase)[:, :, None] * colour
            for amplitude, a, b, phase, colour in zip(
                generator.uniform(5, 40, 6),
                generator.normal(0, 3, 6),
                generator.normal(0, 3, 6),
                generator.uniform(0, 6, 6),
                generator.uniform(0.2, 1, (6, 3)),
                strict=True,
            )
        )
        images.append(128 + waves + generator.normal(0, 3, (side, side, 3)))
    return np.clip(images, 0, 255).astype(np.uint8)
