"""A folder of images and masks: pixels, and masks that cannot be read.

The pixels expected are slices of the arrays that were saved, worked out by hand.
"""

from __future__ import annotations

import pickle
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from learned_resizer_cuda.data import order
from learned_resizer_cuda.data.errors import (
    TooManyUnreadableError,
)
from learned_resizer_cuda.data.image_view import drawn_view
from learned_resizer_cuda.data.masks import MaskFolderSource, read_mask
from learned_resizer_cuda.data.source import IGNORED, Source, Unreadable
from tests.helpers.mask_folders import CENTRE, HEIGHT, WIDTH, mask, number_of, one_pixel, rgb, root, save_mask
from tests.helpers.photo_folders import photograph

__all__ = ["root"]


def train_numbers(source: MaskFolderSource, seed: int, step: int, size: int) -> list[int]:
    indices = order.stream(source.train_size, seed, step, size).indices.tolist()
    return [number_of(source.train.path(index)) for index in indices]


# pixels


def test_views_without_resizing_are_slices(root: Path) -> None:
    source: Source = MaskFolderSource(root, 28, augment="none")
    assert (source.task, source.labels) == ("segmentation", ("sky", "road", "car", "küche", "tree"))
    test = source.test_batch(slice(0, 3))
    assert test.targets.dtype == torch.uint8 and test.targets.shape == (3, 28, 28) and test.unreadable == ()
    # in the order of their names: 10, 8, 9
    np.testing.assert_array_equal(test.targets.numpy(), [mask(number)[CENTRE] for number in (10, 8, 9)])
    pixels = [photograph(number, HEIGHT, WIDTH)[CENTRE] for number in (10, 8, 9)]
    np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1).numpy(), pixels)  # type: ignore[union-attr]
    assert (test.targets == IGNORED).any() and set(test.targets.unique().tolist()) == {0, 1, 2, 3, 4, IGNORED}
    train = source.train_batch(3, 0, 8)
    expected = [mask(number)[CENTRE] for number in train_numbers(source, 3, 0, 8)]  # type: ignore[arg-type]
    np.testing.assert_array_equal(train.targets.numpy(), expected)


@pytest.mark.parametrize(("size", "step"), [(28, 1), (14, 2)])
def test_masks_are_mirrored_with_their_images(root: Path, size: int, step: int) -> None:
    """At half the size a centre lies between two pixels, of which the lower right one counts before mirroring."""
    source = MaskFolderSource(root, size, augment="flip")
    batch = source.train_batch(0, 0, 8)
    plain = MaskFolderSource(root, size, augment="none").train_batch(0, 0, 8)
    mirrored = []
    for place, number in enumerate(train_numbers(source, 0, 0, 8)):
        found, as_it_is = batch.images[place], plain.images[place]  # type: ignore[index]
        mirrored.append(not torch.equal(found, as_it_is))
        assert torch.equal(found, as_it_is.flip(-1) if mirrored[-1] else as_it_is)
        expected = mask(number)[CENTRE][step - 1 :: step, step - 1 :: step]
        np.testing.assert_array_equal(batch.targets[place].numpy(), expected[:, ::-1] if mirrored[-1] else expected)
    assert any(mirrored) and not all(mirrored)


