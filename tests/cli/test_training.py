"""`learned-resizer train`, `transfer`, `ablate` and `evaluate` from the command line, on few steps of the real data."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from PIL import Image

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.cli.main import main
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.weights import load_resizer
from tests.helpers.few_digits import few_digits
from tests.helpers.photo_folders import class_folder

__all__ = ["few_digits"]

SHORT = ("--steps", "3", "--batch-size", "4", "--evaluations", "1", "--accelerator", "cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of a run on a few tiny images."""
    data = class_folder(tmp_path_factory.mktemp("images"), train=6, val=8)
    network = ("--model", "small_cnn", "--size", "8", "--input-size", "16")
    return ("--data", str(data), *network, "--optimizer", "adamw", "--schedule", "one-cycle", *SHORT)


def command(name: str, *arguments: object) -> int:
    """The exit code of one command line."""
    try:
        return main([name, *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def looks_like_a_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.width > 600 and len(picture.convert("L").getcolors() or range(256)) > 50


def test_train(tmp_path: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    arms = "bilinear,learned,blind,control,control-long"
    options = ("--seeds", 2, "--arms", arms, "--long-factor", 2, "--output", folder)
    assert command("train", *small, *options) == 0
    printed = capsys.readouterr().out
    written = {path.name for path in folder.iterdir()}
    pictures = {"curves.png", "samples.png", "spectrum.png"}
    files = {"config.yaml", "metrics.csv", "summary.json", "report.html", "resizer.safetensors", "stages"}
    assert written == files | pictures
    assert not list(folder.glob("stages/*/last.ckpt"))

    config = RunConfig.load(folder / "config.yaml")
    assert (config.arms, config.seeds, config.steps, config.long_factor) == (tuple(arms.split(",")), 2, 3, 2)
    summary = json.loads((folder / "summary.json").read_text())
    assert [arm["arm"] for arm in summary["arms"]] == arms.split(",")
    assert [gap["against"] for gap in summary["gaps"]] == ["bilinear", "blind", "control", "control-long"]
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    for arm in summary["arms"]:
        steps = 6 if arm["arm"] == "control-long" else 3
        assert arm["steps"] == steps and len(arm["metrics"]["accuracy"]["values"]) == 2
        for seed in (0, 1):
            mine = [row for row in rows if (row["arm"], row["seed"]) == (arm["arm"], str(seed))]
            tests = [row for row in mine if row["split"] == "test"]
            assert [int(row["step"]) for row in tests] == [0, steps]
            assert float(tests[-1]["accuracy"]) == arm["metrics"]["accuracy"]["values"][seed]
            assert [int(row["step"]) for row in mine if row["split"] == "train"] == list(range(1, steps + 1))
        assert re.search(rf"{arm['arm']} +│ +{steps} │ +[\d.]+ ± [\d.]+ │", printed)
    for gap in summary["gaps"]:
        assert gap["sentence"] in printed
    # The others start from the trained baseline, which control still is before its first step
    trained = [row for row in rows if row["arm"] == "bilinear" and row["split"] == "test" and row["step"] == "3"]
    untouched = [row for row in rows if row["arm"] == "control" and row["split"] == "test" and row["step"] == "0"]
    assert [row["loss"] for row in trained] == [row["loss"] for row in untouched]

    resizer, config = load_resizer(FusedResizer, folder / "resizer.safetensors")
    assert config.in_channels == 3 and config.size == (8, 8)
    assert resizer(torch.rand(1, 3, 16, 16)).shape == (1, 3, 8, 8)
    assert all(looks_like_a_picture(folder / name) for name in pictures)
    report = (folder / "report.html").read_text()
    assert report.count("<img") == 3 and all(gap["sentence"] in report for gap in summary["gaps"])

    # evaluate reproduces the figures of the run from its files
    assert command("evaluate", folder, "--arms", "learned,control", "--accelerator", "cpu", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["arm"], one["seed"]) for one in found] == [(a, s) for s in (0, 1) for a in ("learned", "control")]
    for one in found:
        arm = next(arm for arm in summary["arms"] if arm["arm"] == one["arm"])
        assert one["metrics"]["accuracy"] == arm["metrics"]["accuracy"]["values"][one["seed"]]
    assert command("evaluate", folder, "--arms", "cubic") == 2
    assert "arms: got cubic; expected some of bilinear, learned" in capsys.readouterr().err

    # another network behind the trained resizer
    transferred = tmp_path / "transferred"
    options = ("--resizer", folder / "resizer.safetensors", "--output", transferred, "--evaluations", 2)
    assert command("transfer", *small, *options) == 0
    printed = capsys.readouterr().out
    summary = json.loads((transferred / "summary.json").read_text())
    assert [arm["arm"] for arm in summary["arms"]] == ["bilinear", "transfer", "fresh", "control"]
    compared = [(gap["against"], gap["before"]) for gap in summary["gaps"]]
    assert compared == [("bilinear", False), ("control", False), ("fresh", False), ("bilinear", True)]
    assert "by epoch of tuning" in printed and looks_like_a_picture(transferred / "transfer.png")
    assert command("evaluate", transferred, "--arms", "transfer", "--accelerator", "cpu") == 0
    capsys.readouterr()
    options = ("--resizer", folder / "resizer.safetensors", "--output", tmp_path / "grey")
    assert command("transfer", *SHORT, *options) == 2
    assert "for images of 3 channels; expected 1" in capsys.readouterr().err


def test_ablate(tmp_path: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert command("ablate", *small, "--num-blocks", "0,1", "--num-filters", "4", "--output", folder) == 0
    summary = json.loads((folder / "summary.json").read_text())
    arms = {arm["arm"]: arm for arm in summary["arms"]}
    assert list(arms) == ["bilinear", "r0-n4", "r1-n4", "control"]
    assert arms["r0-n4"]["resizer_parameters"] < arms["r1-n4"]["resizer_parameters"]
    # One block is two 3×3 convolutions of n² filters at the output's 8×8: 2 · 2 · 9 · n² · 64 operations.
    assert arms["r1-n4"]["gflop"] - arms["r0-n4"]["gflop"] == pytest.approx(2 * 2 * 9 * 16 * 64 / 1e9, rel=1e-9)
    assert arms["control"]["gflop"] < arms["r0-n4"]["gflop"]
    assert looks_like_a_picture(folder / "ablation.png")
    assert "Test metric against cost" in capsys.readouterr().out


@pytest.mark.usefixtures("few_digits")
def test_built_in_digits(tmp_path: Path) -> None:
    """Without --data: real images from the installed packages, with settings to suit them."""
    assert command("train", *SHORT, "--arms", "learned", "--output", tmp_path / "run") == 0
    resizer, _ = load_resizer(FusedResizer, tmp_path / "run/resizer.safetensors")
    assert resizer(torch.rand(1, 1, 96, 96)).shape == (1, 1, 16, 16)
    assert "digit" in (tmp_path / "run/report.html").read_text()


def test_image_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from learned_resizer_cuda.data import quality

    monkeypatch.setattr(quality.QualityPhotographs, "test_size", 60)
    folder = tmp_path / "run"
    assert command("train", "--task", "iqa", *SHORT, "--arms", "bilinear,learned", "--output", folder) == 0
    assert "SRCC" in capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    for arm in summary["arms"]:
        assert set(arm["metrics"]) == {"plcc", "srcc"} and arm["train_accuracy"] is None
        assert all(-1 <= figure["mean"] <= 1 for figure in arm["metrics"].values())


@pytest.mark.slow
def test_normalised_sweep_from_a_file(tmp_path: Path, small: tuple[str, ...]) -> None:
    """--config takes any option, the command line takes precedence, and --normalize reaches the resizer."""
    (tmp_path / "mine.yaml").write_text("seed: 7\nnormalize: true\narms: [bilinear]\nsteps: 2\n")
    folder = tmp_path / "run"
    options = ("--config", tmp_path / "mine.yaml", *small, "--input-size", "16,20", "--output", folder)
    assert command("train", *options) == 0
    config = RunConfig.load(folder / "config.yaml")
    assert (config.input_size, config.normalize, config.arms) == ((16, 20), True, ("bilinear",))
    assert (config.seed, config.steps) == (7, 3)
    summary = json.loads((folder / "summary.json").read_text())
    assert [(arm["arm"], arm["input_size"]) for arm in summary["arms"]] == [("bilinear", 16), ("bilinear", 20)]
    assert not (folder / "resizer.safetensors").exists()  # no learned resizer, so none is saved
    # A run's own config.yaml reproduces its figures
    again = tmp_path / "again"
    assert command("train", "--config", folder / "config.yaml", "--output", again) == 0
    values = [json.loads((path / "summary.json").read_text())["arms"] for path in (folder, again)]
    assert [arm["test_loss"] for arm in values[0]] == [arm["test_loss"] for arm in values[1]]


def test_default_folder_has_the_date(tmp_path: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("train", *small, "--arms", "bilinear") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}", folder.name)
    # Lightning must not leave folders of its own
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_folder_in_use(tmp_path: Path, small: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text("mine")
    arguments = (*small, "--arms", "bilinear", "--output", tmp_path)
    assert command("train", *arguments) == 2
    assert "is not empty; choose another folder or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == "mine"
    assert command("train", *arguments, "--overwrite") == 0
    assert "bilinear" in (tmp_path / "summary.json").read_text()
    assert command("train", *arguments) == 2
    assert "holds a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ("--arms", "bilinear,cubic"), "arms: got 'cubic'; expected one of"),
        ("train", ("--arms", ""), "arms: got none"),
        ("train", ("--steps", "0"), "steps: got 0; expected at least 2"),
        ("train", ("--interpolation", "nearest"), "interpolation: got 'nearest'"),
        ("train", ("--loss", "hinge"), "loss: got 'hinge'"),
        ("train", ("--accelerator", "abacus"), "accelerator: got 'abacus'"),
        ("train", ("--steps", "many"), "--steps"),
        ("train", ("--input-size", "96,large"), "input_size: got '96,large'; expected whole numbers"),
        ("train", ("--model", "resnet5"), "model: got 'resnet5'; expected small_cnn, inception_v2 or a timm model"),
        ("train", ("--data", "nowhere"), "data: got nowhere; expected a folder"),
        ("train", ("--config", "nowhere.yaml"), "config: no such file: nowhere.yaml"),
        ("transfer", (), "resizer: got none; expected the file of a trained resizer"),
        ("transfer", ("--resizer", "nowhere.safetensors"), "no such file: nowhere.safetensors"),
        ("ablate", ("--num-blocks", "1,1"), "num_blocks: got 1, 1; expected each once"),
    ],
)
def test_wrong_arguments(
    name: str, arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(name, *SHORT[2:], *arguments, "--output", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_evaluate_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", tmp_path) == 2
    assert "expected the folder of a run" in capsys.readouterr().err
    RunConfig.make({}).save(tmp_path / "config.yaml")
    assert command("evaluate", tmp_path) == 2
    assert "expected at least one finished stage" in capsys.readouterr().err


@pytest.mark.slow
def test_learned_resizer_wins_by_the_image_s_detail(tmp_path: Path) -> None:
    """A quarter of the default epochs."""
    folder = tmp_path / "run"
    options = ("--baseline-epochs", 1.6, "--epochs", 3.2, "--arms", "blind,learned,control")
    assert command("train", *options, "--output", folder) == 0
    gaps = {gap["against"]: gap for gap in json.loads((folder / "summary.json").read_text())["gaps"]}
    for against in ("blind", "control"):
        assert gaps[against]["verdict"] == "wins", gaps[against]["sentence"]
