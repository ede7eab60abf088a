"""Training and testing at native sizes: fronts for images of any sizes, whole runs, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.data.source import NATIVE, MixedImages
from learned_resizer_cuda.train.batch_size import random_images
from learned_resizer_cuda.train.batches import Batches
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.limits import check_batch
from learned_resizer_cuda.train.models import build_models, learned_part
from learned_resizer_cuda.train.protocol import Stage, plan
from learned_resizer_cuda.train.recalibrate import recalibrate
from learned_resizer_cuda.weights import load_resizer
from tests.helpers.failures import command
from tests.helpers.gloo_processes import needs_gloo
from tests.helpers.photo_folders import class_folder

SMALL = {"model": "small_cnn", "size": 8, "num_filters": 4, "accelerator": "cpu"}
SHORT = (
    *("--model", "small_cnn", "--size", 8, "--steps", 3, "--batch-size", 4, "--evaluations", 1, "--accelerator", "cpu"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folder(tmp_path_factory.mktemp("images"), train=6, val=3)


def stages(config: RunConfig) -> dict[tuple[Any, str], Stage]:
    return {(stage.input_size, stage.arm): stage for stage in plan(config, lambda _: 1.0)}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("arm", ["bicubic", "learned", "blind"])
def test_fronts_give_what_those_of_one_size_give_each_region(data: Path, arm: str, normalize: bool) -> None:
    config = RunConfig.make(
        SMALL | {"data": str(data), "input_size": [16, NATIVE], "arms": ["bicubic", arm], "normalize": normalize}
        if arm != "bicubic"
        else SMALL | {"data": str(data), "input_size": [16, NATIVE], "arms": [arm], "normalize": normalize}
    )
    source = config.open_source(NATIVE)
    terms = (config.mean, config.std) if normalize else None
    images = Batches(source, 0, 6, normalize=terms).prepare(source.train_batch(0, 0, 6)).images
    assert isinstance(images, MixedImages) and len({image.shape for image in images.images}) > 3
    assert any(images.flip) and not all(images.flip)
    of = stages(config)
    one, native = (build_models(of[size, arm], config, 3, [2])[0].eval() for size in (16, NATIVE))
    with torch.no_grad():
        found = native(images)
        for crop, result in zip(images.crops(), found, strict=True):
            whole = Batches(source, 0, 1, normalize=terms)
            seen = whole.prepare(source.test_batch(slice(0))._replace(images=crop[None])).images
            # float32: normalised before a filter, or after it or in the stem
            torch.testing.assert_close(result, one(seen)[0], rtol=1e-5, atol=2e-6)


def test_a_fronts_dtype_is_its_networks(data: Path) -> None:
    config = RunConfig.make(SMALL | {"data": str(data), "input_size": NATIVE})
    source = config.open_source(NATIVE)
    images = Batches(source, 0, 2, dtype=torch.float64).prepare(source.train_batch(0, 0, 2)).images
    for arm in ("bilinear", "learned", "blind"):
        front, network = build_models(stages(config)[NATIVE, arm], config, 3, [2])
        assert front(images).dtype == network(front(images)).dtype == torch.float32
        model = torch.nn.Sequential(front, network).double()
        assert front(images).dtype == model(images).dtype == torch.float64
        assert not [name for name in model.float().state_dict() if "dtype" in name or "image_" in name]


def test_statistics_are_recomputed(data: Path) -> None:
    config = RunConfig.make(SMALL | {"data": str(data), "input_size": NATIVE})
    model = torch.nn.Sequential(*build_models(stages(config)[NATIVE, "learned"], config, 3, [2]))
    norm = learned_part(model[0]).norm1
    before = norm.running_mean.clone()
    recalibrate(model, (batch.images for batch in Batches(config.open_source(NATIVE), 0, 4).train(range(2))))
    assert not torch.equal(norm.running_mean, before) and int(norm.num_batches_tracked) == 2


@pytest.mark.slow
def test_a_run(data: Path, tmp_path: Path) -> None:
    """One size and native in a sweep; then resumed, tested at other sizes, and its resizer in use."""
    run = tmp_path / "run"
    options = (*SHORT, "--data", data, "--input-size", "16,native", "--max-pixels", 300, "--arms", "learned,blind")
    assert command("train", *options, "--output", run)[0] == 0
    config = RunConfig.load(run / "config.yaml")
    assert config.input_size == (16, NATIVE) and config.max_pixels == 300
    summary = json.loads((run / "summary.json").read_text())
    arms = {(arm["input_size"], arm["arm"]): arm for arm in summary["arms"]}
    assert [*arms] == [(size, arm) for size in (16, NATIVE) for arm in ("bilinear", "learned", "blind")]
    assert {gap["input_size"] for gap in summary["gaps"]} == {16, NATIVE}
    assert "native: gflop is the mean over 6 test images, whose regions have" in summary["notes"][-1]
    cost = {size: arms[size, "learned"]["gflop"] - arms[size, "bilinear"]["gflop"] for size in (16, NATIVE)}
    # Affine in the pixels, and regions have at most 300 where the others have 256.
    assert 0 < cost[NATIVE] < 300 / 256 * cost[16]
    sizes = {row["input_size"] for row in csv.DictReader((run / "metrics.csv").open())}
    assert sizes == {"16", NATIVE}
    assert "native" in (run / "report.html").read_text()

    # The file is that of any learned resizer.
    file = run / "stages/learned-native-seed0/resizer.safetensors"
    resizer, arguments = load_resizer(FusedResizer, file)
    assert arguments.mean is arguments.std is None and resizer.image_mean is None
    image = next((data / "val").rglob("*.png"))
    assert command("resize", image, "--weights", file, "--output", tmp_path / "out")[0] == 0

    # The run's own figures from its files; at other sizes; with one option more.
    code, printed = command("evaluate", run, "--accelerator", "cpu", "--json")
    figures = json.loads(printed[printed.index("[\n") :])
    assert code == 0
    for one in figures:
        assert one["test_size"] == one["input_size"]
        assert one["metrics"]["accuracy"] == arms[one["input_size"], one["arm"]]["metrics"]["accuracy"]["values"][0]
    for size in (NATIVE, 20):
        code, printed = command("evaluate", run, "--accelerator", "cpu", "--json", "--input-size", size)
        assert code == 0 and {one["test_size"] for one in json.loads(printed[printed.index("[\n") :])} == {size}
    code, printed = command("evaluate", run, "--accelerator", "cpu", "--input-size", NATIVE, "--max-pixels", 100)
    assert code == 0 and "tested at" in printed

    # Finished but for its last stage, as after a crash: the rest is read again.
    (run / "summary.json").unlink()
    (run / "stages/blind-native-seed0/result.json").unlink()
    assert command("train", *options, "--output", run)[0] == 0
    again = json.loads((run / "summary.json").read_text())
    assert [arm["metrics"] for arm in again["arms"]] == [arm["metrics"] for arm in summary["arms"]]
    # Into a run of another network.
    transferred = tmp_path / "transferred"
    options = (*SHORT, "--data", data, "--input-size", NATIVE, "--resizer", file, "--output", transferred)
    assert command("transfer", *options)[0] == 0
    assert load_resizer(FusedResizer, transferred / "resizer.safetensors")[1] == arguments


def test_a_configuration_of_before(tmp_path: Path) -> None:
    """A config.yaml without max_pixels is that of the same run, which then resumes (``RunFolder``)."""
    config = RunConfig.make({"input_size": [96, 128]})
    config.save(tmp_path / "config.yaml")
    former = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(former.replace("max_pixels: null\n", ""))
    assert (tmp_path / "config.yaml").read_text() != former
    assert RunConfig.load(tmp_path / "config.yaml") == config


@pytest.mark.slow  # two starts of the command, one of two processes: 10 s
@needs_gloo
def test_two_processes_train_as_one(data: Path, tmp_path: Path) -> None:
    """Regions of other sizes in each: statistics count their pixels."""
    rows = []
    for devices in ("1", "2"):
        folder = tmp_path / devices
        options = (*SHORT, "--precision", "64-true", "--data", data, "--input-size", NATIVE, "--arms", "learned,blind")
        words = ("-m", "learned_resizer_cuda", "train", *options, "--devices", devices, "--output", folder)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, words)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        rows.append(list(csv.DictReader((folder / "metrics.csv").open())))
    assert len(rows[0]) == len(rows[1]) == 3 * 5
    for one, other in zip(*rows, strict=True):
        gap = abs(float(one["loss"]) - float(other["loss"]))
        # As in test_distributed.py: float64, and a float32 mean over the test images.
        assert gap <= (1e-12 if one["split"] == "train" else 1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"input_size": "natural"}, "input_size: got 'natural'; expected an integer or native"),
        ({"input_size": [NATIVE, NATIVE]}, "input_size: got native, native; expected each once"),
        ({"input_size": [8, NATIVE]}, "input_size: got 8, native; expected at least size, 16"),
        ({"input_size": NATIVE, "data": "digits"}, "expected numbers of pixels for digits"),
        ({"input_size": NATIVE, "max_pixels": 255}, "max_pixels: got 255; expected at least 256, the pixels of 16×16"),
        ({"input_size": NATIVE, "max_pixels": 0}, "max_pixels: got 0; expected at least 1"),
        ({"input_size": NATIVE, "max_pixels": 1e6}, "max_pixels: got 1000000.0; expected an integer"),
        ({"max_pixels": 1000}, "max_pixels: got 1000; expected it only with input_size native"),
        ({"input_size": NATIVE, "batch_size": "auto"}, "batch_size: got 'auto'; expected a number of images, or max_"),
    ],
)
def test_bad_configuration(values: dict[str, object], expected: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        RunConfig.make({"data": "photographs of mine", "size": 16, "input_size": 32} | values)
    assert expected in str(caught.value)


def test_batches_that_do_not_fit_in_memory() -> None:
    config = RunConfig.make({"data": "mine", "input_size": NATIVE, "max_pixels": 10**12})
    with pytest.raises(ValueError, match="max_pixels: got 1000000000000; 64 images of 1000000000000 pixels take"):
        check_batch(config, 64)
    check_batch(RunConfig.make({"data": "mine", "input_size": NATIVE}), 64)


def test_images_for_finding_the_batch_size(data: Path) -> None:
    config = RunConfig.make(SMALL | {"data": str(data), "input_size": NATIVE, "max_pixels": 101, "batch_size": "auto"})
    images = random_images(config, config.open_source(NATIVE), 3, torch.device("cpu"))
    assert isinstance(images, MixedImages) and [image.shape for image in images.images] == [(3, 10, 10)] * 3
    assert build_models(stages(config)[NATIVE, "learned"], config, 3, [2])[0](images).shape == (3, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--input-size", "large"), "input_size: got 'large'; expected a whole number or native"),
        (("--input-size", "4"), "input_size: got 4; expected at least size, 8"),
        (("--max-pixels", "100"), "max_pixels: got 100; expected it only with input_size native"),
        (("--input-size", NATIVE, "--max-pixels", "10"), "max_pixels: got 10; expected at least 64"),
    ],
)
def test_what_evaluate_refuses(
    arguments: tuple[str, ...], expected: str, plain_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command("evaluate", plain_run, "--accelerator", "cpu", *arguments)
    assert code == 2 and expected in printed + capsys.readouterr().err


@pytest.fixture(scope="module")
def plain_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    assert (
        command("train", *SHORT, "--data", data, "--input-size", 16, "--arms", "bilinear", "--output", folder)[0] == 0
    )
    return folder
