"""Images without labels: how a folder is split, what is drawn, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from learned_resizer_cuda.data.errors import DataError, EmptySplitError
from learned_resizer_cuda.data.listing import is_for_testing
from learned_resizer_cuda.data.open_source import open_source
from learned_resizer_cuda.data.source import Source
from learned_resizer_cuda.data.unlabelled import TEST_CROPS, PhotographCrops, UnlabelledSource
from tests.helpers.photo_folders import class_folder, save


def names(source: UnlabelledSource, split: str) -> set[str]:
    files = getattr(source, split)
    return {files.path(index).name for index in range(len(files))}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images, some in folders; beside them a text and a hidden file."""
    for number in range(20):
        save(tmp_path / "photos" / ("deep/er" if number % 3 else ".") / f"{number}.png", number, 16 + number, 40)
    (tmp_path / "photos/notes.txt").write_text("no image")
    save(tmp_path / "photos/.hidden.png")
    return tmp_path / "photos"


def test_names_alone_decide_the_split(root: Path) -> None:
    source: Source = UnlabelledSource(root, 12)
    assert (source.task, source.labels, source.in_channels) == ("distill", (), 3)
    train, test = (names(source, split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert train | test == {f"{n}.png" for n in range(20)} and not train & test
    assert test == {name for name in train | test if is_for_testing(Path(name))} and 2 <= len(test) <= 8
    assert "split by the checksums of their names" in source.notes[0]
    save(root / "more/another.png", 99)
    moved = shutil.move(root, root.parent / "elsewhere")
    again = UnlabelledSource(Path(moved), 12)
    assert names(again, "train") - {"another.png"} == train and names(again, "test") - {"another.png"} == test


def test_a_labelled_folder_keeps_its_split(tmp_path: Path) -> None:
    source = open_source("distill", str(class_folder(tmp_path, train=5, val=2)), 12)
    assert (source.train_size, source.test_size) == (10, 4)
    assert "by the folders train and val" in source.notes[0]
    batch = source.train_batch(0, 0, 6)
    assert batch.images.shape == (6, 3, 12, 12) and batch.targets.tolist() == [0] * 6
    assert source.test_batch(slice(0, 3)).targets.tolist() == [0] * 3


@pytest.mark.parametrize("count", [2, 3])
def test_a_few_images_are_split_all_the_same(tmp_path: Path, count: int) -> None:
    """None of these names is for testing by its checksum."""
    chosen = [name for n in range(40) if not is_for_testing(Path(name := f"{n}.png"))][:count]
    for number, name in enumerate(chosen):
        save(tmp_path / name, number)
    source = UnlabelledSource(tmp_path, 12)
    assert (source.train_size, source.test_size) == (count - 1, 1)
    assert names(UnlabelledSource(tmp_path, 12), "test") == names(source, "test")


def test_an_unreadable_image_is_replaced_and_named(root: Path) -> None:
    whole = UnlabelledSource(root, 12)
    path = whole.train.path(0)
    path.write_bytes(b"no image")
    batch = whole.train_batch(0, 0, whole.train_size)
    assert len(batch.images) == whole.train_size and {item.path for item in batch.unreadable} == {str(path)}


def test_folders_without_enough_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which is not a folder"):
        UnlabelledSource(tmp_path / "none", 12)
    with pytest.raises(EmptySplitError, match="holds 0 images; expected at least 2"):
        UnlabelledSource(tmp_path, 12)
    save(tmp_path / "one.png")
    with pytest.raises(EmptySplitError, match="holds 1 images; expected at least 2"):
        UnlabelledSource(tmp_path, 12)
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    with pytest.raises(EmptySplitError, match="train holds no image"):
        UnlabelledSource(tmp_path, 12)


def test_crops_are_functions_of_their_number() -> None:
    source: Source = PhotographCrops(48)
    batch = source.train_batch(3, 2, 6)
    assert batch.images.shape == (6, 3, 48, 48) and batch.images.dtype == torch.uint8
    assert batch.targets.tolist() == [0] * 6 and batch.targets.dtype == torch.int64
    source.train_batch(3, 5, 2)
    assert torch.equal(PhotographCrops(48).train_batch(3, 2, 6, slice(2, 4)).images, batch.images[2:4])
    assert not torch.equal(source.train_batch(4, 2, 6).images, batch.images)
    tests = source.test_batch(slice(3, 8)).images
    assert torch.equal(source.test_batch(slice(5, 6)).images, tests[2:3])
    assert source.test_batch(slice(0, 0)).images.shape == (0, 3, 48, 48)
    assert source.test_size == TEST_CROPS * 5


def test_crops_of_training_and_test_photographs_are_apart_and_differ() -> None:
    source = PhotographCrops(64)
    assert not source.train_photographs.keys() & source.test_photographs.keys()
    tests = source.test_batch(slice(None)).images.flatten(1)
    assert len(torch.unique(tests, dim=0)) == len(tests)


def test_sizes_of_crops() -> None:
    with pytest.raises(ValueError, match="input_size: got 7; expected 8 to 300"):
        PhotographCrops(7)
    with pytest.raises(ValueError, match="input_size: got 301; expected 8 to 300"):
        PhotographCrops(301)
    assert PhotographCrops(300).test_batch(slice(0, 1)).images.shape == (1, 3, 300, 300)
    with pytest.raises(ValueError, match="crops are made in any one size"):
        open_source("distill", "crops", "native")
