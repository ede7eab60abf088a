"""Configuration of a run, for the command line, config.yaml and programs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ..atomic import atomic_bytes
from ..data.image_view import AUGMENTS, FITS
from ..data.open_source import open_source
from ..data.same_images import SameImages
from ..data.source import NATIVE, InputSize, Source
from ..ops.bands import RESIZER_INTERPOLATIONS
from ..shown import shown
from .config_file import read_yaml
from .config_values import LARGEST_INTEGER, as_number, check_value
from .members import JOINT_LOSSES, Member, conflicts, members_of, split_task
from .presets import preset

FIXED = RESIZER_INTERPOLATIONS
ARMS = (*FIXED, "learned", "blind", "control", "control-long")
BUILT_IN = {"classification": "digits", "segmentation": "digits", "iqa": "photographs", "distill": "crops"}
"""The data of each task unless a folder is given."""

MOST_INPUT_SIZES, MOST_STAGES, MOST_STEPS = 100, 100_000, 10**9
"""Limits of a run, all of which is planned in memory before the first step. A stage is one training."""
_LARGEST_RESIZER = 4096
"""Most filters and blocks, and the longest output side: ``weights`` refuses files of larger resizers."""
LOSSES = {
    "classification": ("sigmoid", "softmax"),
    "segmentation": ("cross-entropy", "dice"),
    "iqa": ("emd",),
    "distill": ("cosine", "kl"),
    "distill-features": ("cosine",),
}
"""Losses by objective."""
_END = b"\n...\n"
"""YAML's end of a document."""


def _option(group: str, default: Any, text: str, compare: bool = True, **bounds: Any) -> Any:
    """A field with its help on the command line and its bounds.

    Args:
        group: section of the help; ``""`` for a field without an option.
        default: value of the field.
        text: help.
        compare: whether runs of other values are other runs.
        bounds: of the value, or of each value of a tuple: ``choices`` (the allowed values), ``least`` and ``most``
            (inclusive), ``above`` and ``below`` (exclusive).
    """
    return field(default=default, compare=compare, metadata={"group": group, "help": text, "bounds": bounds})


_data, _network, _training, _device = (partial(_option, group) for group in ("Data", "Networks", "Training", "Devices"))


