"""Segmentation: its loss and metrics by hand, its networks, and whole runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda import resize
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.networks import build_network, network_name
from learned_resizer_cuda.train.tasks import PixelLoss, Segmentation, build_task
from tests.helpers.failures import command
from tests.helpers.few_digits import few_digits
from tests.helpers.mask_folders import mask_folder

__all__ = ["few_digits"]

SHORT = ("--steps", 2, "--batch-size", 4, "--evaluations", 1, "--accelerator", "cpu")


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """Logits (1, K, 1, W) whose softmax are the rows, a row for each pixel."""
    return torch.tensor(probabilities).log().T[None, :, None, :]


def test_cross_entropy_by_hand() -> None:
    """The mean over labelled pixels: of the probabilities 1/2 and 1/4, and one that is not labelled."""
    logits = logits_of([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    masks = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    expected = (math.log(2) + math.log(4)) / 2
    assert float(PixelLoss(dice=False)(logits, masks)) == pytest.approx(expected, rel=1e-6)  # float32


def test_dice_by_hand() -> None:
    """Of the classes 0 and 1; class 2 is in no mask and does not count, nor does the pixel without a label."""
    logits = logits_of([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    masks = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    # Σ p: 1.0 and 0.5 over the labelled pixels; Σ t: 1 each; Σ p t: 0.5 and 0.25
    dice = (2 * 0.5 / (1.0 + 1) + 2 * 0.25 / (0.5 + 1)) / 2
    expected = (math.log(2) + math.log(4)) / 2 + 1 - dice
    assert float(PixelLoss(dice=True)(logits, masks)) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_answer_has_no_loss() -> None:
    masks = torch.randint(0, 3, (2, 5, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    logits = 100 * torch.nn.functional.one_hot(masks.long(), 3).permute(0, 3, 1, 2).float()
    assert float(PixelLoss(dice=True)(logits, masks)) == pytest.approx(0, abs=1e-6)  # float32 of 1 - 1


@pytest.mark.parametrize("dice", [False, True])
def test_a_batch_without_labels_has_a_finite_gradient(dice: bool) -> None:
    logits = torch.rand(1, 3, 2, 2, requires_grad=True)
    PixelLoss(dice)(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8)).backward()
    assert logits.grad is not None and bool((logits.grad == 0).all())


@pytest.mark.parametrize("dice", [False, True])
def test_the_gradient_of_the_loss(dice: bool) -> None:
    """Against finite differences in float64, through the resize to the masks' size."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(2, 3, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    masks = torch.randint(0, 4, (2, 5, 6), generator=generator, dtype=torch.uint8)
    masks[masks == 3] = 255
    assert torch.autograd.gradcheck(lambda x: PixelLoss(dice)(x, masks), logits)


def test_the_loss_is_at_the_masks_size() -> None:
    logits = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, 3, (2, 9, 7), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    expected = torch.nn.functional.cross_entropy(resize(logits, (9, 7)), masks.long())
    assert float(PixelLoss(dice=False)(logits, masks)) == pytest.approx(float(expected), rel=1e-5)  # float32


def test_mean_iou_by_hand() -> None:
    """Counted over all images together, at both sizes; a class in neither masks nor answers does not count."""
    task = Segmentation(4, "cross-entropy")
    # At the output's size 1×2 the answers are 0 and 1; at the input's 2×4 the left and the right half
    logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0], [-9.0, -9.0], [-9.0, -9.0]]).view(1, 4, 1, 2)
    first = torch.tensor([[[0, 0, 1, 255], [0, 1, 1, 1]]], dtype=torch.uint8)
    second = torch.tensor([[[2, 2, 1, 1], [2, 2, 1, 1]]], dtype=torch.uint8)
    task.measure(logits, first)
    task.measure(logits, second)
    loss, metrics = task.results()
    # Input's size. 0: 3 right, union 4 + 4 (all left pixels). 1: 3 + 4 right, union 7 + 1. 2: none right.
    assert metrics["miou"] == pytest.approx((3 / 8 + 7 / 8 + 0) / 3)
    # Output's size: nearest pixels of rows 1 and columns 1 and 3: masks (1, 1) and (2, 1), answers (0, 1) twice
    small = resize(torch.stack([first[0], second[0]])[:, None], (1, 2), interpolation="nearest")[:, 0, 0].tolist()
    assert small == [[1, 1], [2, 1]]
    assert metrics["miou_small"] == pytest.approx((0 + 2 / 3 + 0) / 3)
    assert math.isfinite(loss)
    task.measure(logits, second)  # counts start again
    assert task.results()[1]["miou"] == pytest.approx((0 + 4 / 4 + 0) / 3)


def test_an_undecided_network() -> None:
    """Cross-entropy log K; each class has a Dice coefficient of 2/K over 1 + 1."""
    assert Segmentation(4, "cross-entropy").undecided() == pytest.approx(math.log(4))
    assert Segmentation(4, "dice").undecided() == pytest.approx(math.log(4) + 1 - 1 / 4)


