"""network_d: who gets whose gradient, exact resume, and that options ask for what it needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distillation import feed, workshop  # noqa: F401
from training_setup import build_model, load_miniature, make_data, run_training

from amd_restore.archs.patch_arch import PatchDiscriminator
from amd_restore.errors import AMDRestoreError
from amd_restore.losses.metric_loss import EfficientNet
from amd_restore.losses.pixel_loss import L1
from amd_restore.models.discriminator import DiscriminatorOfFeatures, ImageDiscriminator, build_discriminator
from amd_restore.registry import register_all

OF_IMAGES = {"type": "PatchDiscriminator", "num_feat": 4}
OF_FEATURES = {"type": "FeatureDiscriminator", "loss": "effnet_lite1", "levels": 3, "num_feat": 8}
OPTIMIZER = {"type": "Adam", "lr": 1e-3, "betas": [0.5, 0.99]}


@pytest.fixture(autouse=True)
def registered() -> None:
    register_all(training=True)


def test_one_logit_for_every_eight_pixels() -> None:
    assert PatchDiscriminator(num_feat=4)(torch.rand(2, 3, 48, 64)).shape == (2, 1, 6, 8)


def check_owners(discriminator: ImageDiscriminator, student_loss: torch.Tensor, image: torch.Tensor) -> None:
    """The student's loss moves the image alone, the discriminator's own the discriminator alone."""
    student_loss.backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.net.parameters())
    image.grad = None
    discriminator.loss().backward()
    assert image.grad is None
    assert all(p.grad is not None for p in discriminator.net.parameters())


def test_gradients_stay_with_their_owner() -> None:
    discriminator = ImageDiscriminator(OF_IMAGES, torch.device("cpu"))
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    discriminator.receive(image, torch.rand(2, 3, 32, 32))
    check_owners(discriminator, discriminator.student_loss(), image)


def test_it_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    discriminator = ImageDiscriminator(OF_IMAGES, torch.device("cpu"))
    optimizer = torch.optim.Adam(discriminator.net.parameters(), lr=3e-3)
    for _ in range(60):
        sharp = torch.rand(4, 3, 32, 32)
        blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
        optimizer.zero_grad()
        discriminator.receive(blurred, sharp)
        discriminator.loss().backward()
        optimizer.step()
    sharp = torch.rand(4, 3, 32, 32)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    opinions = []
    for image in (sharp, blurred):
        discriminator.receive(image, sharp)
        opinions.append(float(discriminator.student_loss()))
    assert opinions[0] < 0.5 < opinions[1]


# ---- on features --------------------------------------------------------------------------------------------------


def of_features() -> tuple[DiscriminatorOfFeatures, EfficientNet]:
    loss = EfficientNet(random_views=False)
    discriminator = build_discriminator(OF_FEATURES, torch.device("cpu"), [loss])
    assert isinstance(discriminator, DiscriminatorOfFeatures)
    return discriminator, loss


def look(
    discriminator: DiscriminatorOfFeatures, loss: EfficientNet, image: torch.Tensor, gt: torch.Tensor
) -> torch.Tensor:
    """The loss, of which the discriminator keeps the features, then the student's loss by it."""
    with discriminator.watch(loss):
        loss(image, gt, image, torch.Generator())
    return discriminator.student_loss()


def test_heads_fit_the_layers_of_the_loss() -> None:
    discriminator, loss = of_features()
    assert loss.distance.channels == (16, 24, 40, 112, 320)
    logits = discriminator.net(
        [torch.rand(2, width, 24 >> i, 24 >> i) for i, width in enumerate(loss.distance.channels)]
    )
    assert [tuple(logit.shape) for logit in logits] == [(2, 1, 12, 12), (2, 1, 12, 12), (2, 1, 6, 6)]


def test_gradients_of_the_one_of_features_stay_with_their_owner() -> None:
    discriminator, loss = of_features()
    image, gt = torch.rand(2, 3, 48, 48, requires_grad=True), torch.rand(2, 3, 48, 48)
    check_owners(discriminator, look(discriminator, loss, image, gt), image)
    assert all(p.grad is None for p in loss.distance.parameters())
    assert loss.distance.tap is None


def test_parts_of_a_batch_are_judged_in_their_order() -> None:
    discriminator, loss = of_features()
    discriminator.net.eval()  # the norm's estimate goes on with every look in training
    images, gt = torch.rand(4, 3, 48, 48), torch.rand(4, 3, 48, 48)
    for part in (slice(0, 2), slice(2, 4)):
        look(discriminator, loss, images[part], gt[part])
    in_parts = [float(discriminator.loss().detach()) for _ in range(2)]
    look(discriminator, loss, images[:2], gt[:2])
    assert float(discriminator.loss().detach()) == pytest.approx(in_parts[0], abs=1e-6)
    assert in_parts[0] != pytest.approx(in_parts[1], abs=1e-6)


