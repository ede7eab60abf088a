"""One resizer for several networks or tasks: loss, metrics, data, protocol and whole runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from safetensors.torch import load_file

from learned_resizer_cuda.data.digits import INK, DigitsOnPhotographs
from learned_resizer_cuda.data.same_images import SameImages, labels_of
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.members import Member
from learned_resizer_cuda.train.protocol import plan, steps_tested
from learned_resizer_cuda.train.results import judged_by, metrics_of, share_of
from learned_resizer_cuda.train.tasks import Classification, Joint, Segmentation, build_task
from tests.helpers.failures import command
from tests.helpers.few_digits import few_digits

__all__ = ["few_digits"]

TWO_TASKS = ("small_cnn", "segmentation:small_unet")
SHORT = ("--steps", 3, "--batch-size", 8, "--evaluations", 1, "--accelerator", "cpu")


def configured(*models: str, **values: Any) -> RunConfig:
    return RunConfig.make({"models": models, **values})


def test_members() -> None:
    assert configured(*TWO_TASKS).members == (
        Member("classification", "small_cnn", "small_cnn"),
        Member("segmentation", "small_unet", "small_unet"),
    )
    same = configured("test_resnet", "segmentation:test_resnet").members
    assert [member.name for member in same] == ["classification-test_resnet", "segmentation-test_resnet"]
    config = configured(*TWO_TASKS)
    assert (config.model, config.tasks) == ("small_cnn", ("classification", "segmentation"))
    assert (config.loss_of("classification"), config.loss_of("segmentation")) == ("softmax", "dice")
    assert [metric.name for metric in metrics_of(config)] == [
        "accuracy:small_cnn",
        "miou_small:small_unet",
        "miou:small_unet",
    ]
    assert [metric.label for metric in judged_by(config)] == [
        "test accuracy, %, small_cnn",
        "test mIoU at the input's size, %, small_unet",
    ]
    assert share_of(config) is None and share_of(RunConfig.make({})) == "accuracy"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"models": ("small_cnn",)}, "models: got small_cnn; expected at least two; --model takes one"),
        ({"models": ("small_cnn", "small_cnn")}, "models: got small_cnn, small_cnn; expected each once"),
        ({"models": ("small_cnn", "classification:small_cnn")}, "expected each once"),
        ({"models": TWO_TASKS, "model": "resnet18"}, "model: got 'resnet18'; expected small_cnn, the first of models"),
        (
            {"models": ("small_cnn", "iqa:resnet18")},
            "expected tasks on the same images: classification and segmentation",
        ),
        ({"models": TWO_TASKS, "task": "iqa"}, "expected tasks on the same images"),
        (
            {"models": ("a", "b"), "task": "distill", "pretrained": True},
            "models: got a, b; expected none with task distill",
        ),
        ({"models": ("classification:a", "classification:b"), "task": "segmentation"}, "task: got 'segmentation'"),
        ({"models": TWO_TASKS, "data": "folder"}, "data: got 'folder'; expected digits for several tasks"),
        ({"models": ("a", "b"), "weights": "w.pth"}, "weights: got 'w.pth'; expected none with several models"),
        ({"models": ("a", "b"), "batch_size": "auto"}, "batch_size: got 'auto'; expected a number of images"),
        ({"epochs": (1, 2)}, "epochs: got 1, 2; expected one number"),
        ({"command": "transfer", "resizer": "a", "epochs": (0,)}, "epochs: got 0; expected more than 0"),
        ({"command": "transfer", "resizer": "a", "epochs": (0, 1), "steps": 4}, "steps: got 4; expected none with"),
        (
            {"command": "transfer", "resizer": "a", "epochs": (0, 1), "evaluations": 4},
            "evaluations: got 4; expected none",
        ),
        ({"command": "transfer", "resizer": ("a", "b")}, "resizer: got a, b; expected NAME=FILE with different names"),
        ({"command": "transfer", "resizer": "fresh=a"}, "resizer: got fresh=a; expected NAME=FILE"),
    ],
)
def test_bad_combinations(values: dict[str, Any], expected: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        RunConfig.make(values)
    assert expected in str(caught.value)


def test_several_networks_survive_their_file(tmp_path: Path) -> None:
    for config in (
        configured(*TWO_TASKS),
        RunConfig.make({"command": "transfer", "resizer": ("u=a/b.safetensors", "s=c,d"), "epochs": (0, 4)}),
    ):
        config.save(tmp_path / "config.yaml")
        assert RunConfig.load(tmp_path / "config.yaml") == config


def test_resizers_by_name() -> None:
    def files(*words: str) -> dict[str, str]:
        return RunConfig.make({"command": "transfer", "resizer": words}).resizers

    assert files("a/resizer.safetensors") == {"transfer": "a/resizer.safetensors"}
    assert files("./lr=0.1/r.safetensors") == {"transfer": "./lr=0.1/r.safetensors"}  # a path with an equals sign
    assert files("universal=a", "single=b=c") == {"universal": "a", "single": "b=c"}


def test_weights_by_the_scale_of_the_losses() -> None:
    """Each loss in units of that of a network that knows nothing: log K, or log K + 1 - 1/K with Dice."""
    config = configured(*TWO_TASKS)
    task = build_task(config, [10, 11])
    assert isinstance(task, Joint)
    scales = (math.log(10), math.log(11) + 1 - 1 / 11)
    assert task.weights == pytest.approx([sum(scales) / 2 / scale for scale in scales])
    assert build_task(configured("small_cnn", "test_resnet"), [10, 10]).weights == [1, 1]


def test_the_joint_loss_and_metrics_by_hand() -> None:
    """With the logits of a network that knows nothing every weighted loss is the mean of the scales."""
    parts = {"sorter": Classification(2, "softmax", 0.0), "painter": Segmentation(3, "cross-entropy")}
    task = Joint(parts, ["classification", "segmentation"])
    outputs = (torch.zeros(2, 2), torch.zeros(2, 3, 4, 4))
    targets = {
        "classification": torch.tensor([0, 1]),
        "segmentation": torch.zeros(2, 4, 4, dtype=torch.uint8),
    }
    expected = math.log(2) + math.log(3)
    assert float(task.loss(outputs, targets)) == pytest.approx(expected)
    task.measure(outputs, targets)
    loss, metrics = task.results()
    assert loss == pytest.approx(expected)
    # Of equal logits the first class is taken: half of the classes, and all pixels
    assert metrics == {"accuracy:sorter": 0.5, "miou_small:painter": 1.0, "miou:painter": 1.0}


def test_networks_of_one_task_share_the_targets() -> None:
    task = build_task(configured("small_cnn", "test_resnet"), [10, 10])
    outputs = (torch.eye(10), torch.eye(10).roll(1, 0))
    task.measure(outputs, torch.arange(10))
    assert task.results()[1] == {"accuracy:small_cnn": 1.0, "accuracy:test_resnet": 0.0}


def test_two_tasks_of_the_same_digits() -> None:
    """The same images, and masks that are the digits' ink with their classes."""
    source = SameImages({task: DigitsOnPhotographs(task=task) for task in ("classification", "segmentation")})
    alone = DigitsOnPhotographs()
    batch, expected = source.train_batch(3, 5, 6), alone.train_batch(3, 5, 6)
    assert isinstance(batch.images, Tensor) and isinstance(expected.images, Tensor)
    assert torch.equal(batch.images, expected.images)
    assert isinstance(batch.targets, dict)
    classes, masks = batch.targets["classification"], batch.targets["segmentation"]
    assert torch.equal(classes, expected.targets)
    assert masks.shape == (6, 96, 96) and masks.dtype == torch.uint8
    for label, mask in zip(classes, masks, strict=True):
        assert mask.unique().tolist() == [0, int(label) + 1]
        found = alone.digits[alone.classes == int(label)] >= INK
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].bool().numpy()
        boxes = [glyph[glyph.any(1)][:, glyph.any(0)] for glyph in found]
        assert any(box.shape == shape.shape and (box == shape).all() for box in boxes)
    part = source.train_batch(3, 5, 6, slice(2, 4))
    assert isinstance(part.targets, dict)
    assert torch.equal(part.targets["segmentation"], masks[2:4])
    assert labels_of(source, "segmentation") == ("background", *map(str, range(10)))
    assert labels_of(source, "classification") == labels_of(alone, "classification") == alone.labels
    test = source.test_batch(slice(0, 2))
    assert isinstance(test.targets, dict) and test.targets["segmentation"].shape == (2, 96, 96)


