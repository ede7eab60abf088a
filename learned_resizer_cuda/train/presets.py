"""Settings for built-in data, which the paper's for ImageNet do not suit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Digits on photographs, 96×96 to 16×16: strokes get thinner than a pixel. One channel: the images are grey.
DIGITS: dict[str, Any] = {
    "model": "small_cnn",
    "input_size": (96,),
    "size": 16,
    "arms": ("bilinear", "bicubic", "learned", "blind", "control", "control-long"),
    "mean": (0.5,),
    "std": (0.25,),
    "loss": "softmax",
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "learning_rate": 3e-3,
    "fine_tune_learning_rate": 3e-3,
    "baseline_epochs": 6.4,  # 400 steps of 64
    "epochs": 6.4,
    "evaluations": 8,
    "label_smoothing": 0.0,
}

# Photographs with graded distortions. If bilinear filtering shrinks the side much more than this, it removes the
# differences between the distortions, and no loss or optimiser helps (docs/experiments.md).
PHOTOGRAPHS: dict[str, Any] = {
    "model": "small_cnn",
    "input_size": (64,),
    "size": 24,
    "batch_size": 32,
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "learning_rate": 3e-3,
    "fine_tune_learning_rate": 3e-3,
    "baseline_epochs": 11.1,  # 800 steps of 32 out of 2,304
    "epochs": 5.55,
    "evaluations": 8,
}

BY_DATA = {"digits": DIGITS, "photographs": PHOTOGRAPHS}


def preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for ``given``'s data, task and command, without those it has."""
    data = given.get("data")
    found = dict(BY_DATA.get(data, {})) if isinstance(data, str) else {}
    if given.get("task") == "iqa":
        found = {"loss": "emd", "fit": "squash", "augment": "flip"} | found
    if given.get("command") == "transfer":
        # The paper tunes for four epochs
        found |= {"epochs": 4.0, "evaluations": None, "arms": ("bilinear",)}
    if given.get("command") == "ablate":
        found |= {"num_blocks": (1, 2, 3), "num_filters": (16, 32), "arms": ("bilinear", "learned", "control")}
    return found
