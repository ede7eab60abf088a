"""Bad image folders and unreadable images: each told by its name, replaced, logged and counted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learned_resizer_cuda.data import file_source, order
from learned_resizer_cuda.data.errors import (
    ClassMismatchError,
    DataError,
    EmptySplitError,
    SingleClassError,
    TooManyUnreadableError,
)
from learned_resizer_cuda.data.folder import ImageFolderSource
from learned_resizer_cuda.data.source import Unreadable
from learned_resizer_cuda.data.unreadable import UnreadableLog
from tests.helpers.photo_folders import class_folder, save


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def remove(folder: Path) -> None:
    empty(folder)
    folder.rmdir()


def flatten(split: Path) -> None:
    for folder in list(split.iterdir()):
        for path in folder.iterdir():
            path.rename(split / f"{folder.name}-{path.name}")
        folder.rmdir()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda root: (root / "train").rename(root / "training"),
            EmptySplitError,
            "has no folder train; expected train",
        ),
        (lambda root: (root / "val").rename(root / "dev"), EmptySplitError, "has no folder val, validation or test;"),
        (
            lambda root: flatten(root / "val"),
            EmptySplitError,
            "val has no class folders; its 2 images are not in a class",
        ),
        (
            lambda root: [empty(path) for path in (root / "train").iterdir()],
            EmptySplitError,
            "train holds no image in its 2 class folders; expected train/<class>/",
        ),
        (
            lambda root: empty(root / "val" / "bee"),
            EmptySplitError,
            "class folders without an image in .*val: bee; expected",
        ),
        (
            lambda root: [remove(root / split / "bee") for split in ("train", "val")],
            SingleClassError,
            r"train holds one class only \(ant\); expected at least 2",
        ),
        (lambda root: remove(root / "val" / "bee"), ClassMismatchError, "train and .*val differ; only in train: bee$"),
        (
            lambda root: (root / "val" / "bee").rename(root / "val" / "wasp"),
            ClassMismatchError,
            "differ; only in train: bee; only in val: wasp$",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, spoil: Callable[[Path], object], error: type[DataError], message: str) -> None:
    class_folder(tmp_path, train=2, val=1)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        ImageFolderSource(tmp_path, 8)


def test_many_differing_classes_are_cut_short(tmp_path: Path) -> None:
    class_folder(tmp_path, train=1, val=1)
    for number in range(25):
        (tmp_path / "train" / f"c{number:02}").mkdir()
    with pytest.raises(ClassMismatchError, match=r"only in train: c00, .*, c19 and 5 more$"):
        ImageFolderSource(tmp_path, 8)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: got .*none, which is not a folder; expected train/<class>/"):
        ImageFolderSource(tmp_path / "none", 8)


# unreadable images


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Ten training images, of which number 3 is truncated, 4 is text and 9, the last, is empty; so is a test image."""
    root = class_folder(tmp_path)
    save(root / "train" / "ant" / "3.jpg", 1, 60, 60)
    (root / "train" / "ant" / "3.png").unlink()
    content = (root / "train" / "ant" / "3.jpg").read_bytes()
    (root / "train" / "ant" / "3.jpg").write_bytes(content[: len(content) // 2])
    (root / "train" / "ant" / "4.png").write_text("no image")
    (root / "train" / "bee" / "4.png").write_bytes(b"")
    (root / "val" / "bee" / "0.png").write_bytes(b"")
    return root


def test_unreadable_images_are_replaced_by_the_next(spoilt: Path) -> None:
    source = ImageFolderSource(spoilt, 8, augment="none")
    batch = source.train_batch(0, 0, 10)
    at = {index: place for place, index in enumerate(order.stream(10, 0, 0, 10).indices.tolist())}
    for bad, good in ((3, 5), (4, 5), (9, 0)):
        assert torch.equal(batch.images[at[bad]], batch.images[at[good]])
        assert batch.targets[at[bad]] == batch.targets[at[good]]
    assert batch.targets[[at[index] for index in range(10)]].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]
    reasons = {Path(path).relative_to(spoilt).as_posix(): reason for path, reason in batch.unreadable}
    assert reasons["train/ant/4.png"] == "not an image, or in a format that is not opened"
    assert reasons["train/bee/4.png"] == "empty file"
    assert "truncated" in reasons["train/ant/3.jpg"].lower() and len(reasons) == 3
    assert len(batch.unreadable) == 4  # number 4 in its own place and on the way from 3 to 5


def test_replacements_are_the_same_in_every_part(spoilt: Path) -> None:
    source = ImageFolderSource(spoilt, 8)
    whole = source.train_batch(0, 3, 8)
    parts = [ImageFolderSource(spoilt, 8).train_batch(0, 3, 8, part) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    assert parts[0].unreadable + parts[1].unreadable == whole.unreadable != ()


def test_unreadable_test_images_are_left_out(spoilt: Path) -> None:
    source = ImageFolderSource(spoilt, 8)
    batch = source.test_batch(slice(0, 4))
    assert len(batch.images) == 3 and batch.targets.tolist() == [0, 0, 1]
    assert batch.unreadable == (Unreadable(str(spoilt / "val" / "bee" / "0.png"), "empty file"),)
    alone = source.test_batch(slice(2, 3))
    assert alone.images.shape == (0, 3, 8, 8) and alone.targets.shape == (0,) and len(alone.unreadable) == 1


def test_files_that_vanish(tmp_path: Path) -> None:
    source = ImageFolderSource(class_folder(tmp_path), 8)
    gone = tmp_path / "train" / "ant" / "2.png"
    gone.unlink()
    assert source.train_batch(0, 0, 10).unreadable == (Unreadable(str(gone), "No such file or directory"),)


def test_no_readable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageFolderSource(class_folder(tmp_path), 8)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(TooManyUnreadableError, match=r"10 training images in a row of 10 .*png: empty file"):
        source.train_batch(0, 0, 1)
    monkeypatch.setattr(file_source, "IN_A_ROW", 4)
    with pytest.raises(TooManyUnreadableError, match="4 training images in a row of 10 could not be read"):
        source.train_batch(0, 0, 1)


A, B, C = (Unreadable(f"/data/{name}.jpg", f"damaged {name}") for name in "abc")


def test_log_counts_files_once_and_names_the_last(tmp_path: Path) -> None:
    log = UnreadableLog(2, tmp_path / "unreadable.tsv")
    log.add([])
    assert len(log) == 0 and not (tmp_path / "unreadable.tsv").exists()
    log.add([A, B, A])
    log.add([B])
    assert len(log) == 2
    with pytest.raises(TooManyUnreadableError) as caught:
        log.add([A, C])
    assert str(caught.value) == (
        "3 images could not be read, more than the limit of 2; the last is /data/c.jpg: damaged c; all are listed in "
        f"{tmp_path / 'unreadable.tsv'}"
    )
    assert (tmp_path / "unreadable.tsv").read_text() == "".join(f"{path}\t{reason}\n" for path, reason in (A, B, C))


def test_log_without_a_file() -> None:
    with pytest.raises(
        TooManyUnreadableError, match=r"1 images could not be read, more than the limit of 0; .*: damaged a$"
    ):
        UnreadableLog(0).add([A])
    with pytest.raises(ValueError, match="limit: got -1; expected at least 0"):
        UnreadableLog(-1)


def test_resumed_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.tsv"
    odd = Unreadable("/data/a\ttab\nand line\\n\udcff\u00e9.jpg", "why\tnot")
    UnreadableLog(5, path).add([A, odd])
    log = UnreadableLog(2, path)
    log.add([odd, A])
    assert len(log) == 2 and len(path.read_bytes().splitlines()) == 2
    with pytest.raises(TooManyUnreadableError, match="3 images"):
        log.add([B])


def test_log_cut_off_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "unreadable.tsv"
    UnreadableLog(5, path).add([A, B])
    path.write_bytes(path.read_bytes()[:-5])
    log = UnreadableLog(5, path)
    assert len(log) == 1
    log.add([B, C])
    assert path.read_text() == "".join(f"{path}\t{reason}\n" for path, reason in (A, B, C))
