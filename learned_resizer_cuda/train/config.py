"""What one run does: a dataclass of plain values that the command line, config.yaml and a program all fill alike."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..data.open_source import open_source
from ..data.source import Source
from ..ops.bands import INTERPOLATIONS
from ..shown import shorten, shown

COMMANDS = ("train", "transfer", "ablate")
TASKS = ("classification", "iqa")
FIXED = ("bilinear", "bicubic", "lanczos")
ARMS = (*FIXED, "learned", "blind", "control", "control-long")
LOSSES = ("sigmoid", "softmax", "emd")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("decay", "one-cycle", "constant")
AUGMENTS = ("crop", "flip", "none")
FITS = ("crop", "squash")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
BUILT_IN = {"classification": "digits", "iqa": "photographs"}
"""The data of a task where no folder is named."""


MOST_INPUT_SIZES, MOST_STAGES, MOST_STEPS = 100, 100_000, 10**9
"""Of a run; a stage is one training. Each is held in memory before the first step."""
_MOST = 2**64 - 1
"""The largest integer of any field, and the largest seed that torch takes."""
_LARGEST_RESIZER = 4096
"""Most filters and blocks, and the longest output side: files of larger resizers are refused (``weights``)."""


def _option(
    default: Any,
    group: str,
    text: str,
    known: tuple[str, ...] = (),
    least: float | None = None,
    most: int = _MOST,
) -> Any:
    """A field with what the command line says of it; ``known`` and ``least``, and ``most`` for an integer, bound each
    of its values."""
    return field(default=default, metadata={"group": group, "help": text, "known": known, "least": least, "most": most})


@dataclass(frozen=True)
class RunConfig:
    """One run: which data, network and resizers, trained how, on what. Defaults are the paper's where it has one.

    The built-in data comes with settings of its own (``presets``); ``RunConfig.make`` applies them. Every field's
    meaning stands beside it, and in ``learned-resizer train --help``.

    Raises:
        TypeError, ValueError: naming the argument, its value and what was expected.
    """

    command: str = _option("train", "", "Which protocol.", COMMANDS)
    task: str = _option("classification", "Data", "classification, or iqa: image quality assessment.", TASKS)
    data: str | None = _option(
        None,
        "Data",
        "Folder of images: train/CLASS/… and val/CLASS/… to classify; for iqa images with AVA.txt or scores.csv. "
        "Default: the real images that come with the installed packages.",
    )
    scores: str | None = _option(None, "Data", "AVA.txt, or a CSV of histograms, where it is not in the folder.")
    extra_photographs: str | None = _option(
        None, "Data", "Folder whose photographs are added to the built-in ones of --task iqa."
    )
    max_unreadable: int = _option(20, "Data", "Unreadable images that are skipped before the run stops.", least=0)
    augment: str = _option("crop", "Data", "Of a folder's images: random crop and flip, flip alone, or none.", AUGMENTS)
    fit: str = _option(
        "crop", "Data", "How a folder's test image becomes square: cut at the centre, or squashed.", FITS
    )
    num_workers: int = _option(0, "Data", "Processes that read images; results do not depend on it.", least=0)

    model: str = _option("resnet50", "Networks", "small_cnn, inception_v2, or any network of timm.")
    pretrained: bool = _option(False, "Networks", "Start from timm's weights (needs a download).")
    size: int = _option(
        224, "Networks", "Side of the images that the network gets, in pixels.", least=1, most=_LARGEST_RESIZER
    )
    input_size: tuple[int, ...] = _option(
        (448,), "Networks", "Side of the images that the resizer gets; several are a sweep.", least=1
    )
    arms: tuple[str, ...] = _option(
        ("bilinear", "bicubic", "learned", "blind", "control"), "Networks", "Resizers to compare.", ARMS
    )
    baseline: str = _option("bilinear", "Networks", "Fixed filter whose trained network the others start from.", FIXED)
    interpolation: str = _option("bilinear", "Networks", "Filter inside the learned resizer.", tuple(INTERPOLATIONS))
    antialias: bool = _option(True, "Networks", "Widen every filter when shrinking; off as in the paper.")
    num_filters: tuple[int, ...] = _option(
        (16,), "Networks", "Filters n of the learned resizer.", least=1, most=_LARGEST_RESIZER
    )
    num_blocks: tuple[int, ...] = _option(
        (1,), "Networks", "Residual blocks r of the learned resizer.", least=0, most=_LARGEST_RESIZER
    )
    zero_init: bool = _option(False, "Networks", "Let the learned resizer start as exactly the fixed filter.")
    resizer: str | None = _option(None, "Networks", "File of the trained resizer to transfer.")
    normalize: bool = _option(False, "Networks", "Normalise images by mean and std before the resizer.")
    mean: tuple[float, ...] = _option((0.485, 0.456, 0.406), "Networks", "Mean of each channel, for --normalize.")
    std: tuple[float, ...] = _option((0.229, 0.224, 0.225), "Networks", "Deviation of each, for --normalize.")

    loss: str = _option("sigmoid", "Training", "Cross-entropy over sigmoid or softmax outputs; emd for iqa.", LOSSES)
    label_smoothing: float = _option(0.1, "Training", "In [0, 1); of a cross-entropy.", least=0)
    optimizer: str = _option("sgd", "Training", "Optimiser.", OPTIMIZERS)
    learning_rate: float = _option(0.05, "Training", "Of a network from scratch; the peak under one-cycle.")
    fine_tune_learning_rate: float = _option(0.005, "Training", "Of all training from a baseline on.")
    momentum: float = _option(0.9, "Training", "Of SGD, in [0, 1).", least=0)
    weight_decay: float = _option(1e-4, "Training", "Of either optimiser.", least=0)
    schedule: str = _option("decay", "Training", "Course of the learning rate.", SCHEDULES)
    decay: float = _option(0.94, "Training", "Factor of the learning rate, for the schedule decay.")
    decay_epochs: float = _option(2.0, "Training", "Epochs between two decays.")
    baseline_epochs: float = _option(30.0, "Training", "Epochs of a baseline.")
    epochs: float = _option(30.0, "Training", "Epochs of joint training, and of its control.")
    steps: int | None = _option(
        None, "Training", "Optimiser steps of each, instead of epochs.", least=2, most=MOST_STEPS
    )
    long_factor: int = _option(10, "Training", "Times that control-long trains as long as the control.", least=1)
    batch_size: int | str = _option(64, "Training", "Images in a batch, of all devices together; auto: what fits.")
    evaluations: int | None = _option(
        None, "Training", "Passes over the test images in each training. Default: one an epoch.", least=1
    )
    recalibrate_bn: bool = _option(True, "Training", "Recompute batch norm statistics before each such pass.")
    recalibration_batches: int = _option(10, "Training", "Training batches they are recomputed from.", least=1)
    seed: int = _option(0, "Training", "Seed of the first repetition.", least=0)
    seeds: int = _option(1, "Training", "Repetitions, each with its own seed.", least=1)

    accelerator: str = _option("auto", "Devices", "Where to train.", ACCELERATORS)
    devices: int = _option(1, "Devices", "Devices of a node, or processes on a CPU.", least=1)
    nodes: int = _option(1, "Devices", "Nodes; on each the same command, or torchrun.", least=1)
    precision: str = _option(
        "32-true", "Devices", "Arithmetic of the training; results are kept in 32 bits.", PRECISIONS
    )
    checkpoint_steps: int = _option(500, "Devices", "Steps between two checkpoints, at most.", least=1)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None and entry.default is None:
                continue
            values = value if isinstance(value, tuple) else (value,)
            if not values:
                raise ValueError(f"{entry.name}: got none; expected at least one")
            for one in values:
                _check_value(entry.name, one, entry.metadata)
        for name in ("input_size", "arms", "num_filters", "num_blocks"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: got {shown(getattr(self, name))}; expected each once")
        if isinstance(self.batch_size, str) and self.batch_size != "auto":
            raise ValueError(f"batch_size: got {shown(self.batch_size)}; expected a number or auto")
        if isinstance(self.batch_size, int) and self.batch_size < 2:
            # Batch statistics of a network's last map need more than one image at tiny sizes.
            raise ValueError(f"batch_size: got {shown(self.batch_size)}; expected at least 2")
        if isinstance(self.batch_size, int) and self.batch_size % (self.devices * self.nodes):
            raise ValueError(
                f"batch_size: got {self.batch_size}; expected a multiple of the {self.devices * self.nodes} processes"
            )
        for name in ("label_smoothing", "momentum"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}: got {shown(getattr(self, name))}; expected a number in [0, 1)")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {shown(getattr(self, name))}; expected a positive finite number")
        if self.seed + self.seeds - 1 > _MOST:
            raise ValueError(
                f"seeds: got {self.seeds} from seed {self.seed} on; expected the last seed to be at most {_MOST}"
            )
        self._check_stages()
        if any(size < self.size for size in self.input_size):
            raise ValueError(
                f"input_size: got {shown(self.input_size)}; expected at least size, {self.size}, as in the paper"
            )
        if self.data in BUILT_IN.values() and self.data != BUILT_IN[self.task]:
            raise ValueError(f"data: got {self.data}; expected {BUILT_IN[self.task]} or a folder for task {self.task}")
        if self.scores is not None and (self.task != "iqa" or self.data in BUILT_IN.values()):
            raise ValueError(f"scores: got {shorten(self.scores)}; expected it with task iqa and a folder as data only")
        if self.extra_photographs is not None and self.data != "photographs":
            raise ValueError(
                f"extra_photographs: got {shorten(self.extra_photographs)}; expected it with the built-in photographs "
                "only"
            )
        if (self.loss == "emd") != (self.task == "iqa"):
            expected = "emd" if self.task == "iqa" else "sigmoid or softmax"
            raise ValueError(f"loss: got {self.loss!r}; expected {expected} for task {self.task}")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(f"std: got {shown(self.std)}; expected {len(self.mean)} positive numbers, as mean has")
        if self.command != "ablate":
            for name in ("num_filters", "num_blocks"):
                if len(getattr(self, name)) > 1:
                    raise ValueError(
                        f"{name}: got {shown(getattr(self, name))}; expected one number (`ablate` takes several)"
                    )
        if self.command == "transfer" and self.resizer is None:
            raise ValueError("resizer: got none; expected the file of a trained resizer, resizer.safetensors of a run")

    def _check_stages(self) -> None:
        if len(self.input_size) > MOST_INPUT_SIZES:
            raise ValueError(f"input_size: got {len(self.input_size)} sizes; expected at most {MOST_INPUT_SIZES}")
        counts = {"seeds": self.seeds, "input_size": len(self.input_size)}
        if self.command == "ablate":
            counts |= {"num_filters": len(self.num_filters), "num_blocks": len(self.num_blocks)}
        if (stages := math.prod(counts.values())) > MOST_STAGES:
            name = max(counts, key=counts.__getitem__)
            raise ValueError(
                f"{name}: got {counts[name]}, which make {stages:,} trainings with the other options; expected at most "
                f"{MOST_STAGES:,}"
            )

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of ``values``, completed by the settings of its data and by the defaults.

        Raises:
            TypeError, ValueError: an unknown name, or a value that is not allowed.
        """
        from .presets import preset

        known = {entry.name: entry for entry in fields(cls)}
        unknown = sorted(name if isinstance(name, str) else shown(name) for name in set(values) - set(known))
        if unknown:
            raise ValueError(f"config: got unknown {shown(tuple(unknown))}; expected {', '.join(sorted(known))}")
        given = {
            name: _tuple(value) if isinstance(known[name].default, tuple) else value for name, value in values.items()
        }
        # YAML 1.1 takes 1e-4 for a text: only 1.0e-4 is a number to it.
        given |= {name: _number(value) for name, value in given.items() if _TYPES[name] is float}
        task = given.setdefault("task", "classification")
        if not given.get("data") and task in TASKS:
            given["data"] = BUILT_IN[task]
        return cls(**preset(given) | given)

    def open_source(self, input_size: int) -> Source:
        """The run's data, as images of ``input_size``; raises as ``data.open_source`` does."""
        return open_source(
            self.task,
            str(self.data),
            input_size,
            scores=self.scores,
            extra_photographs=self.extra_photographs,
            augment=self.augment,
            fit=self.fit,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def save(self, path: Path) -> None:
        """Writes YAML that ``load`` reads back."""
        import yaml

        from ..atomic import atomic_bytes

        atomic_bytes(path, yaml.safe_dump(self.as_dict(), sort_keys=False).encode())

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Reads what ``save`` wrote, or a part of it.

        Raises:
            FileNotFoundError, TypeError, ValueError: as ``read_yaml`` and ``make``.
        """
        from .config_file import read_yaml

        return cls.make(read_yaml(path))


_POSITIVE = ("learning_rate", "fine_tune_learning_rate", "decay", "decay_epochs", "baseline_epochs", "epochs")


def field_type(name: str) -> type:
    """``int``, ``float``, ``bool`` or ``str``: of each value of a field."""
    return _TYPES[name]


def _types() -> dict[str, type]:
    types: dict[str, type] = {}
    for entry in fields(RunConfig):
        words = str(entry.type).replace("tuple[", "").split()
        first = words[0].strip("[],.| ")
        types[entry.name] = {"int": int, "float": float, "bool": bool, "str": str}[first.split(",")[0]]
        assert entry.default is not MISSING
    return types


def _number(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_number(one) for one in value)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _check_value(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    kind, known, least = _TYPES[name], bounds["known"], bounds["least"]
    if name == "batch_size" and isinstance(value, str):
        return
    right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not right or (isinstance(value, bool) and kind is not bool):
        what = {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]
        raise TypeError(f"{name}: got {shown(value)}; expected {what}" + (f" of at least {least}" if least else ""))
    if known and value not in known:
        raise ValueError(f"{name}: got {shown(value)}; expected one of {', '.join(known)}")
    if kind is float and not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{name}: got {shown(value)}; expected a finite number")
    if least is not None and value < least:
        raise ValueError(f"{name}: got {shown(value)}; expected at least {least}")
    if kind is int and value > bounds["most"]:
        raise ValueError(f"{name}: got {shown(value)}; expected at most {bounds['most']}")


_TYPES = _types()
