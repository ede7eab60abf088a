"""Settings for built-in data, which the paper's for ImageNet do not suit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .members import split_task
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
    "epochs": (3.2,),  # so that all arms take three minutes on two cores
    "evaluations": 8,
    "label_smoothing": 0.0,
}

# Digits as masks: at 16×16 the network's map is too coarse for their strokes whatever the resizer.
DIGIT_MASKS: dict[str, Any] = {
    "model": "small_unet",
    "size": 24,
    "arms": ("bilinear", "learned", "blind", "control"),
    "loss": "dice",
    "baseline_epochs": 9.6,  # masks take longer to learn than classes: 600 steps, and 300
    "epochs": (4.8,),
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
    "epochs": (5.55,),
    "evaluations": 8,
}

LRASPP = "lraspp_mobilenet_v3_large"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that torchvision's weights were trained with."""

BY_DATA = {"digits": DIGITS, "photographs": PHOTOGRAPHS}
PACKAGED = "efficientnet-lite0"
_PACKAGE = PACKAGES[PACKAGED]

# Before a network that is trained already, which large steps of a resizer throw off
GENTLE: dict[str, Any] = {
    "optimizer": "adamw",
    "kernel_basis": "frequencies",
    "fine_tune_learning_rate": 1e-4,
    "schedule": "cosine",
    "warmup_steps": 20,
    "ema": 0.98,
    "batch_size": 16,
}
FROZEN: dict[str, Any] = {
    "baseline_epochs": 0.0,
    "arms": ("bilinear", "bicubic", "lanczos", "learned", "blind"),
    "interpolation": "lanczos",  # inside, the best of the filters
}
DISTILL: dict[str, Any] = {
    "baseline_epochs": 0.0,
    "loss": "cosine",
    "evaluations": 4,
    "network_norms": "fixed",  # with those of small batches it agrees with itself half as often
    "augment": "flip",  # whole images, as they are tested: the teacher knows the answer to each
}


def preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for ``given``'s data, task, network and command, without those it has."""
    data, task, command = given.get("data"), given.get("task"), given.get("command")
    found = dict(BY_DATA.get(data, {})) if isinstance(data, str) else {}
    if task == "iqa":
        found = {"loss": "emd", "fit": "squash", "augment": "flip"} | found
    if task == "segmentation":
        found |= DIGIT_MASKS if data == "digits" else {"model": "small_unet", "loss": "dice", "fit": "squash"}
    if task == "distill":
        found |= DISTILL | GENTLE
        if "epochs" not in given:
            found["steps"] = 400  # of a folder of any size
        if not given.get("pretrained") and given.get("model", _PACKAGE.model) == _PACKAGE.model:
            found["weights"] = PACKAGED
        if given.get("weights", found.get("weights")) == PACKAGED:
            found |= {"model": _PACKAGE.model, "input_size": (224,), "size": 96}
    if given.get("freeze"):
        found |= FROZEN | GENTLE
    if given.get("pretrained") or given.get("weights", found.get("weights")):
        models = given.get("models") or (given.get("model", found.get("model", "resnet50")),)
        found |= {"zero_init": True} | _data_terms(models, "mean" in given)
    if given.get("optimizer") == "sgd":
        found.pop("kernel_basis", None)  # it is Adam's
    if given.get("schedule") == "one-cycle":
        found.pop("warmup_steps", None)  # it has its own
    if command == "transfer":
        # The paper tunes for four epochs
        found |= {"epochs": (4.0,), "evaluations": None, "arms": ("bilinear",)}
    if command == "ablate":
        found |= {"num_blocks": (1, 2, 3), "num_filters": (16, 32), "arms": ("bilinear", "learned", "control")}
    return found


def _data_terms(models: Sequence[Any], chosen: bool) -> dict[str, Any]:
    """The normalisation that the networks' weights were trained with.

    Args:
        models: MODEL or TASK:MODEL of each network.
        chosen: the run has a mean of its own.

    Raises:
        ValueError: it has none, and the networks have different ones.
    """
    names = [split_task(model)[2] for model in models if isinstance(model, str)]
    terms = [IMAGENET if name == LRASPP else data_terms(name) for name in names]
    if not chosen and len(set(terms)) > 1:
        raise ValueError(
            f"mean: got none for {', '.join(names)}, whose weights were trained with different means or standard "
            "deviations; expected those to use, with std"
        )
    return {} if not terms or terms[0] is None else {"normalize": True, "mean": terms[0][0], "std": terms[0][1]}
