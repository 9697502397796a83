"""Groups of curves, with a hint for each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quantity:
    """Diagram of a quantity.

    Attributes:
        key: name in the diagnostics file.
        title: heading.
        hint: interpretation in one sentence.
        band: keys of a lower and an upper limit, drawn as dotted lines.
        reference: value marked by a line.
    """

    key: str
    title: str
    hint: str
    band: tuple[str, str] | None = None
    reference: float | None = None


@dataclass(frozen=True)
class Group:
    """Section with diagrams of known quantities, then of other matching ones."""

    title: str
    hint: str
    quantities: tuple[Quantity, ...] = ()
    pattern: str = "$^"
    covered: frozenset[str] = field(default_factory=frozenset)  # keys that are drawn as part of others


GROUPS = (
    Group(
        "Forbidden Zone",
        "How many samples are worse than their group, and what the operator does about it.",
        (
            Quantity(
                "amd/forbidden_share",
                "Share of samples in the zone",
                "About a half is right for a symmetric reward; far from it, a few outliers decide the advantage.",
                reference=0.5,
            ),
            Quantity(
                "amd/clipped_share",
                "Share of advantages clipped at ±1",
                "Near 1 the advantage is only a sign (bang-bang): raise std_floor or the group size.",
            ),
            Quantity(
                "amd/alpha_mean",
                "Weight of guidance, α",
                "The mean stays near 1; the dotted lines, least and greatest, are what adaptation does.",
                ("amd/alpha_min", "amd/alpha_max"),
                1.0,
            ),
            Quantity(
                "amd/beta_mean",
                "Weight of matching, β",
                "The mirror image of α: more matching for what is worse than its group.",
                ("amd/beta_min", "amd/beta_max"),
                1.0,
            ),
            Quantity(
                "amd/alpha_std", "Standard deviation of α", "Zero is DMD; a fall towards zero says the group agrees."
            ),
            Quantity("amd/beta_std", "Standard deviation of β", "Equal to that of α unless one of them is clipped."),
        ),
    ),
    Group(
        "Direction of the student's step",
        "Whether what the operator adds leads to the image, or only away from the fake score.",
        (
            Quantity(
                "amd/cosine_gt",
                "Cosine of H with gt - x",
                "Above zero the step leads towards the ground truth.",
                reference=0.0,
            ),
            Quantity(
                "amd/cosine_gt_inside",
                "Cosine of H with gt - x, inside the zone",
                "If this is not above zero, the amplified term is noise, not correction.",
                reference=0.0,
            ),
            Quantity(
                "amd/cosine_gt_outside",
                "Cosine of H with gt - x, outside the zone",
                "The reference for the one inside: the two should not drift apart.",
                reference=0.0,
            ),
            Quantity(
                "amd/norm_matching",
                "Size of the matching part of H",
                "Falls as the student approaches the teacher; a rise means that the fake score lags.",
            ),
            Quantity(
                "amd/norm_guidance",
                "Size of the guidance part of H",
                "Far above the matching part, guidance decides alone: expect oversharpening.",
            ),
            Quantity("amd/grad_norm", "Size of H", "Bursts here are what gradient clipping cuts."),
        ),
    ),
    Group(
        "Fake teacher",
        "Whether the model of the student's own distribution keeps up.",
        (
            Quantity(
                "loss/l_fake",
                "Loss of the fake score",
                "Steady after the first iterations; a rise says the student runs away.",
            ),
            Quantity(
                "amd/fake_loss_inside",
                "Loss of the fake score, inside the zone",
                "With sharpening it should end below that of arms without: that is what sharpening is for.",
            ),
            Quantity(
                "amd/fake_loss_outside",
                "Loss of the fake score, outside the zone",
                "The price of sharpening shows here.",
            ),
        ),
    ),
    Group(
        "Samples",
        "What the student makes of one input from several noises.",
        (
            Quantity(
                "amd/diversity",
                "Difference between noises",
                "Zero is collapse to one answer; compare arms at equal quality.",
            ),
            Quantity(
                "amd/x0_std", "Standard deviation of the samples", "A fall means blur, a steady rise means noise."
            ),
            Quantity("amd/distance_real", "Distance to the teacher's estimate", "Falls while the student learns."),
        ),
    ),
    Group(
        "Rewards",
        "What the advantage is made of; these were optimised, so a rise here alone proves nothing.",
        (
            Quantity(
                "reward/total",
                "Reward, weighted sum",
                "Rises; its unit is its own running standard deviation, so compare trends and not levels of arms.",
            ),
            Quantity(
                "reward/group_std",
                "Reward, standard deviation inside groups",
                "Near zero the advantage divides by nothing: std_floor takes over.",
            ),
        ),
        r"reward/",
    ),
    Group("Losses", "The student's losses, each times its weight.", (), r"loss/"),
    Group("Validation", "Measured during training on the validation set; metric @ number of steps.", (), r"val/"),
    Group(
        "Cost",
        "What the diagnosis itself takes.",
        (Quantity("amd/overhead", "Share of step time for diagnostics", "Stays under 0.02.", reference=0.02),),
    ),
    Group("Everything else", "Quantities that have no place of their own yet.", (), r""),
)

_LOWER = ("lpips", "niqe", "dists", "brisque", "effnet", "l1")


def layout(keys: Iterable[str]) -> list[tuple[Group, list[Quantity]]]:
    """Return sections for the runs' keys: every key is drawn once; empty sections are left out."""
    left = dict.fromkeys(sorted(keys))
    sections = []
    for group in GROUPS:
        shown = [quantity for quantity in group.quantities if quantity.key in left]
        for quantity in shown:
            for key in (quantity.key, *(quantity.band or ())):
                left.pop(key, None)
        others = [key for key in left if re.match(group.pattern, key)]
        shown += [Quantity(key, _title(key), _hint(key)) for key in others]
        for key in others:
            del left[key]
        if shown:
            sections.append((group, shown))
    return sections


def _title(key: str) -> str:
    kind, _, name = key.partition("/")
    return name.replace("/", ", ") if kind in ("val", "loss") else f"Reward, {name}" if kind == "reward" else key


def _hint(key: str) -> str:
    kind, _, name = key.partition("/")
    if kind == "val":
        metric = name.rsplit("/", 1)[-1]
        return "Lower is better." if metric.startswith(_LOWER) else "Higher is better."
    if kind == "reward":
        return "In reward units: higher is better."
    if kind == "loss":
        return "Falls or stays; compare arms at the same iteration."
    return "No reading of this quantity is recorded."
