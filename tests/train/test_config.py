"""The configuration of a run: its checks, the settings of its data, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.config_file import read_yaml


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 1, "steps: got 1; expected at least 2"),
        ("steps", 2.0, "steps: got 2.0; expected an integer"),
        ("seeds", 0, "seeds: got 0; expected at least 1"),
        ("seed", -1, "seed: got -1; expected at least 0"),
        ("seed", True, "seed: got True; expected an integer"),
        ("batch_size", 1, "batch_size: got 1; expected at least 2"),
        ("batch_size", "all", "batch_size: got 'all'; expected an integer or auto"),
        ("num_filters", 0, "num_filters: got 0"),
        ("num_filters", (16, 32), "num_filters: got 16, 32; expected one number"),
        ("num_blocks", -1, "num_blocks: got -1"),
        ("arms", ("bilinear", "cubic"), "arms: got 'cubic'; expected one of bilinear, bicubic"),
        ("arms", ("bilinear", "bilinear"), "each once"),
        ("arms", (), "arms: got none"),
        ("interpolation", "nearest", "interpolation: got 'nearest'; expected one of bilinear, bicubic, lanczos"),
        ("loss", "hinge", "loss: got 'hinge'; expected one of sigmoid, softmax"),
        ("loss", "emd", "loss: got 'emd'; expected sigmoid or softmax for task classification"),
        ("task", "detection", "task: got 'detection'; expected one of classification, segmentation, iqa"),
        ("data", "photographs", "data: got 'photographs'; expected digits or a folder"),
        ("label_smoothing", 1.0, "label_smoothing: got 1.0"),
        ("label_smoothing", float("nan"), "label_smoothing: got nan; expected a finite number"),
        ("learning_rate", 0.0, "learning_rate: got 0.0; expected more than 0"),
        ("learning_rate", float("inf"), "learning_rate: got inf"),
        ("weight_decay", -1.0, "weight_decay: got -1.0"),
        ("momentum", 1, "momentum: got 1; expected less than 1"),
        ("input_size", (8,), "input_size: got 8; expected at least size, 16"),
        ("epochs", 0, "epochs: got 0"),
        ("std", (0.0,), "std: got 0.0; expected more than 0"),
        ("std", (1.0, 1.0), "std: got 1.0, 1.0; expected 1 positive numbers, as many as mean"),
        ("num_workers", 2**64, "expected at most 18446744073709551615"),
        ("devices", 3, "batch_size: got 64; expected a multiple of the 3 processes"),
        ("recalibrate_bn", "no", "recalibrate_bn: got 'no'; expected true or false"),
    ],
)
def test_bad_configuration(name: str, value: object, expected: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        RunConfig.make({name: value})
    assert expected in str(caught.value)


def test_a_file_from_before_fields_took_several_values(tmp_path: Path) -> None:
    config = RunConfig.make({"epochs": 4.0})
    config.save(tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    older = (
        text.replace("resizer: []", "resizer: null")
        .replace("epochs:\n- 4.0", "epochs: 4.0")
        .replace("models: []\n", "")
    )
    assert older.count("resizer: null") == older.count("epochs: 4.0") == 1 and "models" not in older
    (tmp_path / "config.yaml").write_text(older)
    assert RunConfig.load(tmp_path / "config.yaml") == config


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="config: got unknown stepz; expected"):
        RunConfig.make({"stepz": 3})


def test_transfer_needs_a_resizer() -> None:
    with pytest.raises(ValueError, match="resizer: got none; expected the file of a trained resizer"):
        RunConfig.make({"command": "transfer"})


def test_configuration_survives_its_file(tmp_path: Path) -> None:
    config = RunConfig.make({"arms": ("learned", "bicubic"), "seeds": 3, "weight_decay": 0.25, "loss": "sigmoid"})
    config.save(tmp_path / "config.yaml")
    assert RunConfig.load(tmp_path / "config.yaml") == config
    whole = (tmp_path / "config.yaml").read_bytes()
    (tmp_path / "cut.yaml").write_bytes(whole[: whole.index(b"loss:")])  # a whole configuration of fewer fields
    with pytest.raises(ValueError, match=r"cut.yaml does not end with \.\.\."):
        RunConfig.load(tmp_path / "cut.yaml")
    # A file with some of the fields is completed in the same way as options
    (tmp_path / "part.yaml").write_text("seeds: 2\ninput_size: [96, 128]\nlearning_rate: 1e-4\n")
    part = RunConfig.make(read_yaml(tmp_path / "part.yaml"))
    assert part.learning_rate == 1e-4
    assert (part.seeds, part.input_size, part.model) == (2, (96, 128), "small_cnn")


@pytest.mark.parametrize(("text", "words"), [("- a\n", "holds a list"), ("a: [", "is not a YAML file")])
def test_bad_file(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_yaml(tmp_path / "y.yaml")


def test_defaults_are_the_papers() -> None:
    """The paper's: sigmoid cross-entropy with smoothing 0.1, SGD with momentum 0.9, 0.05 from scratch and 0.005 for
    fine-tuning, times 0.94 every 2 epochs, n = 16, r = 1, 448 to 224."""
    config = RunConfig.make({"data": "somewhere"})
    assert (config.loss, config.label_smoothing) == ("sigmoid", 0.1)
    assert (config.optimizer, config.momentum, config.schedule) == ("sgd", 0.9, "decay")
    assert (config.learning_rate, config.fine_tune_learning_rate) == (0.05, 0.005)
    assert (config.decay, config.decay_epochs) == (0.94, 2)
    assert (config.num_filters, config.num_blocks, config.size) == ((16,), (1,), 224)
    assert config.recalibrate_bn
    assert RunConfig.make({"data": "somewhere", "task": "iqa"}).loss == "emd"


def test_what_is_given_wins_over_what_suits_the_data() -> None:
    given: dict[str, Any] = {"model": "resnet18", "optimizer": "sgd", "size": 32}
    config = RunConfig.make(given)
    assert config.data == "digits" and config.input_size == (96,)
    assert (config.model, config.optimizer, config.size) == ("resnet18", "sgd", 32)