@pytest.mark.parametrize(
    ("name", "size", "out"),
    [
        ("small_unet", (24, 24), (24, 24)),
        ("small_unet", (13, 7), (13, 7)),
        ("lraspp_mobilenet_v3_large", (32, 40), (32, 40)),
        ("test_resnet", (32, 48), (16, 24)),
        ("test_efficientnet", (32, 32), (16, 16)),
    ],
)
def test_networks_give_a_map(name: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    network = build_network(name, 1, 5, segments=True)
    logits = network(torch.rand(2, 1, *size))
    assert logits.shape == (2, 5, *out)
    logits.square().mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not [name for name in without if not name.startswith("encoder.")], without


def test_parameters_of_the_small_network() -> None:
    """By hand: 3×3 kernels of 1·16 + 16·16 + 16·32 + 32·32 + 32·64 + 64·64 + 96·32 + 48·16, norms, and 16·11 + 11."""
    kernels = 9 * (16 + 256 + 512 + 1024 + 2048 + 4096 + 96 * 32 + 48 * 16)
    norms = 2 * (16 + 16 + 32 + 32 + 64 + 64 + 32 + 16)
    network = build_network("small_unet", 1, 11, segments=True)
    assert sum(p.numel() for p in network.parameters()) == kernels + norms + 16 * 11 + 11 == 106_859


def test_an_encoder_starts_from_weights(tmp_path: Path) -> None:
    """The weights of a network that classifies are those of the encoder; the head is new."""
    from safetensors.torch import save_file

    whole = build_network("test_resnet", 3, 7)
    save_file(
        {name: value.contiguous() for name, value in whole.state_dict().items()}, tmp_path / "weights.safetensors"
    )
    network = build_network("test_resnet", 3, 2, weights=str(tmp_path / "weights.safetensors"), segments=True)
    state = network.state_dict()
    shared = [name for name in whole.state_dict() if f"encoder.{name}" in state]
    assert len(shared) > 50
    assert all(torch.equal(state[f"encoder.{name}"], whole.state_dict()[name]) for name in shared)


def test_networks_of_the_wrong_kind() -> None:
    with pytest.raises(ValueError, match="model: got 'small_cnn'; expected small_unet, lraspp_mobilenet_v3_large or a"):
        network_name("small_cnn", segments=True)
    with pytest.raises(ValueError, match="model: got 'small_unet'; expected small_cnn, inception_v2 or a timm model"):
        network_name("small_unet")
    with pytest.raises(ValueError, match=r"weights: got x\.pth for small_unet; expected none"):
        build_network("small_unet", 1, 5, weights="x.pth", segments=True)
    with pytest.raises(ValueError, match="pretrained: got True for small_unet; expected False"):
        build_network("small_unet", 1, 5, pretrained=True, segments=True)


def test_settings_of_the_built_in_data() -> None:
    config = RunConfig.make({"task": "segmentation"})
    assert (config.data, config.model, config.loss, config.size) == ("digits", "small_unet", "dice", 24)
    assert isinstance(build_task(config, [11]), Segmentation)
    with pytest.raises(ValueError, match="input_size: got native; expected numbers of pixels for task segmentation"):
        RunConfig.make({"task": "segmentation", "data": "folder", "input_size": "native"})
    with pytest.raises(ValueError, match="loss: got 'softmax'; expected cross-entropy or dice for task segmentation"):
        RunConfig.make({"task": "segmentation", "loss": "softmax"})


def test_normalisation_of_trained_weights() -> None:
    """That of the weights; of several networks' one that they share, or the user's."""
    config = RunConfig.make({"task": "segmentation", "model": "lraspp_mobilenet_v3_large", "pretrained": True})
    assert config.normalize and config.mean == (0.485, 0.456, 0.406) and config.zero_init
    common: dict[str, object] = {"data": "folder", "pretrained": True}
    config = RunConfig.make(common | {"models": ("resnet50", "segmentation:resnet18"), "data": "digits"})
    assert config.mean == (0.485, 0.456, 0.406)
    different = common | {"models": ("resnet50", "vit_base_patch16_224")}
    with pytest.raises(ValueError, match="mean: got none for resnet50, vit_base_patch16_224, whose weights were"):
        RunConfig.make(different)
    assert RunConfig.make(different | {"mean": (0.5,) * 3, "std": (0.5,) * 3}).mean == (0.5,) * 3


@pytest.mark.usefixtures("few_digits")
def test_digits_from_start_to_report(tmp_path: Path) -> None:
    """Both metrics in every test, no share of right answers in training; `evaluate` finds the same figures."""
    run = tmp_path / "run"
    code, printed = command("train", "--task", "segmentation", *SHORT, "--arms", "learned", "--output", run)
    assert code == 0, printed
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {"miou_small", "miou"} <= rows[0].keys()
    assert all(bool(row["miou"]) == (row["split"] == "test") for row in rows)
    assert {row["split"] for row in rows} == {"train", "test"}
    assert (run / "samples.png").stat().st_size > 1000
    code, printed = command("evaluate", run, "--accelerator", "cpu", "--json")
    assert code == 0, printed
    found = {one["arm"]: one["metrics"] for one in json.loads(printed[printed.index("[\n") :])}
    summary = json.loads((run / "summary.json").read_text())
    for arm in summary["arms"]:
        assert found[arm["arm"]] == {name: value["values"][0] for name, value in arm["metrics"].items()}


def test_a_folder_from_start_to_report(tmp_path: Path) -> None:
    data = mask_folder(tmp_path / "data")
    (data / "classes.txt").write_text("nothing\nright\nleft\n")
    network = ("--model", "test_resnet", "--size", 16, "--input-size", 20, "--arms", "learned,control")
    code, printed = command(
        "train", "--task", "segmentation", "--data", data, *network, *SHORT, "--output", tmp_path / "run"
    )
    assert code == 0, printed
    assert "images to train on" in printed
