"""The pictures of an ablation of AMD, from results and diagnostics that are known."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from places import REPOSITORY

from amd_restore.benchmark.drawing import pyplot
from amd_restore.errors import AMDRestoreError, run_command

sys.path.append(str(REPOSITORY / "benchmarks" / "scripts"))
amd_plots: Any = importlib.import_module("amd_plots")

AMD = {"advantage": "teacher", "adaptation_strength": 0.9}
ARMS: dict[str, Any] = {
    "direct": {"distill": {"weight_dmd": 0.0}},
    "DMD 1": {"distill": {"weight_dmd": 1.0}},
    "DMD .3": {},
    "low times": {"distill": {"t_max": 0.5}},
    "guided": {"distill": {"guidance_scale": 1.5}},
    "AMD": {"distill": AMD},
    "AMD, permuted": {"distill": {**AMD, "permute_advantage": True}},
    "AMD group": {"distill": {"adaptation_strength": 0.9}},
    "slower": {"train": {"optim_g": {"lr": 1e-5}}},
}
# arm -> (PSNR-Y, LPIPS) of both seeds' means, the second seed .01 better in both; share of the zone
VALUES = {arm: (26.0 + 0.1 * i, 0.20 - 0.004 * i) for i, arm in enumerate(ARMS)}


def write(
    folder: Path,
    metrics: tuple[str, ...] = ("psnr_y", "lpips_alex"),
    diagnostics: bool = True,
    total_iter: int = 100,
) -> Path:
    """Results of two seeds and two images, and diagnostics of the arms with advantages."""
    results, costs = [], {}
    for position, arm in enumerate(ARMS):
        values: dict[str, Any] = {}
        for metric, mean in zip(("psnr_y", "lpips_alex"), VALUES[arm], strict=True):
            better = 0.01 if metric == "psnr_y" else -0.01
            values[metric] = [[mean - 0.02, mean + 0.02], [mean + better, mean + better]]
        values["brisque"] = [[30.0 + position, None], [30.0, 31.0]]
        rows = {metric: values[metric] for metric in metrics}
        results += [
            {"arm": arm, "steps": 1, "dataset": dataset, "seeds": [0, 1], "values": rows} for dataset in ("val", "set")
        ]
        for seed in (0, 1):
            run = f"mini_{position}_s{seed}"
            costs[run] = {"arm": arm, "seed": seed}
            if diagnostics and "AMD" in arm:
                (folder / "experiments" / run).mkdir(parents=True)
                lines = [
                    {
                        "iter": it,
                        "values": {
                            "amd/forbidden_share": 0.1 + 0.01 * seed + it / 1000,
                            "amd/cosine_gt_inside": None if it == 10 else 0.3 + 0.1 * seed,
                            "amd/cosine_gt_outside": 0.2,
                        },
                    }
                    for it in (10, 20)
                ]
                lines.append({"iter": 20, "validation": {}})
                text = "\n".join(json.dumps({"seconds": 1.0, **line}) for line in lines)
                (folder / "experiments" / run / "diagnostics.jsonl").write_text(text + "\n", encoding="utf-8")
    options = {
        "name": "mini",
        "base": "base.yml",
        "total_iter": total_iter,
        "evaluation": {},
        "overrides": {"distill": {"weight_dmd": 0.3}},
        "arms": ARMS,
        "compare_to": ["direct", "DMD .3"],
        "endpoint": {"dataset": "val", "steps": 1, "metric": "lpips_alex"},
    }
    file = folder / "mini.json"
    file.write_text(json.dumps({"options": options, "results": results, "costs": costs}), encoding="utf-8")
    return file


@pytest.fixture
def ablation(tmp_path: Path) -> Any:
    return amd_plots.Ablation(write(tmp_path, ("psnr_y", "lpips_alex", "brisque")), tmp_path / "experiments")


def test_gains_are_paired_by_seed_and_better_is_positive(ablation: Any) -> None:
    position = list(ARMS).index("AMD")
    assert ablation.gains("AMD") == pytest.approx({0: 0.004 * position, 1: 0.004 * position})
    assert ablation.differences("AMD", "set", "psnr_y") == pytest.approx({0: 0.1 * position, 1: 0.1 * position})
    assert ablation.by_seed("direct", "val", "lpips_alex") == pytest.approx({0: 0.2, 1: 0.19})
    assert ablation.by_seed("direct", "val", "brisque") == pytest.approx({0: 30.0, 1: 30.5}), (
        "without what is undefined"
    )


def test_shares_and_cosines_are_those_of_the_run(ablation: Any) -> None:
    assert ablation.share("AMD") == pytest.approx({0: 0.115, 1: 0.125})
    assert ablation.logged("AMD", "amd/cosine_gt_inside") == {0: [(20, 0.3)], 1: [(20, 0.4)]}
    assert ablation.share("DMD 1") == {}


def test_every_arm_has_its_family(ablation: Any) -> None:
    families = {arm.name: ablation.family(arm) for arm in ablation.arms}
    assert families == {
        **dict.fromkeys(("direct", "DMD 1", "DMD .3"), "DMD, by weight"),
        **dict.fromkeys(("AMD", "AMD, permuted", "AMD group"), "AMD"),
        **dict.fromkeys(("low times", "slower"), "DMD, varied"),
        "guided": "guidance",
    }
    assert [arm.name for arm in ablation.arms if arm.is_relative] == ["AMD", "AMD, permuted"]


def test_further_results_add_the_arms_that_are_missing(tmp_path: Path, ablation: Any) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    file = write(folder)
    content = json.loads(file.read_text(encoding="utf-8").replace('"guided"', '"guided more"'))
    for row in content["results"]:
        row["values"]["psnr_y"] = [[value + 1.0 for value in seed] for seed in row["values"]["psnr_y"]]
    file.write_text(json.dumps(content), encoding="utf-8")
    before = ablation.by_seed("DMD 1", "val", "psnr_y")
    ablation.add(amd_plots.Ablation(file, folder))
    assert [arm.name for arm in ablation.arms] == [*ARMS, "guided more"]
    assert ablation.by_seed("DMD 1", "val", "psnr_y") == before
    position = list(ARMS).index("guided")
    assert ablation.differences("guided more", "val", "psnr_y")[0] == pytest.approx(1.0 + 0.1 * position)
    assert ablation.family(ablation.arms[-1]) == "guidance"

    longer = tmp_path / "longer"
    longer.mkdir()
    with pytest.raises(AMDRestoreError, match=r"mini: another setting than mini \(total_iter\)"):
        ablation.add(amd_plots.Ablation(write(longer, total_iter=200), longer))


def texts(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.texts} - {""}  # lines to distant points


def test_what_the_pictures_show(ablation: Any) -> None:
    plt = pyplot()
    (axes,) = amd_plots.plot_gain(ablation, plt).axes
    assert {"AMD", "AMD, permuted", "direct", "DMD .3"} == texts(axes)
    assert "%" in axes.get_xlabel() and "LPIPS-Alex" in axes.get_ylabel() and "direct" in axes.get_ylabel()
    mean = next(line for line in axes.lines if line.get_marker() == "D")
    assert (mean.get_xdata()[0], mean.get_ydata()[0]) == pytest.approx((12.0, 0.02))

    panels = amd_plots.plot_cosine(ablation, plt).axes
    assert [axes.get_title("left") for axes in panels] == ["AMD", "AMD, permuted", "AMD group"]
    inside, outside = panels[0].lines[:2]
    assert list(inside.get_xdata()) == [20] and inside.get_ydata()[0] == pytest.approx(0.35)
    assert list(outside.get_xdata()) == [10, 20]
    assert panels[0].get_xlabel() == "iteration" and "cosine" in panels[0].get_ylabel()

    panels = amd_plots.plot_tradeoff(ablation, plt).axes
    assert len(panels) == 4, "two sets, LPIPS and BRISQUE"
    for axes in panels:
        assert texts(axes) == set(ARMS) and "dB" in axes.get_xlabel() and axes.yaxis_inverted()
    line = next(line for line in panels[0].lines if len(line.get_xdata()) == 3)
    assert list(line.get_xdata()) == pytest.approx([0.0, 0.2, 0.1]), "by weight: 0, .3, 1"
    plt.close("all")


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    amd_plots.main([str(file), "--experiments", str(tmp_path / "experiments"), "--out", str(tmp_path / "out")])
    names = [f"mini_{kind}.png" for kind in ("gain", "cosine", "tradeoff")]
    assert [Path(line).name for line in capsys.readouterr().out.split()] == names
    assert all((tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG") for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"diagnostics": False}, "no diagnostics.jsonl of an arm"), ({"metrics": ("lpips_alex",)}, "no psnr_y together")],
)
def test_what_is_missing_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arguments = [str(write(tmp_path, **changes)), "--experiments", str(tmp_path / "experiments")]
    with pytest.raises(AMDRestoreError, match=message):
        amd_plots.main(arguments)


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    file.write_text("{}", encoding="utf-8")
    assert run_command(lambda: amd_plots.main([str(file)])) != 0
    assert f"error: {file}: no results of an ablation" in capsys.readouterr().err
