"""The cases that are timed. Without torch, so that a report can be made anywhere."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "learned_resizer_cuda"


@dataclass(frozen=True)
class Case:
    """One case: everything that a ratio depends on."""

    op: str
    direction: str
    interpolation: str
    antialias: bool
    dtype: str
    layout: str
    batch: int
    in_size: int
    out_size: int

    @property
    def sides(self) -> str:
        """Batch and sizes, as "8 × 448² → 224²"."""
        return f"{self.batch} × {self.in_size}² → {self.out_size}²"

    @property
    def filter(self) -> str:
        """Filter, as "bicubic" or "bicubic, no antialias"."""
        return self.interpolation if self.antialias else f"{self.interpolation}, no antialias"

    @property
    def label(self) -> str:
        """One line that identifies the case."""
        return f"{self.op} {self.direction}, {self.filter}, {self.dtype} {self.layout}, {self.sides}"