def nearest(values: np.ndarray, size: int) -> np.ndarray:
    """The pixel that contains the centre (i + 1/2) h / S of each of S x S."""
    rows, columns = ((2 * np.arange(size) + 1) * side // (2 * size) for side in values.shape)
    return values[rows][:, columns]


@pytest.mark.parametrize("size", [9, 24, 61])
def test_random_crops_of_the_nearest_pixels(root: Path, size: int) -> None:
    source = MaskFolderSource(root, size)
    batch = source.train_batch(5, 2, 8)
    places = order.stream(8, 5, 2, 8)
    for place, number in enumerate(train_numbers(source, 5, 2, 8)):
        generator = np.random.default_rng((5, order.AUGMENT, int(places.positions[place])))
        top, left, height, width, mirror = drawn_view("crop", "crop", HEIGHT, WIDTH, generator)
        expected = nearest(mask(number)[top : top + height, left : left + width], size)
        np.testing.assert_array_equal(batch.targets[place].numpy(), expected[:, ::-1] if mirror else expected)


def test_squashed_masks(root: Path) -> None:
    batch = MaskFolderSource(root, 16, fit="squash").test_batch(slice(1, 2))
    rows = np.arange(1, 32, 2)  # 32 / 16 = 2 rows for each: the lower of them
    columns = [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38]  # 40 / 16 = 2.5: centres 1.25, 3.75, 6.25...
    np.testing.assert_array_equal(batch.targets[0].numpy(), mask(8)[rows][:, columns])


def halves(height: int, width: int) -> np.ndarray:
    """Class 1 in the lower quarter and in the left half of the rest."""
    values = np.zeros((height, width), np.uint8)
    values[: 3 * height // 4, : width // 2] = 1
    values[3 * height // 4 :] = 1
    return values


def test_a_mask_fits_the_upright_image(root: Path) -> None:
    """Orientation 6: stored turned by 90° to the left, 48 x 64 of an upright 64 x 48."""
    upright = halves(64, 48)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in (8, 9):
        (root / f"val/images/{number}.png").unlink()
        Image.fromarray(np.rot90(upright) * 255).save(root / f"val/images/{number}.jpg", exif=exif, quality=95)
    save_mask(root / "val/masks/8.png", upright)
    save_mask(root / "val/masks/9.png", np.rot90(upright).copy())
    batch = MaskFolderSource(root, 16, fit="squash").test_batch(slice(1, 3))
    np.testing.assert_array_equal(batch.targets[0].numpy(), halves(16, 16))
    np.testing.assert_array_equal(batch.images[0, 0].numpy() > 127, halves(16, 16))  # type: ignore[index]
    reason = "mask of 48×64 pixels for an image of 64×48"
    assert batch.unreadable == (Unreadable(str(root / "val/masks/9.png"), reason),)


# how masks are stored


def png(bits: int, width: int, rows: list[bytes]) -> bytes:
    """A PNG in grey, of any depth."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_modes_of_masks(tmp_path: Path) -> None:
    values = mask(3)
    for mode in ("L", "P"):
        np.testing.assert_array_equal(read_mask(save_mask(tmp_path / f"{mode}.png", values, mode)), values)
    with Image.open(tmp_path / "P.png") as image:
        assert image.mode == "P" and not np.array_equal(np.array(image.convert("L")), values)
    wide = read_mask(save_mask(tmp_path / "16.png", values.astype(np.uint16)))
    np.testing.assert_array_equal(wide, values)
    binary = read_mask(save_mask(tmp_path / "1.png", values > 2))
    np.testing.assert_array_equal(binary, (values > 2).astype(np.uint8))
    assert wide.dtype == binary.dtype == np.uint8


def test_grey_of_few_bits_holds_indices(tmp_path: Path) -> None:
    """Pillow gives 0, 85, 170, 255 for the indices 0 to 3 of two bits."""
    (tmp_path / "2.png").write_bytes(png(2, 4, [bytes([0b00011011]), bytes([0b11111100])]))
    assert read_mask(tmp_path / "2.png").tolist() == [[0, 1, 2, 3], [3, 3, 3, 0]]
    (tmp_path / "4.png").write_bytes(png(4, 4, [bytes([0x01, 0xAF])]))
    assert read_mask(tmp_path / "4.png").tolist() == [[0, 1, 10, 15]]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: save_mask(path, mask(0, 10, 20)), "mask of 10×20 pixels for an image of 32×40"),
        (lambda path: save_mask(path, mask(0, WIDTH, HEIGHT)), "mask of 40×32 pixels for an image of 32×40"),
        (rgb, "mode RGB; expected class indices, in grey or with a palette"),
        (partial(one_pixel, 5), "class 5 at row 3, column 5; expected 0 to 4, or 255"),
        (partial(one_pixel, 254), "class 254 at row 3, column 5; expected 0 to 4, or 255"),
        (partial(one_pixel, 65535), "class 65535 at row 3, column 5; expected 0 to 4, or 255"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"none"), "not an image, or in a format that is not opened"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "damaged: image file is truncated"),
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: Image.fromarray(mask(0)).save(path, "BMP"), "format BMP; expected a PNG of class indices"),
    ],
)
def test_an_unreadable_mask_is_as_an_unreadable_image(root: Path, spoil: Callable[[Path], object], reason: str) -> None:
    source = MaskFolderSource(root, 28, augment="none")
    whole = source.train_batch(0, 0, 8)
    paths = [source.train.masks.path(2), source.test.masks.path(1)]
    for path in paths:
        spoil(path)
    batch = source.train_batch(0, 0, 8)
    at = {index: place for place, index in enumerate(order.stream(8, 0, 0, 8).indices.tolist())}
    for index, place in at.items():
        good = at[3 if index == 2 else index]
        assert torch.equal(batch.images[place], whole.images[good])  # type: ignore[index]
        assert torch.equal(batch.targets[place], whole.targets[good])
    [unreadable] = batch.unreadable
    assert unreadable.path == str(paths[0]) and unreadable.reason.startswith(reason)
    test = source.test_batch(slice(0, 3))
    np.testing.assert_array_equal(test.targets.numpy(), [mask(number)[CENTRE] for number in (10, 9)])
    assert len(test.images) == 2 and [item.path for item in test.unreadable] == [str(paths[1])]
    alone = source.test_batch(slice(1, 2))
    assert alone.images.shape == (0, 3, 28, 28) and alone.targets.shape == (0, 28, 28)  # type: ignore[union-attr]
    assert alone.targets.dtype == torch.uint8


def test_a_damaged_image_is_replaced_with_its_mask(root: Path) -> None:
    source = MaskFolderSource(root, 28, augment="none")
    source.train.path(7).write_bytes(b"none")
    batch = source.train_batch(0, 0, 8)
    at = {index: place for place, index in enumerate(order.stream(8, 0, 0, 8).indices.tolist())}
    np.testing.assert_array_equal(batch.targets[at[7]], mask(number_of(source.train.path(0)))[CENTRE])
    assert [item.path for item in batch.unreadable] == [str(source.train.path(7))]


def test_no_readable_mask(root: Path) -> None:
    source = MaskFolderSource(root, 28)
    for path in (root / "train/masks").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(TooManyUnreadableError, match=r"8 training images in a row of 8 .*masks.*png: empty file"):
        source.train_batch(0, 0, 1)


# determinism


def test_batches_are_functions_of_seed_and_step(root: Path) -> None:
    source = MaskFolderSource(root, 12)
    source.train.masks.path(3).write_bytes(b"none")
    whole = source.train_batch(7, 3, 10)
    again = pickle.loads(pickle.dumps(MaskFolderSource(root, 12)))  # as a worker process gets it
    again.train_batch(7, 4, 10)
    parts = [again.train_batch(7, 3, 10, part) for part in (slice(6, 10), slice(0, 6))][::-1]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    assert parts[0].unreadable + parts[1].unreadable == whole.unreadable != ()
    for seed, step in ((8, 3), (7, 4)):
        assert not torch.equal(source.train_batch(seed, step, 10).targets, whole.targets)
    tests = source.test_batch(slice(0, 3)).targets
    assert torch.equal(again.test_batch(slice(1, 3)).targets, tests[1:])


# splits and layout
