"""Order of training images by seed and step; resuming needs no state."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ORDER, CANVAS, TEST, AUGMENT = range(4)
"""Streams of the random generator, ``default_rng((seed, stream, ...))``: draws from one never shift another."""


class Places(NamedTuple):
    """Origins of the images of a batch; both int64 (b,).

    Attributes:
        positions: in the endless stream of training images, counted from 0 and never repeated.
        indices: in the data set, 0 to size - 1.
    """

    positions: NDArray[np.int64]
    indices: NDArray[np.int64]


def stream(size: int, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Places:
    """The images of a step: fresh order each epoch, no ragged batches.

    The stream is the endless concatenation of one permutation per epoch; step s takes its positions
    ``[s batch_size, (s + 1) batch_size)``, so that a batch may hold the end of one epoch and the start of the next.

    Args:
        size: images of the data set, at least 1.
        seed, step: at least 0.
        batch_size: images of the whole batch, at least 1; it may exceed ``size``.
        part: which of them.

    Determinism: depends on the arguments alone; the parts of a batch are parts of the same whole.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)[part]
    epochs, within = np.divmod(positions, size)
    indices = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(size, seed, int(epoch))[within[here]]
    return Places(positions, indices)


# Two epochs, since a batch may straddle them; a permutation of a million images takes 8 MB and tens of milliseconds.
@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    permutation = np.random.default_rng((seed, ORDER, epoch)).permutation(size)
    permutation.flags.writeable = False
    return permutation