def test_the_one_of_features_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    discriminator, loss = of_features()
    optimizer = torch.optim.Adam(discriminator.net.parameters(), lr=3e-3)

    def opinion() -> torch.Tensor:
        sharp = torch.rand(4, 3, 48, 48)
        return look(discriminator, loss, torch.nn.functional.avg_pool2d(sharp, 3, 1, 1), sharp)

    before = float(opinion())
    discriminator._received.clear()
    for _ in range(20):
        opinion()
        optimizer.zero_grad()
        own = discriminator.loss()
        own.backward()
        optimizer.step()
    assert own < 0.1 < 0.6 < before < 0.8
    assert opinion() > 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "niqe"}, "network_d.loss: no loss 'niqe'; there are: effnet_lite1, l1"),
        ({"loss": "l1"}, "network_d.loss: 'l1' has no features; effnet and effnet_lite1 do"),
    ],
)
def test_the_one_of_features_needs_a_loss_with_features(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AMDRestoreError) as caught:
        build_discriminator(OF_FEATURES | options, torch.device("cpu"), [EfficientNet(), L1()])
    assert str(caught.value) == message


# ---- in training --------------------------------------------------------------------------------------------------


def start_of(folder: Path) -> str:
    return str(next((folder / "experiments").glob("*/models/net_g_latest.pth")))


def options_of(folder: Path, teacher: str, discriminator: dict[str, Any], **changes: Any) -> dict[str, Any]:
    options = load_miniature("amd_x4_classical", folder, teacher=teacher)
    options["network_d"] = dict(discriminator)
    if discriminator is OF_FEATURES:
        options["losses"].append({"type": "EfficientNet", "weight": 0.1})
    options["losses"].append({"type": "Adversarial", "weight": 0.1})
    options["train"]["optim_d"] = dict(OPTIMIZER)
    options.update(changes)
    return options


@pytest.mark.parametrize("discriminator", [OF_IMAGES, OF_FEATURES])
def test_resume_is_exact(workshop: Path, tmp_path: Path, discriminator: dict[str, Any]) -> None:  # noqa: F811
    states = []
    for name, stops in (("straight", [4]), ("resumed", [2, 4])):
        folder = tmp_path / name
        folder.mkdir()
        make_data(folder)
        for stop in stops:
            options = options_of(folder, start_of(workshop), discriminator)
            options["train"]["total_iter"] = stop
            result = run_training(options, folder, "--auto_resume")
            assert result.returncode == 0, result.stderr[-2000:]
        models = folder / "experiments" / options["name"]
        for net in ("net_d", "net_g"):
            states.append(torch.load(models / "models" / f"{net}_4.pth", weights_only=True)["params"])
        shutil.rmtree(models / "models")
    for a, b in zip(states[:2], states[2:], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_losses_of_both_are_in_the_log_and_the_weight_counts(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    make_data(tmp_path)
    options = options_of(tmp_path, start_of(workshop), OF_IMAGES)
    options["losses"][-1]["weight"] = 0.5
    model = build_model(options | {"amp": "none"}, tmp_path)
    feed(model)
    model.seed_step(1)
    rollout = model.generate(model.draw_rollout(), with_gradient=True)
    assert "l_adversarial" not in model.student_losses(rollout)
    losses = model.adversarial_loss(rollout)
    model.losses.discriminator.net.eval()  # the norm's estimate goes on with every call in training
    expected = model.losses.discriminator.student_loss()
    assert float(losses["l_adversarial"].detach()) == pytest.approx(0.5 * float(expected.detach()), rel=0.05)
    assert "adversarial" not in model.reward_names(), "no metric"
    model.optimize_parameters(2)
    assert {"l_adversarial", "l_d"} <= set(model.get_current_log())


def test_a_discriminator_needs_an_optimizer(workshop: Path, tmp_path: Path) -> None:  # noqa: F811
    make_data(tmp_path)
    options = options_of(tmp_path, start_of(workshop), OF_IMAGES)
    del options["train"]["optim_d"]
    result = run_training(options, tmp_path)
    assert result.returncode == 2
    assert "train.optim_d: missing; network_d needs it" in result.stderr.strip().splitlines()[-1]
