"""A folder's images at their own sizes: views as boxes, reduction to a number of pixels, collation in a loader."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from learned_resizer_cuda import FusedResizer, resize, resize_batch
from learned_resizer_cuda.data import NativeFolder, collate_images
from learned_resizer_cuda.data.folder import ImageFolderSource
from learned_resizer_cuda.data.image_file import ImageRefused
from learned_resizer_cuda.data.image_view import View, fixed_view, read_native, reduced_size
from learned_resizer_cuda.data.open_source import open_source
from learned_resizer_cuda.data.scores import ScoreSource
from learned_resizer_cuda.data.source import Batch, MixedImages
from tests.helpers.image_files import expected, pattern
from tests.helpers.photo_folders import class_folder, save


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 17 to 30 by 26 to 39 pixels, one of a single pixel, one that is none."""
    folder = class_folder(tmp_path_factory.mktemp("folder"))
    save(folder / "train/ant/1.png", 1, 1, 1)
    (folder / "train/bee/2.png").write_bytes(b"none")
    return folder


def mixed(batch: Batch) -> MixedImages:
    assert isinstance(batch.images, MixedImages)
    return batch.images


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_regions_are_the_views_of_one_size(root: Path, augment: str, fit: str) -> None:
    """In every bit: the same draws, and a crop that is resized is what the region gives."""
    one = ImageFolderSource(root, 12, augment=augment, fit=fit)
    native = ImageFolderSource(root, "native", augment=augment, fit=fit)
    train = [source.train_batch(3, 2, 8, slice(1, 7)) for source in (one, native)]
    test = [source.test_batch(slice(1, 4)) for source in (one, native)]
    for wanted, got in (train, test):
        images = mixed(got)
        assert len(images) == len(got.targets) == len(wanted.targets)
        assert torch.equal(got.targets, wanted.targets) and got.unreadable == wanted.unreadable
        assert (images.boxes.dtype, images.flip.dtype) == (torch.float64, torch.bool)
        assert torch.equal(torch.stack([resize(crop, 12) for crop in images.crops()]), wanted.images)
        assert torch.equal(resize_batch(images.images, 12, boxes=images.boxes, flip=images.flip), wanted.images)
    assert train[0].unreadable  # the file that is none was met, and replaced
    assert any(image.shape[1:] == (1, 1) for image in mixed(train[1]).images)


def test_a_part_without_readable_images(tmp_path: Path) -> None:
    class_folder(tmp_path)
    (tmp_path / "val/ant/0.png").write_bytes(b"none")
    batch = ImageFolderSource(tmp_path, "native").test_batch(slice(0, 1))
    assert len(batch.images) == 0 and mixed(batch).boxes.shape == (0, 4) and len(batch.unreadable) == 1


def test_scored_images(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", number, 10 + number, 20)
    rows = [f"{number}.png,1,{number},{'train' if number < 2 else 'val'}" for number in range(4)]
    (tmp_path / "scores.csv").write_text("\n".join(["image,1,2,split", *rows]))
    source = ScoreSource(tmp_path, None, "native", max_pixels=100)
    batch = source.test_batch(slice(0, 2))
    assert [image.shape for image in mixed(batch).images] == [(3, 7, 12), (3, 8, 12)]
    assert mixed(batch).boxes.tolist() == [[0, 0, 7, 12], [0, 0, 8, 12]]  # squash: whole images


@pytest.mark.parametrize("data", ["digits", "photographs"])
def test_built_in_data_has_one_size(data: str) -> None:
    with pytest.raises(ValueError, match=f"input_size: got native; expected a number of pixels: {data}"):
        open_source("classification" if data == "digits" else "iqa", data, "native")


def whole(height: int, width: int) -> View:
    return View(0, 0, height, width)


@pytest.mark.parametrize("orientation", [1, 4, 6])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pattern(30, 50)).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    found, view = read_native(path, partial(fixed_view, "squash"), 3)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), upright)
    assert view == View(0, 0, *upright.shape[:2])


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_modes_become_colour_or_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(pattern(9, 16)).convert(mode).save(path)
    with Image.open(path) as image:
        colour, grey = np.array(image.convert("RGB")), np.array(image.convert("L"))
    np.testing.assert_array_equal(read_native(path, whole, 3)[0].permute(1, 2, 0).numpy(), colour)
    np.testing.assert_array_equal(read_native(path, whole, 1)[0][0].numpy(), grey)


def test_reduced_size() -> None:
    generator = np.random.default_rng(0)
    for height, width, most in np.exp(generator.uniform(0, np.log(1e5), (2000, 3))).astype(int).tolist():
        h, w = reduced_size(height, width, most)
        if height * width <= most:
            assert (h, w) == (height, width)
            continue
        assert 1 <= h <= height and 1 <= w <= width and h * w <= most
        assert (h + 1) * (w + 1) > most  # no smaller than needed
        # the aspect, to a pixel on either side
        assert min(h, w) == 1 or (h - 1) / (w + 1) < height / width < (h + 1) / (w - 1)
    assert reduced_size(1, 10**6, 1000) == (1, 1000) and reduced_size(10**6, 3, 2) == (2, 1)
    assert reduced_size(500, 20_000, 40_000) == (31, 1264) and reduced_size(7, 9, None) == (7, 9)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_larger_images_are_reduced(tmp_path: Path, suffix: str) -> None:
    """By this package's resize; a JPEG is decoded near the size first."""
    array = np.array(Image.fromarray(pattern(30, 80)).resize((800, 300), Image.Resampling.BICUBIC))
    Image.fromarray(array).save(tmp_path / f"a.{suffix}")
    found, view = read_native(tmp_path / f"a.{suffix}", partial(fixed_view, "crop"), 3, 10_000)
    assert found.shape == (3, 61, 163) and view == fixed_view("crop", 61, 163)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        exact = expected(np.array(image), (61, 163))
    distance = np.abs(found.permute(1, 2, 0).numpy().astype(int) - exact.astype(int))
    # Decoded at 1/4 and reduced: two filters instead of one, 0.33 levels measured; a pixel beside it, 3.3.
    assert distance.mean() <= (1 if suffix == "jpg" else 0)


