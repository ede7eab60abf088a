"""What a comparison leaves: figures, verdicts, its folder and the file of a trained resizer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda import reference
from learned_resizer_cuda.recipes.compare import ArmResult
from learned_resizer_cuda.recipes.config import ARMS, RunConfig
from learned_resizer_cuda.recipes.pictures import pick_images
from learned_resizer_cuda.recipes.report import Figure, Gap, as_dict, summarise
from learned_resizer_cuda.recipes.run import FILES, prepare_folder
from learned_resizer_cuda.recipes.weights import FORMAT, ResizerConfig, load_resizer, save_resizer

# figures and verdicts


def result(arm: str, accuracy: float, seed: int = 0, seconds: float = 1.0, steps: int = 400) -> ArmResult:
    none = torch.nn.Identity()
    return ArmResult(arm, seed, steps, accuracy, accuracy, 1.0, seconds, seconds, 0, "cpu", [], none, none)


def test_figure() -> None:
    assert Figure.of([0.5]).text(factor=100) == "50.0"
    assert Figure.of([0.5, 0.6, 0.7]).text(factor=100) == "60.0 ± 10.0"  # sample standard deviation


@pytest.mark.parametrize(
    ("learned", "other", "verdict", "words"),
    [
        (0.90, 0.60, "wins", "learned wins"),
        (0.60, 0.90, "loses", "does NOT win: bicubic is better"),
        (0.90, 0.89, "undecided", "does NOT win: no clear gain"),
        (0.89, 0.90, "undecided", "does NOT win: no clear gain"),
        (0.80, 0.80, "undecided", "does NOT win: no clear gain"),
    ],
)
def test_verdict(learned: float, other: float, verdict: str, words: str) -> None:
    config = RunConfig(arms=("bicubic", "learned"))
    summary = summarise(config, [result("bicubic", other), result("learned", learned)], 1000)
    (gap,) = summary.gaps
    p = (learned + other) / 2
    assert gap.margin == pytest.approx(2 * np.sqrt(2 * p * (1 - p) / 1000))
    assert gap.verdict == verdict and words in gap.sentence()
    assert f"{100 * (learned - other):+.1f} points" in gap.sentence()


def test_seeds_that_disagree_widen_the_margin() -> None:
    """Gaps of +25, +5 and -5 points: 8 on average, but no clear gain."""
    config = RunConfig(arms=("bicubic", "learned"), seeds=3)
    results = []
    for seed, accuracy in enumerate((0.85, 0.65, 0.55)):
        results += [result("bicubic", 0.6, seed), result("learned", accuracy, seed)]
    (gap,) = summarise(config, results, 100_000).gaps
    assert gap.gap.mean == pytest.approx(0.25 / 3) and gap.gap.std is not None
    assert gap.margin == pytest.approx(2 * gap.gap.std / np.sqrt(3), rel=0.01)
    assert gap.verdict == "undecided"


def test_gaps_and_note_on_the_long_arm() -> None:
    config = RunConfig()
    results = [result(arm, 0.5) for arm in ARMS if arm not in ("learned", "bicubic-long")]
    results += [result("learned", 0.9, seconds=50), result("bicubic-long", 0.7, seconds=60, steps=2000)]
    summary = summarise(config, results, 1000)
    assert [gap.against for gap in summary.gaps] == ["bicubic", "bilinear", "blind", "bicubic-long"]
    assert summary.notes == ["bicubic-long: 2,000 steps, 60 CPU s, at least the learned arm's 50 CPU s"]
    results[-1] = dataclasses.replace(results[-1], steps=4000)
    assert summarise(config, results, 1000).notes[0].endswith("--long-steps 4000 repeats it whatever the clock says")
    results[-1] = dataclasses.replace(results[-1], cpu_seconds=49.0)
    assert "LESS THAN" in summarise(config, results, 1000).notes[0]
    values = json.loads(json.dumps(as_dict(config, summary, 1.0, "cpu")))
    assert values["gaps"][3]["verdict"] == "wins" and values["arms"]["learned"]["test_accuracy"]["mean"] == 0.9


def test_no_gap_without_the_learned_arm() -> None:
    config = RunConfig(arms=("bilinear", "bicubic"))
    assert summarise(config, [result("bilinear", 0.5), result("bicubic", 0.6)], 1000).gaps == []


def test_gap_of_equal_extremes() -> None:
    assert Gap("bicubic", Figure.of([0.0]), 0.0).verdict == "undecided"


def test_sample_images_are_of_different_classes() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    chosen = pick_images(labels, 5)
    assert labels[chosen].tolist() == [0, 2, 4, 7, 9] and len(set(chosen)) == 5
    assert pick_images(torch.tensor([3, 3, 1]), 5)  # fewer classes than rows


# the run's folder


def test_folder_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    prepare_folder(folder, overwrite=False)
    prepare_folder(folder, overwrite=False)  # still empty
    for name in ("summary.json", "notes.txt"):
        (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match="not empty; choose another folder or pass --overwrite"):
        prepare_folder(folder, overwrite=False)
    assert (folder / "summary.json").read_text() == "mine"
    prepare_folder(folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]  # a stranger's file stays
    assert "notes.txt" not in FILES
    with pytest.raises(NotADirectoryError, match="is a file"):
        prepare_folder(folder / "notes.txt", overwrite=True)


# the trained resizer's file


def test_weights_survive_their_file(tmp_path: Path) -> None:
    config = ResizerConfig((16, 24), in_channels=1, num_filters=5, num_blocks=2, interpolation="lanczos")
    resizer = config.build()
    resizer(torch.rand(4, 1, 48, 48))  # running statistics move away from their start
    resizer.eval()
    path = tmp_path / "resizer.safetensors"
    save_resizer(resizer, config, path, {"seed": "0"})
    loaded, read = load_resizer(path)
    image = torch.rand(2, 1, 50, 40)
    assert read == config and not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(image), resizer(image))
        assert loaded(image).shape == (2, 1, 16, 24)


def test_weights_of_the_reference_load_too(tmp_path: Path) -> None:
    module = reference.Resizer(8, in_channels=3).eval()
    save_resizer(module, ResizerConfig((8, 8)), tmp_path / "a.safetensors")
    loaded, _ = load_resizer(tmp_path / "a.safetensors")
    image = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        # float32, values near 1, sums of 49 * 16 products: the bar set for FusedResizer against its reference
        assert (loaded(image) - module(image)).abs().max() <= 1e-5


def test_bad_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_resizer(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load_resizer(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds no learned resizer: its format is None"):
        load_resizer(path)
    good = json.dumps(dataclasses.asdict(ResizerConfig((8, 8))))
    for described, words in (
        (good, "does not describe a learned resizer.*Missing key"),
        ("{}", "does not describe"),
        ("not json", "does not describe"),
        (good.replace('"num_filters": 16', '"num_filters": 100000000'), "implausible"),
        (good.replace('"num_filters"', '"filters"'), "unexpected keyword"),
    ):
        save_file({"weight": torch.zeros(2)}, path, metadata={"format": FORMAT, "resizer": described})
        with pytest.raises(ValueError, match=f"(?s){words}"):
            load_resizer(path)
