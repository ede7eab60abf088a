"""Image folders: classes, batches that depend on seed and step alone, and what is not an image."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from learned_resizer_cuda.data import order
from learned_resizer_cuda.data.folder import ImageFolderSource
from learned_resizer_cuda.data.image_view import drawn_view, fixed_view, read_view
from learned_resizer_cuda.data.source import Source
from tests.helpers.photo_folders import alike, class_folder, save


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folder(tmp_path_factory.mktemp("folder"), ("bee", "ant", "cat"))


def test_is_a_source(root: Path) -> None:
    source: Source = ImageFolderSource(root, 12)
    assert source.task == "classification" and source.labels == ("ant", "bee", "cat")
    assert (source.in_channels, source.input_size) == (3, 12)
    assert (source.train_size, source.test_size) == (15, 6)
    assert ImageFolderSource(root, 12).notes == []


def test_train_batch_is_what_the_files_hold(root: Path) -> None:
    source = ImageFolderSource(root, 12)
    files = sorted((root / "train").rglob("*.png"))
    batch = source.train_batch(7, 2, 10)  # positions 20 to 29, in the second epoch of 15
    assert batch.images.shape == (10, 3, 12, 12) and batch.images.dtype == torch.uint8
    assert batch.targets.dtype == torch.int64 and batch.unreadable == ()
    positions, indices = order.stream(15, 7, 2, 10)
    for image, target, position, index in zip(batch.images, batch.targets, positions, indices, strict=True):
        generator = np.random.default_rng((7, order.AUGMENT, position))
        view = partial(drawn_view, "crop", "crop", generator=generator)
        assert torch.equal(image, read_view(files[index], view, 12, 3))
        assert source.labels[target] == files[index].parent.name


def test_the_augmentation_of_an_image_changes_from_epoch_to_epoch(root: Path) -> None:
    source = ImageFolderSource(root, 12)
    first, second = (source.train_batch(0, step, 15) for step in (0, 1))
    orders = [order.stream(15, 0, step, 15).indices.tolist() for step in (0, 1)]
    same = [torch.equal(first.images[orders[0].index(i)], second.images[orders[1].index(i)]) for i in range(15)]
    assert not any(same)


def test_without_augmentation_an_image_stays_as_it_is(root: Path) -> None:
    source = ImageFolderSource(root, 12, augment="none", fit="squash")
    first, second = (source.train_batch(0, step, 15) for step in (0, 1))
    for index in range(15):
        at = [order.stream(15, 0, step, 15).indices.tolist().index(index) for step in (0, 1)]
        assert torch.equal(first.images[at[0]], second.images[at[1]])


def test_batch_is_a_function_of_seed_and_step(root: Path) -> None:
    source = ImageFolderSource(root, 12)
    batch = source.train_batch(3, 4, 6)
    source.train_batch(3, 5, 6)
    torch.rand(1)
    # as a resumed run makes it, and as a worker process of its own memory does
    for other in (ImageFolderSource(root, 12), pickle.loads(pickle.dumps(source))):
        again = other.train_batch(3, 4, 6)
        assert torch.equal(again.images, batch.images) and torch.equal(again.targets, batch.targets)
    for seed, step in ((4, 4), (3, 5)):
        assert not torch.equal(source.train_batch(seed, step, 6).images, batch.images)


def test_parts_are_parts_of_the_batch(root: Path) -> None:
    source = ImageFolderSource(root, 12)
    whole = source.train_batch(3, 1, 12)  # straddles two epochs
    parts = [source.train_batch(3, 1, 12, part) for part in (slice(0, 4), slice(4, 8), slice(8, 12))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_test_batches(root: Path, fit: str) -> None:
    source = ImageFolderSource(root, 12, fit=fit)
    files = sorted((root / "val").rglob("*.png"))
    batch = source.test_batch(slice(1, 5))
    for image, target, file in zip(batch.images, batch.targets, files[1:5], strict=True):
        assert torch.equal(image, read_view(file, partial(fixed_view, fit), 12, 3))
        assert source.labels[target] == file.parent.name
    assert source.test_batch(slice(4, 99)).targets.tolist() == [2, 2]
    empty = source.test_batch(slice(6, 6))
    assert empty.images.shape == (0, 3, 12, 12) and empty.targets.shape == (0,)


def test_grey(root: Path) -> None:
    colour, grey = (ImageFolderSource(root, 12, channels).train_batch(0, 0, 4).images for channels in (3, 1))
    assert grey.shape == (4, 1, 12, 12)
    luma = (colour.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    # three roundings: of the grey pixels before the filter, of the colours and of the grey after it
    assert (grey - luma).abs().max() <= 1.5


def test_mixed_files_make_one_batch(tmp_path: Path) -> None:
    """Sizes, formats and capitals; images in folders below the class; hidden and foreign files are none."""
    train = class_folder(tmp_path, train=1, val=1) / "train"
    save(train / "ant" / "deep" / "er" / "tall.JPG", 1, 200, 10)
    save(train / "ant" / "wide.webp", 2, 3, 90)
    save(train / "bee" / "tiny.gif", 3, 1, 1)
    save(train / "bee" / "large.jpeg", 4, 300, 400)
    save(train / "bee" / ".hidden.png", 5)
    save(train / "bee" / ".thumbnails" / "a.png", 5)
    save(train / ".cache" / "a.png", 5)
    (train / "bee" / "notes.txt").write_text("none")
    (train / "bee" / "without").write_text("none")
    source = ImageFolderSource(tmp_path, 16)
    assert source.train_size == 6 and source.labels == ("ant", "bee")
    batch = source.train_batch(0, 0, 6)
    assert batch.images.shape == (6, 3, 16, 16) and batch.unreadable == ()
    assert sorted(batch.targets.tolist()) == [0, 0, 0, 1, 1, 1]
    assert all(alike(a, b) > 1 for n, a in enumerate(batch.images) for b in batch.images[:n])


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_names_of_the_test_folder(tmp_path: Path, name: str) -> None:
    class_folder(tmp_path, train=1, val=2)
    (tmp_path / "val").rename(tmp_path / name)
    assert ImageFolderSource(tmp_path, 8).test_size == 4


def test_images_of_no_class_are_noted(tmp_path: Path) -> None:
    class_folder(tmp_path, train=1, val=1)
    save(tmp_path / "train" / "stray.png")
    source = ImageFolderSource(tmp_path, 8)
    assert source.train_size == 2
    assert source.notes == [f"1 images directly in {tmp_path / 'train'} have no class and are left out"]


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    class_folder(tmp_path / "real", train=2, val=1)
    root = tmp_path / "linked"
    root.mkdir()
    for split in ("train", "val"):
        (root / split).symlink_to(tmp_path / "real" / split)
    (tmp_path / "real" / "train" / "ant" / "loop").symlink_to(tmp_path / "real" / "train" / "ant")
    assert ImageFolderSource(root, 8).train_size == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "input_size: got 0; expected an integer of at least 1"),
        ({"in_channels": 2}, r"in_channels: got 2; expected 3 \(colour\) or 1 \(grey\)"),
        ({"augment": "rotate"}, "augment: got 'rotate'; expected one of none, flip, crop"),
        ({"fit": "pad"}, "fit: got 'pad'; expected one of crop, squash"),
    ],
)
def test_options(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderSource(root, **({"input_size": 12} | options))  # type: ignore[arg-type]