def test_panorama(tmp_path: Path) -> None:
    Image.fromarray(np.tile(pattern(20, 100), (1, 300, 1))).save(tmp_path / "a.jpg")
    found, _ = read_native(tmp_path / "a.jpg", whole, 3, 5000)
    assert found.shape == (3, 1, 2738)
    assert read_native(tmp_path / "a.jpg", whole, 3)[0].shape == (3, 20, 30_000)


def test_wrong_options(root: Path) -> None:
    for value in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"max_pixels: got {value!r}; expected an integer of at least 1"):
            ImageFolderSource(root, "native", max_pixels=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="input_size: got 'nativ'; expected an integer of at least 1, or native"):
        ImageFolderSource(root, "nativ")  # type: ignore[arg-type]


def test_collation() -> None:
    images = [torch.zeros(3, 4, 5), torch.ones(3, 1, 1)]
    kept, labels = collate_images([(images[0], 2), (images[1], 1)])
    assert kept[0] is images[0] and kept[1] is images[1] and isinstance(kept, list)
    assert torch.equal(labels, torch.tensor([2, 1]))
    histograms = collate_images([(image, torch.tensor([0.5, 0.5])) for image in images])[1]
    assert histograms.shape == (2, 2)
    samples = [(images[0], 0, (0.5, 1, 2, 3), True), (images[1], 1, torch.tensor([0, 0, 1, 1.0]), torch.tensor(False))]
    _, _, boxes, flip = collate_images(samples)
    assert torch.equal(boxes, torch.tensor([[0.5, 1, 2, 3], [0, 0, 1, 1]], dtype=torch.float64))
    assert torch.equal(flip, torch.tensor([True, False]))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "samples: got none"),
        ([(torch.zeros(3, 1, 1),)], r"samples\[0\]: got 1 parts; expected \(image, label\)"),
        ([(torch.zeros(3, 1, 1), 1), (torch.zeros(3, 1, 1), 1, (0, 0, 1, 1), True)], r"samples\[1\]: got 4 parts"),
    ],
)
def test_what_cannot_be_collated(samples: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate_images(samples)


def test_pinning_keeps_the_structure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loader does with pin_memory=True, which needs a GPU: here pinning is copying."""
    pin = torch.utils.data._utils.pin_memory.pin_memory
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    images, labels, boxes, flip = pin(collate_images([(torch.ones(3, 2, 2), 1, (0, 0, 1, 1), True)]))
    assert isinstance(images, list) and torch.equal(images[0], torch.ones(3, 2, 2)) and labels.tolist() == [1]
    assert boxes.tolist() == [[0, 0, 1, 1]] and flip.tolist() == [True]
    batch = ImageFolderSource(root, "native").train_batch(0, 0, 3)
    pinned = pin(batch)
    assert type(pinned) is Batch and isinstance(pinned.images, MixedImages)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(pinned.images.images, mixed(batch).images, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_a_folder(tmp_path: Path, workers: int) -> None:
    """The example of ``NativeFolder``."""
    folder = class_folder(tmp_path, train=3) / "train"
    dataset = NativeFolder(folder, max_pixels=600)
    assert (len(dataset), dataset.classes, dataset.labels) == (6, ["ant", "bee"], [0, 0, 0, 1, 1, 1])
    resizer = FusedResizer(8, num_filters=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        collate_fn=collate_images,
        generator=torch.Generator().manual_seed(1),
    )
    sizes, drawn = [], []
    for images, labels, boxes, flip in loader:
        output = resizer(images, boxes=boxes, flip=flip)
        assert output.shape == (len(labels), 3, 8, 8) and output.isfinite().all()
        sizes += [image.shape[1] * image.shape[2] for image in images]
        drawn += boxes.tolist()
    assert len(sizes) == 6 and len(set(sizes)) > 3 and max(sizes) <= 600 and len(set(map(tuple, drawn))) == 6
    again = [box for _, _, boxes, _ in loader for box in boxes.tolist()]
    assert again != drawn  # drawn anew in each epoch


def test_a_folder_of_ones_own_names_what_it_cannot_read(tmp_path: Path) -> None:
    path = class_folder(tmp_path) / "train/ant/0.png"
    path.write_bytes(b"")
    with pytest.raises(ImageRefused, match=f"{path}: empty file"):
        NativeFolder(tmp_path / "train")[0]
    with pytest.raises(ValueError, match="expected a folder of class folders with images"):
        NativeFolder(tmp_path / "train/ant")
    with pytest.raises(ValueError, match="augment: got 'turn'"):
        NativeFolder(tmp_path / "train", augment="turn")
