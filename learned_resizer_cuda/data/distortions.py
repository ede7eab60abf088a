"""Graded distortions of a photograph: four kinds, each at five levels.

The levels are this package's own, not a data set's. JPEG compression, another classical kind, was left out: behind a
bilinear reduction from 64 to 24 pixels a small network learnt nothing of it in 300 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVELS = 6
"""Levels of every kind: 0 leaves the photograph as it is, 5 is the strongest."""
REACH = 12
"""Pixels from the border of a patch that a distortion computes from what lies beyond it."""

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


@lru_cache(maxsize=64)
def _blur_matrix(side: int, sigma: float) -> F32:
    """1-D Gaussian cut at ``REACH`` pixels: (side, side), rows sum to 1."""
    offset = np.subtract.outer(np.arange(side), np.arange(side))
    weights = np.where(np.abs(offset) <= REACH, np.exp(-(offset**2) / (2 * sigma**2)), 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def blur(patch: U8, sigma: float, generator: np.random.Generator) -> U8:
    """Gaussian blur with a standard deviation of ``sigma`` pixels."""
    # Two small matrix products: faster on a patch than a sliding filter.
    planes = patch.astype(np.float32).transpose(2, 0, 1)
    rows, columns = (_blur_matrix(side, sigma) for side in patch.shape[:2])
    return _quantise((rows @ planes @ columns.T).transpose(1, 2, 0))


def noise(patch: U8, sigma: float, generator: np.random.Generator) -> U8:
    """Gaussian noise, standard deviation ``sigma`` (of 255), independent per pixel and channel."""
    return _quantise(patch + np.float32(sigma) * generator.standard_normal(patch.shape, np.float32))


def exposure(patch: U8, gain: float, generator: np.random.Generator) -> U8:
    """Over-exposure: every value times ``gain``, clipped at white."""
    return _quantise(patch * np.float32(gain))


def pixelate(patch: U8, factor: float, generator: np.random.Generator) -> U8:
    """Squares of ``factor`` x ``factor`` pixels replaced by their mean."""
    from PIL import Image

    side = int(factor)
    small = np.array(Image.fromarray(patch).reduce(side))
    return small.repeat(side, 0).repeat(side, 1)[: patch.shape[0], : patch.shape[1]]


def _quantise(values: F32) -> U8:
    return np.rint(values).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Distortion:
    """A kind of distortion.

    Attributes:
        name: for tables.
        apply: (patch, parameter, generator) → the distorted patch of the same shape.
        parameters: of the levels 1 to 5.
    """

    name: str
    apply: Callable[[U8, float, np.random.Generator], U8]
    parameters: tuple[float, ...]

    def __call__(self, patch: U8, level: int, generator: np.random.Generator) -> U8:
        """The patch at a level.

        Args:
            patch: uint8 (height, width, 3). Within ``REACH`` pixels of its border the result differs from that of a
                larger patch, and is to be cut away. The squares of pixelation start at its top left corner.
            level: 0 to 5; 0 returns the patch itself.
            generator: source of the noise; the same state gives the same patch.
        """
        return self.apply(patch, self.parameters[level - 1], generator) if level else patch


DISTORTIONS = (
    Distortion("blur", blur, (1.0, 1.6, 2.3, 3.1, 4.0)),
    Distortion("noise", noise, (8, 16, 27, 40, 56)),
    Distortion("exposure", exposure, (1.3, 1.7, 2.2, 2.9, 3.8)),
    Distortion("pixelation", pixelate, (3, 4, 6, 8, 12)),
)