@dataclass(frozen=True)
class RunConfig:
    """One run: its data, network and resizers, and their training.

    Defaults are the paper's where it has one. ``RunConfig.make`` also applies the settings of the built-in data
    (``presets``). The help texts beside the fields are those of ``learned-resizer train --help``.

    Raises:
        TypeError, ValueError: naming the argument, its value and what was expected.
    """

    command: str = _option("", "train", "Protocol of the run.", choices=("train", "transfer", "ablate"))
    task: str = _data(
        "classification",
        "classification; segmentation: a class for each pixel; iqa: image quality assessment; distill: answer as the "
        "network does at the larger size, without labels.",
        choices=tuple(BUILT_IN),
    )
    data: str | None = _data(
        None,
        "Folder of images: train/CLASS/… and val/CLASS/… to classify; images/… and masks/… for segmentation; for iqa, "
        "images with AVA.txt or scores.csv; for distill, any images. "
        "Default: real images that come with the installed packages.",
    )
    scores: str | None = _data(None, "AVA.txt or a CSV of histograms, if it is not in the folder.")
    extra_photographs: str | None = _data(None, "Folder of photographs to add to the built-in ones of --task iqa.")
    max_unreadable: int = _data(20, "Unreadable images to skip before the run stops.", least=0)
    augment: str = _data(
        "crop", "Augmentation of a folder's images: random crop and flip, flip only, or none.", choices=AUGMENTS
    )
    fit: str = _data("crop", "How a folder's test images become square: centre crop, or squash.", choices=FITS)
    max_pixels: int | None = _data(
        None,
        "With input size native: reduce images of more pixels to as many, so that a batch fits in memory. Default: no "
        "limit.",
        least=1,
    )
    num_workers: int = _data(0, "Processes that read images; they do not change results.", least=0)

    model: str = _network(
        "resnet50",
        "small_cnn, inception_v2, or any network of timm; for segmentation small_unet, lraspp_mobilenet_v3_large, or "
        "any network of timm, with a small head.",
    )
    models: tuple[str, ...] = _network(
        (),
        "Several networks behind one resizer, each with its own loss. TASK:MODEL gives one another task on the same "
        "images, classification or segmentation.",
    )
    pretrained: bool = _network(False, "Start from timm's weights (needs a download).")
    weights: str | None = _network(
        None,
        "Start from the weights in this file, safetensors or torch's; or efficientnet-lite0: those of the extra "
        "[pretrained].",
    )
    freeze: str | None = _network(
        None, "network: train the resizer alone, before a network that stays as it is.", choices=("network",)
    )
    size: int = _network(224, "Side of the network's input images, in pixels.", least=1, most=_LARGEST_RESIZER)
    input_size: tuple[InputSize, ...] = _network(
        (448,),
        "Side of the resizer's input images, or native: a folder's images at their own sizes, where crops are regions "
        "of the image and nothing is resized before the resizer. Several make a sweep.",
        least=1,
    )
    arms: tuple[str, ...] = _network(
        ("bilinear", "bicubic", "learned", "blind", "control"), "Resizers to compare.", choices=ARMS
    )
    baseline: str = _network("bilinear", "Fixed filter whose trained network the other arms start from.", choices=FIXED)
    interpolation: str = _network("bilinear", "Filter inside the learned resizer.", choices=FIXED)
    antialias: bool = _network(True, "Widen every filter when shrinking; off as in the paper.")
    num_filters: tuple[int, ...] = _network((16,), "Filters n of the learned resizer.", least=1, most=_LARGEST_RESIZER)
    num_blocks: tuple[int, ...] = _network(
        (1,), "Residual blocks r of the learned resizer.", least=0, most=_LARGEST_RESIZER
    )
    zero_init: bool = _network(
        False, "Start the learned resizer as exactly the fixed filter; the default before a pretrained network."
    )
    resizer: tuple[str, ...] = _network(
        (), "File of a trained resizer to transfer; NAME=FILE, for several, gives its arm a name."
    )
    normalize: bool = _network(False, "Normalise images by mean and std before the resizer.")
    mean: tuple[float, ...] = _network((0.485, 0.456, 0.406), "Mean of each channel, for --normalize.")
    std: tuple[float, ...] = _network((0.229, 0.224, 0.225), "Standard deviation of each, for --normalize.", above=0)

    loss: str = _training(
        "sigmoid",
        "Cross-entropy over sigmoid or softmax outputs; for segmentation cross-entropy, or dice: with the Dice loss "
        "added; emd for iqa; for distill, cosine of features or kl of outputs.",
        choices=tuple(loss for losses in LOSSES.values() for loss in losses),
    )
    distill_features: bool = _training(False, "With task distill, judge by features: for networks without classes.")
    temperature: float = _training(1.0, "Divides the outputs that kl compares.", above=0)
    label_smoothing: float = _training(0.1, "Label smoothing of a cross-entropy, in [0, 1).", least=0, below=1)
    optimizer: str = _training("sgd", "Optimiser.", choices=("sgd", "adamw"))
    learning_rate: float = _training(0.05, "Learning rate from scratch; the peak of one-cycle.", above=0)
    fine_tune_learning_rate: float = _training(0.005, "Learning rate of all training from a baseline.", above=0)
    resizer_learning_rate: float | None = _training(
        None, "Learning rate of the resizer, if it is another than the network's.", above=0
    )
    kernel_basis: str = _training(
        "taps",
        "What AdamW scales its steps by in the resizer's kernels: taps, or frequencies, their cosine transform.",
        choices=("taps", "frequencies"),
    )
    network_norms: str = _training(
        "batch",
        "Statistics that the network's batch norms train with: those of each batch; or, from trained weights, fixed: "
        "those that it came with.",
        choices=("batch", "fixed"),
    )
    warmup_steps: int = _training(0, "Steps of linear warm-up of the learning rate.", least=0)
    ema: float = _training(
        0.0,
        "Decay a step of the resizer's exponential moving average, which is tested and saved; 0: none.",
        least=0,
        below=1,
    )
    momentum: float = _training(0.9, "Momentum of SGD, in [0, 1).", least=0, below=1)
    weight_decay: float = _training(1e-4, "Weight decay of either optimiser.", least=0)
    schedule: str = _training(
        "decay", "Schedule of the learning rate.", choices=("decay", "one-cycle", "cosine", "constant")
    )
    decay: float = _training(0.94, "Factor of the learning rate at each step of the schedule decay.", above=0)
    decay_epochs: float = _training(2.0, "Epochs between two such steps.", above=0)
    baseline_epochs: float = _training(30.0, "Epochs of a baseline; 0: a pretrained network as it is.", least=0)
    epochs: tuple[float, ...] = _training(
        (30.0,),
        "Epochs of joint training and of its control. Several, for transfer: train for the most, test after each; 0 is "
        "before the first step.",
        least=0,
    )
    steps: int | None = _training(
        None, "Optimiser steps of each training, instead of epochs.", least=2, most=MOST_STEPS
    )
    long_factor: int = _training(10, "How many times as long control-long trains as the control.", least=1)
    batch_size: int | Literal["auto"] = _training(
        64, "Images in a batch, over all devices; auto: as many as fit on a GPU.", least=2
    )
    evaluations: int | None = _training(
        None, "Passes over the test images in each training. Default: one an epoch.", least=1
    )
    recalibrate_bn: bool = _training(True, "Recompute batch norm statistics before each such pass.")
    recalibration_batches: int = _training(10, "Training batches to recompute them from.", least=1)
    seed: int = _training(0, "Seed of the first repetition.", least=0)
    seeds: int = _training(1, "Repetitions, each with its own seed.", least=1)

    accelerator: str = _device("auto", "Where to train.", choices=("auto", "cpu", "gpu", "cuda"))
    devices: int = _device(1, "Devices of each node, or processes on a CPU.", least=1)
    jobs: int | None = _device(
        None,
        "Stages to train side by side, each in a process that takes the memory of a training; it does not change "
        "results. Default: on a CPU as many as keep all cores busy to the end, else 1.",
        compare=False,
        least=1,
    )
    nodes: int = _device(1, "Nodes; run the same command on each, or use torchrun.", least=1)
    precision: str = _device(
        "32-true",
        "Precision of the training; results are kept in 32 bits.",
        choices=("32-true", "bf16-mixed", "16-mixed", "64-true"),
    )
    checkpoint_steps: int = _device(500, "Most steps between two checkpoints.", least=1)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None and entry.default is None:
                continue
            if value == () != entry.default:
                raise ValueError(f"{entry.name}: got none; expected at least one")
            for one in value if isinstance(value, tuple) else (value,):
                check_value(entry.name, field_type(entry.name), field_words(entry.name), one, entry.metadata["bounds"])
        for name, wrong, expected in self._conflicts():
            if wrong:
                value = getattr(self, name)
                raise ValueError(f"{name}: got {'none' if value in (None, ()) else shown(value)}; expected {expected}")
        self._check_stages()

    def _conflicts(self) -> Iterator[tuple[str, bool, str]]:
        """Rules between fields: name, whether it is broken, what was expected."""
        for name in ("input_size", "arms", "num_filters", "num_blocks", "epochs", "models", "resizer"):
            yield name, len(set(getattr(self, name))) < len(getattr(self, name)), "each once"
        yield "input_size", len(self.input_size) > MOST_INPUT_SIZES, f"at most {MOST_INPUT_SIZES} sizes"
        sides = [size for size in self.input_size if size != NATIVE]
        yield "input_size", min(sides, default=self.size) < self.size, f"at least size, {self.size}, as in the paper"
        native, built_in = NATIVE in self.input_size, self.data in BUILT_IN.values()
        yield "input_size", native and built_in, f"numbers of pixels for {self.data}, which are made in any one size"
        limited = self.max_pixels is not None
        yield "max_pixels", limited and not native, f"it only with input_size {NATIVE}"
        few = self.max_pixels is not None and self.max_pixels < self.size**2
        yield "max_pixels", few, f"at least {self.size**2}, the pixels of {self.size}×{self.size}"
        unlimited = self.batch_size == "auto" and native and not limited
        yield "batch_size", unlimited, f"a number of images, or max_pixels, with input_size {NATIVE}"
        processes = self.devices * self.nodes
        yield "jobs", (self.jobs or 1) > 1 and processes > 1, "1 with several devices or nodes"
        divides = isinstance(self.batch_size, str) or self.batch_size % processes == 0
        yield "batch_size", not divides, f"a multiple of the {processes} processes"
        yield (
            "seeds",
            self.seed + self.seeds - 1 > LARGEST_INTEGER,
            f"the last seed, from seed {self.seed} on, to be at most {LARGEST_INTEGER}",
        )
        own = BUILT_IN[self.task]
        yield "data", built_in and self.data != own, f"{own} or a folder for task {self.task}"
        scored = self.task == "iqa" and not built_in
        yield "scores", self.scores is not None and not scored, "it only with task iqa and a folder as data"
        added = self.extra_photographs is not None
        yield "extra_photographs", added and self.data != "photographs", "it only with the built-in photographs"
        yield "input_size", self.task == "segmentation" and native, "numbers of pixels for task segmentation"
        losses = LOSSES[self.objective]
        yield "loss", self.loss not in losses, f"{' or '.join(losses)} for task {self.task}"
        yield from self._pretrained_conflicts()
        yield from conflicts(self.task, self._models, self.model)
        together = bool(self.models)
        yield "models", len(self.models) == 1, "at least two; --model takes one"
        folder = len(self.tasks) > 1 and self.data != "digits"
        yield "data", folder, "digits for several tasks: a folder has the targets of one"
        yield "weights", together and self.weights is not None, "none with several models; pretrained takes timm's"
        yield "batch_size", together and self.batch_size == "auto", "a number of images with several models"
        segmented = "segmentation" in self.tasks
        yield "freeze", self.freeze is not None and segmented, "none for segmentation, whose last layers are new"
        yield "epochs", max(self.epochs) == 0, "more than 0"
        several = len(self.epochs) > 1
        yield "epochs", several and self.command != "transfer", "one number (`transfer` takes several)"
        yield "steps", several and self.steps is not None, "none with several epochs"
        yield (
            "evaluations",
            several and self.evaluations is not None,
            "none with several epochs, each of which is tested",
        )
        yield "std", len(self.mean) != len(self.std), f"{len(self.mean)} positive numbers, as many as mean"
        for name in ("num_filters", "num_blocks"):
            several = len(getattr(self, name)) > 1
            yield name, several and self.command != "ablate", "one number (`ablate` takes several)"
        needed = self.command == "transfer" and not self.resizer
        yield "resizer", needed, "the file of a trained resizer, resizer.safetensors of a run"
        clash = len(self.resizers) < len(self.resizer) or {*self.resizers} & {*ARMS, "fresh"}
        yield "resizer", bool(clash), "NAME=FILE with different names, none of them another arm's"

    def _pretrained_conflicts(self) -> Iterator[tuple[str, bool, str]]:
        """Rules about pretrained and frozen networks and their teachers."""
        trained, frozen, distilled = self.is_pretrained, self.freeze is not None, self.task == "distill"
        yield "weights", self.weights is not None and self.pretrained, "either weights or pretrained"
        yield "weights", distilled and not trained, "a file, or pretrained, for task distill: a network that is trained"
        yield "freeze", frozen and not trained, "it only with weights or pretrained"
        tuned = {"control", "control-long"} & {*self.arms} if self.command == "train" else ()
        yield "arms", frozen and bool(tuned), "no control with freeze: behind a filter nothing would be trained"
        yield "baseline_epochs", frozen and self.baseline_epochs > 0, "0 with freeze: nothing would be trained"
        untrained = self.baseline_epochs == 0 and not trained
        yield "baseline_epochs", untrained, "more than 0 without weights or pretrained"
        yield "distill_features", self.distill_features and not distilled, "it only with task distill"
        yield "temperature", self.temperature != 1 and self.loss != "kl", "1 with other losses than kl"
        yield "input_size", distilled and NATIVE in self.input_size, "numbers of pixels for task distill"
        yield "batch_size", distilled and self.batch_size == "auto", "a number of images for task distill"
        scaled = self.kernel_basis != "taps" and self.optimizer != "adamw"
        yield "kernel_basis", scaled, "taps with sgd, whose steps are the same in both"
        yield "network_norms", self.network_norms == "fixed" and not trained, "batch without weights or pretrained"
        own = self.schedule == "one-cycle" and self.warmup_steps > 0
        yield "warmup_steps", own, "0 with schedule one-cycle, which has a warm-up of its own"

    @property
    def members(self) -> tuple[Member, ...]:
        """The networks behind the resizer."""
        return members_of(self.task, self._models)

    @property
    def _models(self) -> tuple[str, ...]:
        return self.models or (self.model,)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of the networks, each once."""
        return tuple(dict.fromkeys(member.task for member in self.members))

    @property
    def title(self) -> str:
        """The networks and the data, as messages name the run."""
        return f"{', '.join(self._models)} on {self.data}"

    def loss_of(self, task: str) -> str:
        """``loss`` for the run's task, the default of another one."""
        return self.loss if task == self.task else JOINT_LOSSES[task]

    @property
    def resizers(self) -> dict[str, str]:
        """Files of the transferred resizers by arm."""
        named = (_NAMED.fullmatch(text) for text in self.resizer)
        return {
            found[1] if found else "transfer": found[2] if found else text
            for text, found in zip(self.resizer, named, strict=True)
        }

    @property
    def is_pretrained(self) -> bool:
        """Whether networks start from trained weights."""
        return self.pretrained or self.weights is not None

    @property
    def objective(self) -> str:
        """The task, or ``"distill-features"``: decides on losses and metrics."""
        return f"{self.task}-features" if self.task == "distill" and self.distill_features else self.task

    def _check_stages(self) -> None:
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
        """A configuration from ``values``, its data's settings and the defaults.

        Args:
            values: by field. Tuples may also be lists, or single values; floats may be text, since YAML 1.1 reads
                1e-4 as text (1.0e-4 is a number to it).

        Raises:
            TypeError, ValueError: an unknown name, or a value that is not allowed.
        """
        known = {entry.name: entry.default for entry in fields(cls)}
        unknown = sorted(name if isinstance(name, str) else shown(name) for name in set(values) - set(known))
        if unknown:
            raise ValueError(f"config: got unknown {shown(tuple(unknown))}; expected {', '.join(sorted(known))}")
        # Fields that take several values were single ones, or none, in older files
        given = {name: value for name, value in values.items() if value is not None or known[name] != ()}
        for name, value in given.items():
            if isinstance(known[name], tuple):
                given[name] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
            if field_type(name) is float:
                given[name] = as_number(given[name])
        task = given.setdefault("task", "classification")
        if given.get("models") and "model" not in given and isinstance(given["models"][0], str):
            given["model"] = split_task(given["models"][0])[2]
        if not given.get("data") and isinstance(task, str) and task in BUILT_IN:
            given["data"] = BUILT_IN[task]
        return cls(**preset(given) | given)

    def open_source(self, input_size: InputSize) -> Source:
        """The run's data, as images of ``input_size``; raises what ``data.open_source`` raises."""
        found = {
            task: open_source(
                task,
                str(self.data),
                input_size,
                scores=self.scores,
                extra_photographs=self.extra_photographs,
                augment=self.augment,
                fit=self.fit,
                max_pixels=self.max_pixels,
            )
            for task in self.tasks
        }
        return SameImages(found) if len(found) > 1 else found[self.tasks[0]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def save(self, path: Path) -> None:
        """Writes YAML that ``load`` reads back."""
        atomic_bytes(path, yaml.safe_dump(self.as_dict(), sort_keys=False, explicit_end=True).encode())

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Reads a file of ``save``.

        Raises:
            FileNotFoundError, TypeError, ValueError: as ``read_yaml`` and ``make``.
            ValueError: its end is missing. What is left of a file that was cut off may be a whole configuration of
                fewer fields.
        """
        values = read_yaml(path)
        if not path.read_bytes().endswith(_END):
            raise ValueError(f"{path} does not end with {_END.decode().strip()}")
        return cls.make(values)


_HINTS = get_type_hints(RunConfig)
# A path may hold "=" behind a folder's name
_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.+)")


def field_type(name: str) -> type:
    """Type of a field's values: ``int``, ``float``, ``bool`` or ``str``."""
    return _alternatives(name)[0]


def field_words(name: str) -> list[str]:
    """Words that a field's values may also be, such as ``auto``."""
    return [word for part in _alternatives(name) for word in get_args(part)]


def _alternatives(name: str) -> tuple[Any, ...]:
    hint = _HINTS[name]
    one = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return get_args(one) or (one,)
