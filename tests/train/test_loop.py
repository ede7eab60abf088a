"""Corners of training: unusual settings, other processes, odd moments."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.cli.main import main
from learned_resizer_cuda.data.folder import ImageFolderSource
from learned_resizer_cuda.data.source import Batch
from learned_resizer_cuda.data.unreadable import UnreadableLog
from learned_resizer_cuda.train.checkpoint import seed_round
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.loop import fit, measure, open_fabric
from learned_resizer_cuda.train.models import build_kept, build_models
from learned_resizer_cuda.train.network_file import load_weights, save_weights
from learned_resizer_cuda.train.progress import Watcher
from learned_resizer_cuda.train.protocol import plan, rounds
from learned_resizer_cuda.train.record import read_rows
from learned_resizer_cuda.train.tasks import build_task, mean_score
from learned_resizer_cuda.weights import ResizerConfig, save_resizer
from tests.helpers.photo_folders import class_folder


def test_a_date_is_a_seed() -> None:
    """20,261,231 rounds a seed times 10¹² overflow the 64 bits that torch takes."""
    with torch.random.fork_rng(devices=[]):
        seed_round(20_261_231, 3, 1)


class Stopped(Exception):
    """Ends a training as a signal would."""


class Watching(ImageFolderSource):
    """Keeps the steps that were drawn, and stops before one."""

    def __init__(self, root: Path, stop: int | None) -> None:
        super().__init__(root, 16)
        self.stop, self.drawn = stop, []  # type: ignore[var-annotated]

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        if step == self.stop:
            raise Stopped
        self.drawn.append(step)
        return super().train_batch(seed, step, batch_size, part)


@pytest.mark.parametrize(("stop", "resumed"), [(1, 0), (2, 2), (4, 2), (6, 5)])
def test_resuming_repeats_the_round_that_was_stopped(stop: int, resumed: int, tmp_path: Path) -> None:
    """Seven steps in rounds of at most three, each drawn once, tested before the first and after the last."""
    values = {"model": "small_cnn", "size": 8, "input_size": (16,), "steps": 7, "batch_size": 4, "evaluations": 1}
    values |= {"checkpoint_steps": 3, "accelerator": "cpu", "recalibrate_bn": False, "arms": ("bilinear",)}
    config = RunConfig.make(values | {"data": str(class_folder(tmp_path / "data"))})
    (stage,) = plan(config, lambda _: 1.0)
    assert [part.steps for part in rounds([7], 3)] == [range(2), range(2, 5), range(5, 7)]

    def train(stop: int | None) -> list[int]:
        source = Watching(tmp_path / "data", stop)
        models = build_models(stage, config, 3, [2])
        with contextlib.suppress(Stopped):
            fit(stage, config, source, 4, models, build_task(config, [2]), tmp_path, UnreadableLog(0), Watcher())
        return source.drawn

    assert train(stop) == list(range(stop))
    assert train(None) == list(range(resumed, 7))
    rows = [(row.split, row.step) for row in read_rows(tmp_path / "metrics.csv")]
    assert rows == [("test", 0), *(("train", step) for step in range(1, 8)), ("test", 7)]


def test_a_test_leaves_modes_as_they_were_and_skips_empty_batches() -> None:
    """A frozen norm stays frozen; every image of a batch may have been unreadable."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3).eval(), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    during: list[bool] = []
    model[0].register_forward_hook(lambda *_: during.append(model.training or model[2].training))
    images, targets = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 1, 0])
    fabric = open_fabric(RunConfig.make({"accelerator": "cpu"}))
    task = build_task(RunConfig.make({"loss": "softmax", "label_smoothing": 0.0}), [2])
    loss, metrics = measure(fabric, model, task, [Batch(images, targets), Batch(images[:0], targets[:0])])
    assert during == [False] and [module.training for module in model] == [False, True, True] and model.training
    with torch.no_grad():
        logits = model(images)
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-6)
    assert metrics == {"accuracy": float((logits.argmax(1) == targets).float().mean())}


def test_mean_scores_keep_their_digits_in_mixed_precision() -> None:
    histograms = torch.rand(100, 10, generator=torch.Generator().manual_seed(0)).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        scores = mean_score(histograms)
    assert scores.dtype == torch.float32 and len(scores.unique()) > 90
    torch.testing.assert_close(scores, mean_score(histograms), rtol=0, atol=0)


def test_the_fresh_resizer_is_like_the_transferred_one(tmp_path: Path) -> None:
    file = tmp_path / "trained.safetensors"
    arguments = ResizerConfig((8, 8), in_channels=1, num_filters=4, num_blocks=2, interpolation="bicubic")
    trained = FusedResizer(**arguments.arguments())
    save_resizer(trained, arguments, file)
    config = RunConfig.make({"command": "transfer", "resizer": str(file)})
    stages = {stage.arm: stage for stage in plan(config, lambda _: 10.0)}
    given, fresh = (build_models(stages[arm], config, 1, [10])[0] for arm in ("transfer", "fresh"))
    for resizer in (given, fresh):
        assert ResizerConfig.of(resizer) == replace(arguments, size=(16, 16))  # type: ignore[arg-type]
    weights = [module.state_dict()["conv1.weight"] for module in (trained, given, fresh)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])

    # The files of a complete stage are enough to build it, with the transferred file gone.
    kept = tmp_path / "kept.safetensors"
    file.rename(kept)
    for arm in ("transfer", "fresh"):
        again, _ = build_kept(stages[arm], config, 1, [10], kept)
        assert ResizerConfig.of(again) == replace(arguments, size=(16, 16))  # type: ignore[arg-type]


def test_weights_are_not_taken_for_other_classes(tmp_path: Path) -> None:
    network = torch.nn.Linear(3, 2)
    save_weights(network, tmp_path / "x", ["ant", "bee"])
    load_weights(network, tmp_path / "x", ["ant", "bee"])
    with pytest.raises(ValueError, match=r"data: got 2 classes or bins; expected the 2 .* differ in bee, cow"):
        load_weights(network, tmp_path / "x", ["ant", "cow"])
    with pytest.raises(ValueError, match="differ in bee, ant"):  # the same ones in another order
        load_weights(network, tmp_path / "x", ["bee", "ant"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_devices_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that says so, and nothing left that would stop the next call."""
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["train", "--steps", "2", "--accelerator", "gpu", "--output", str(folder)])
    assert end.value.code == 2
    assert (
        "accelerator: got gpu; expected a device of this machine (No supported gpu backend" in capsys.readouterr().err
    )
    assert not folder.exists()


def test_torchrun_with_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main(["train", "--output", str(tmp_path / "run")])
    assert end.value.code == 2
    assert "devices: got 1 on 1 nodes; expected 2 in all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scores": "AVA.txt"}, "scores: got 'AVA.txt'; expected it only with task iqa and a folder"),
        ({"scores": "AVA.txt", "task": "iqa"}, "scores: got 'AVA.txt'; expected it only with task iqa and a folder"),
        (
            {"extra_photographs": "more"},
            "extra_photographs: got 'more'; expected it only with the built-in",
        ),
    ],
)
def test_options_that_would_do_nothing(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RunConfig.make(values)
