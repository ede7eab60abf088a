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
    in_width: int | None = None  # where the image is not square; in_size is its height

    @property
    def sides(self) -> str:
        """Batch and sizes, as "8 × 448² → 224²", "1 × 1200×1600 → 224²" or "64 × 300…900 → 224²" of mixed sizes."""
        if self.op == "resize_batch":
            return f"{self.batch} × {self.in_size}…{self.in_width} → {self.out_size}²"
        image = f"{self.in_size}²" if self.in_width is None else f"{self.in_size}×{self.in_width}"
        return f"{self.batch} × {image} → {self.out_size}²"

    @property
    def filter(self) -> str:
        """Filter, as "bicubic" or "bicubic, no antialias"."""
        return self.interpolation if self.antialias else f"{self.interpolation}, no antialias"

    @property
    def label(self) -> str:
        """One line that identifies the case."""
        return f"{self.op} {self.direction}, {self.filter}, {self.dtype} {self.layout}, {self.sides}"
