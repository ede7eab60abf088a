"""What one comparison runs: a dataclass of plain values that goes to config.yaml and back."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..ops.bands import INTERPOLATIONS

ARMS = ("bilinear", "bicubic", "blind", "learned", "bicubic-long")
LOSSES = ("softmax", "sigmoid")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
LONG_FACTOR = 5
"""Steps of the long arm over those of the others: 2,000 for 400."""


@dataclass(frozen=True)
class RunConfig:
    """One comparison of resizers in front of the same network, with the same training.

    Args:
        arms: which resizers, of ``ARMS``, each at most once.
        seed: seed of the first repetition, at least 0.
        seeds: number of repetitions, with seeds ``seed``, ``seed + 1``, and so on.
        steps: optimiser steps of every arm but the long one.
        long_steps: optimiser steps of ``bicubic-long``. None: ``LONG_FACTOR * steps``, or a whole multiple of it
            where that is less training time than the learned arm took.
        batch_size: canvases in a batch.
        canvas: side of the images that the resizers get, in pixels.
        size: side of the images that the network gets.
        interpolation: the resampling inside the learned resizer (arms ``learned`` and ``blind``).
        num_filters, num_blocks: n and r of the learned resizer.
        loss: cross-entropy over ``"softmax"`` or over ``"sigmoid"`` outputs.
        label_smoothing: in [0, 1).
        learning_rate: the peak of the one-cycle schedule.
        weight_decay: of AdamW.
        evaluations: passes over the test set during a run, the last one after the last step.
        num_workers: processes that draw training batches; results do not depend on it.
        accelerator: where to train, of ``ACCELERATORS``; ``"auto"`` takes a GPU where there is one.

    Raises:
        TypeError, ValueError: naming the argument, its value and what was expected.
    """

    arms: tuple[str, ...] = ARMS
    seed: int = 0
    seeds: int = 1
    steps: int = 400
    long_steps: int | None = None
    batch_size: int = 64
    canvas: int = 96
    size: int = 16
    interpolation: str = "bilinear"
    num_filters: int = 16
    num_blocks: int = 1
    loss: str = "softmax"
    label_smoothing: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    evaluations: int = 8
    num_workers: int = 0
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name == "long_steps" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: got {value!r}; expected an integer of at least {least}")
            if value < least:
                raise ValueError(f"{name}: got {value}; expected at least {least}")
        if not self.arms or len(set(self.arms)) != len(self.arms) or not set(self.arms) <= set(ARMS):
            raise ValueError(
                f"arms: got {', '.join(self.arms) or 'none'}; expected some of {', '.join(ARMS)}, each once"
            )
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; expected one of {', '.join(known)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing: got {self.label_smoothing}; expected a number in [0, 1)")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate: got {self.learning_rate}; expected a positive finite number")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay: got {self.weight_decay}; expected a finite number of at least 0")

    @property
    def ordered_arms(self) -> tuple[str, ...]:
        """The arms in the order they run: the long one last, as its length may follow from the others'."""
        return tuple(arm for arm in ARMS if arm in self.arms)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return asdict(self) | {"arms": list(self.arms)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of ``as_dict``. Missing names take their defaults; an unknown one raises ValueError."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"config: got unknown {', '.join(sorted(unknown))}; expected {', '.join(sorted(known))}")
        return cls(**values | ({"arms": tuple(values["arms"])} if "arms" in values else {}))

    def save(self, path: Path) -> None:
        """Writes YAML that ``load`` reads back."""
        import yaml

        path.write_text(yaml.safe_dump(self.as_dict(), sort_keys=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Reads what ``save`` wrote."""
        import yaml

        return cls.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))


_KNOWN: dict[str, tuple[str, ...]] = {
    "interpolation": INTERPOLATIONS,
    "loss": LOSSES,
    "accelerator": ACCELERATORS,
}
_LEAST = {
    "seed": 0,
    "seeds": 1,
    "steps": 2,  # the one-cycle schedule divides by steps - 1
    "long_steps": 2,
    "batch_size": 2,  # batch statistics of the network's last map need more than one image at tiny sizes
    "canvas": 28,
    "size": 4,  # the network halves twice
    "num_filters": 1,
    "num_blocks": 0,
    "evaluations": 1,
    "num_workers": 0,
}
