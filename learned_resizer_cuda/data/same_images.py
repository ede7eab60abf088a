"""The same images with the targets of several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .source import Batch, InputSize, Source


class SameImages:
    """``Source`` of the same images for several tasks; targets are by task.

    Determinism: that of the sources.

    Args:
        sources: by task, of the same images in the same order: the images of the first one are taken.

    Raises:
        ValueError: their images differ in number, size or channels.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)
        first, *others = self.sources.values()
        for other in others:
            if _shape(other) != _shape(first):
                raise ValueError(
                    f"sources: got {_shape(other)} for {other.task}; expected {_shape(first)}, as for {first.task}: "
                    "channels, sizes of the images, and numbers of them for training and testing"
                )
        self.task, self.labels, self.in_channels = first.task, first.labels, first.in_channels
        self.train_size, self.test_size = first.train_size, first.test_size

    @property
    def input_size(self) -> InputSize:
        """Side of the images in pixels."""
        return self.sources[self.task].input_size

    @property
    def notes(self) -> Sequence[str]:
        """Notes of all sources, each once."""
        return list(dict.fromkeys(note for source in self.sources.values() for note in source.notes))

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """Part of a step's batch; see ``Source``."""
        return _together({t: s.train_batch(seed, step, batch_size, part) for t, s in self.sources.items()})

    def test_batch(self, part: slice) -> Batch:
        """Test images of the part; see ``Source``."""
        return _together({task: source.test_batch(part) for task, source in self.sources.items()})


def labels_of(source: Source, task: str) -> tuple[str, ...]:
    """Names of a task's classes or bins."""
    return source.sources[task].labels if isinstance(source, SameImages) else source.labels


def _together(batches: Mapping[str, Batch]) -> Batch:
    first = next(iter(batches.values()))
    targets: dict[str, Tensor] = {}
    for task, batch in batches.items():
        assert isinstance(batch.targets, Tensor)
        targets[task] = batch.targets
    return first._replace(targets=targets)


def _shape(source: Source) -> tuple[object, ...]:
    return source.in_channels, source.input_size, source.train_size, source.test_size
