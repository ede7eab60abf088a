"""Settings for built-in data, which the paper's for ImageNet do not suit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .pretrained import PACKAGES, data_terms

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

# Crops of photographs before the EfficientNet-Lite0 of the extra [pretrained].
CROPS: dict[str, Any] = {"input_size": (224,), "size": 96, "batch_size": 16, "epochs": 8.0, "evaluations": 4}

PACKAGED = "efficientnet-lite0"
BY_DATA = {"digits": DIGITS, "photographs": PHOTOGRAPHS, "crops": CROPS}

# Before a network that is trained already (docs/experiments.md)
PRETRAINED: dict[str, Any] = {"zero_init": True}
FROZEN: dict[str, Any] = {
    "baseline_epochs": 0.0,
    "arms": ("bilinear", "bicubic", "lanczos", "learned", "blind"),
}
DISTILL: dict[str, Any] = {"baseline_epochs": 0.0, "loss": "kl"}


def preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for ``given``'s data, task, network and command, without those it has."""
    data, task = given.get("data"), given.get("task")
    found = dict(BY_DATA.get(data, {})) if isinstance(data, str) else {}
    if task == "iqa":
        found = {"loss": "emd", "fit": "squash", "augment": "flip"} | found
    if task == "distill":
        found = DISTILL | found
        if given.get("distill_features"):
            found["loss"] = "cosine"
        if "model" not in given and not given.get("pretrained") and given.get("weights") is None:
            found |= {"weights": PACKAGED}
        if "model" not in given and given.get("weights", PACKAGED) == PACKAGED:
            found |= {"model": PACKAGES[PACKAGED].model}
    if given.get("pretrained") or given.get("weights") or "weights" in found:
        found |= PRETRAINED | _data_terms(given.get("model", found.get("model", "resnet50")))
    if given.get("freeze"):
        found |= FROZEN
    if given.get("command") == "transfer":
        # The paper tunes for four epochs
        found |= {"epochs": 4.0, "evaluations": None, "arms": ("bilinear",)}
    if given.get("command") == "ablate":
        found |= {"num_blocks": (1, 2, 3), "num_filters": (16, 32), "arms": ("bilinear", "learned", "control")}
    return found


def _data_terms(model: Any) -> dict[str, Any]:
    """The normalisation that a network's weights were trained with."""
    terms = data_terms(model) if isinstance(model, str) else None
    return {} if terms is None else {"normalize": True, "mean": terms[0], "std": terms[1]}
