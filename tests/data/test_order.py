"""The order of the training images: a function of seed and step alone."""

import numpy as np
import pytest

from learned_resizer_cuda.data.order import stream


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 10), (7, 20), (1, 3)])
def test_every_epoch_has_every_image_once(size: int, batch_size: int) -> None:
    steps = [stream(size, 5, step, batch_size) for step in range(-(-4 * size // batch_size))]
    positions = np.concatenate([step.positions for step in steps])
    indices = np.concatenate([step.indices for step in steps])
    assert positions.tolist() == list(range(len(positions)))
    epochs = [indices[start : start + size].tolist() for start in range(0, 4 * size, size)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    if size == 10:
        assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batch_size_does_not_change_the_order() -> None:
    small = np.concatenate([stream(50, 1, step, 4).indices for step in range(30)])
    large = np.concatenate([stream(50, 1, step, 24).indices for step in range(5)])
    assert small.tolist() == large.tolist()
    assert small.tolist() != np.concatenate([stream(50, 2, step, 24).indices for step in range(5)]).tolist()


def test_parts_are_parts_of_the_whole() -> None:
    whole = stream(50, 1, 4, 12)  # positions 48 to 59: the end of an epoch and the start of the next
    for part in (slice(0, 4), slice(4, 12), slice(2, 2)):
        positions, indices = stream(50, 1, 4, 12, part)
        assert positions.tolist() == whole.positions[part].tolist()
        assert indices.tolist() == whole.indices[part].tolist()


def test_what_is_remembered_cannot_be_spoilt() -> None:
    first = stream(50, 1, 0, 50).indices
    first[:] = 0
    assert sorted(stream(50, 1, 0, 50).indices) == list(range(50))