def test_sources_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sources: got .*64, 4000, 1000.* for segmentation; expected .*96"):
        SameImages({"classification": DigitsOnPhotographs(), "segmentation": DigitsOnPhotographs(64, "segmentation")})


def test_tests_after_the_epochs_asked_for() -> None:
    config = RunConfig.make({"command": "transfer", "resizer": "a", "epochs": (0, 0.5, 4)})
    made = {stage.arm: stage for stage in plan(config, lambda _: 10.0)}
    assert made["transfer"].steps == 40 and steps_tested(made["transfer"], config, 10.0) == [5, 40]
    assert steps_tested(made["bilinear"], config, 10.0)[-1] == made["bilinear"].steps  # the baseline's own epochs


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_each_network_trains_behind_a_filter_as_it_would_alone(tmp_path: Path) -> None:
    """Bit for bit: nothing but a shared resizer connects them."""
    common = ("--size", 24, *SHORT, "--arms", "bilinear")
    models = ("small_cnn", "test_resnet")
    assert command("train", "--models", ",".join(models), *common, "--output", tmp_path / "both")[0] == 0
    both = load_file(tmp_path / "both/stages/bilinear-96-seed0/network.safetensors")
    for number, model in enumerate(models):
        assert command("train", "--model", model, *common, "--output", tmp_path / model)[0] == 0
        alone = load_file(tmp_path / model / "stages/bilinear-96-seed0/network.safetensors")
        assert all(torch.equal(both[f"networks.{number}.{name}"], value) for name, value in alone.items())


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_two_tasks_from_start_to_transfer(tmp_path: Path) -> None:
    """Verdicts for each network, the same figures by `evaluate`, a resumed run, and a network it never saw."""
    run, single = tmp_path / "run", tmp_path / "single"
    arguments = ("train", "--models", ",".join(TWO_TASKS), "--size", 16, *SHORT, "--arms", "learned,control")
    code, printed = command(*arguments, "--output", run)
    assert code == 0, printed
    for network in ("small_cnn", "small_unet"):
        assert f"{network}: learned − control" in printed
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["split"] == "test"]
    assert all(row["accuracy:small_cnn"] and row["miou:small_unet"] for row in rows)
    code, printed = command("evaluate", run, "--accelerator", "cpu", "--json")
    assert code == 0, printed
    found = {one["arm"]: one["metrics"] for one in json.loads(printed[printed.index("[\n") :])}
    for arm in json.loads((run / "summary.json").read_text())["arms"]:
        assert found[arm["arm"]] == {name: value["values"][0] for name, value in arm["metrics"].items()}

    before = (run / "stages/learned-96-seed0/result.json").read_bytes()
    (run / "summary.json").unlink()
    assert command(*arguments, "--output", run)[0] == 0
    assert (run / "stages/learned-96-seed0/result.json").read_bytes() == before

    alone = ("train", "--size", 16, *SHORT, "--arms", "learned", "--output", single)
    assert command(*alone)[0] == 0
    files = f"universal={run / 'resizer.safetensors'},single={single / 'resizer.safetensors'}"
    code, printed = command(
        *("transfer", "--resizer", files, "--model", "test_resnet", "--size", 16, "--epochs", "0,0.008"),
        *("--baseline-epochs", 0.008, "--batch-size", 8, "--accelerator", "cpu", "--output", tmp_path / "transfer"),
    )
    assert code == 0, printed
    for sentence in ("before tuning, universal − single", "universal − single", "before tuning, single − bilinear"):
        assert sentence in printed
    summary = json.loads((tmp_path / "transfer/summary.json").read_text())
    assert [arm["arm"] for arm in summary["arms"]] == ["bilinear", "universal", "single", "fresh", "control"]
    by_epoch = summary["tables"][1]
    assert by_epoch["header"] == ["epoch", "universal", "single", "fresh", "control"]
    assert [row[0] for row in by_epoch["rows"]] == ["0", "0.008"]
