"""A folder of images and masks: splits, classes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from learned_resizer_cuda.data.errors import (
    ClassNamesError,
    DataError,
    EmptySplitError,
    MissingMaskError,
    SingleClassError,
)
from learned_resizer_cuda.data.listing import is_for_testing
from learned_resizer_cuda.data.masks import MaskFolderSource
from learned_resizer_cuda.data.source import IGNORED
from tests.helpers.mask_folders import (
    CENTRE,
    HEIGHT,
    WIDTH,
    flat,
    mask,
    names,
    number_of,
    one_pixel,
    pair,
    rgb,
    root,
    save_mask,
)

__all__ = ["flat", "root"]


def test_folders_decide_the_split(root: Path) -> None:
    source = MaskFolderSource(root, 12)
    assert names(source, "train") == ["0.png", "3.png", "6.png", *(f"deep/er/{n}.png" for n in (1, 2, 4, 5, 7))]
    assert names(source, "test") == ["10.png", "8.png", "9.png"]
    assert source.notes == ["8 images to train on and 3 to test on, split by the folders train and val"]
    (root / "val").rename(root / "test")
    again = MaskFolderSource(root, 12)
    assert (again.train_size, again.test_size) == (8, 3) and "train and test" in again.notes[0]


def test_names_decide_the_split(flat: Path) -> None:
    source = MaskFolderSource(flat, 28, augment="none", fit="crop")
    train, test = names(source, "train"), names(source, "test")
    assert len(train) + len(test) == 20 and test
    assert all(is_for_testing(Path(name)) for name in test) and not any(is_for_testing(Path(name)) for name in train)
    assert "split by the checksums of their names" in source.notes[0]
    expected = [mask(number_of(Path(name)))[CENTRE] for name in test]
    np.testing.assert_array_equal(source.test_batch(slice(None)).targets.numpy(), expected)


def test_a_mask_has_the_name_of_its_image_but_for_the_extension(flat: Path) -> None:
    (flat / "masks/0.png").rename(flat / "masks/0.PNG")
    (flat / "images/0.png").rename(flat / "images/0.BMP.png")
    with pytest.raises(MissingMaskError, match=r"have no mask in .*masks: 0.BMP.png; expected"):
        MaskFolderSource(flat, 28)
    (flat / "masks/0.PNG").rename(flat / "masks/0.BMP.PNG")
    source = MaskFolderSource(flat, 28)
    assert source.train_size + source.test_size == 20
    assert len(source.train.masks) == source.train_size


def test_images_without_masks(root: Path) -> None:
    for name in ("0.png", "deep/er/4.png"):
        (root / "train/masks" / name).unlink()
    with pytest.raises(MissingMaskError) as caught:
        MaskFolderSource(root, 12)
    folder = root / "train"
    assert str(caught.value) == (
        f"data: 2 of the 8 images below {folder / 'images'} have no mask in {folder / 'masks'}: 0.png, deep/er/4.png; "
        "expected a PNG of the same name for each"
    )
    for path in (root / "train/masks/deep/er").iterdir():
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(MissingMaskError, match=r"6 of the 8 .*: 0.png, (deep/er/\d.png, ){4}...; expected a PNG"):
        MaskFolderSource(root, 12)


def test_masks_without_images_are_left_out(root: Path) -> None:
    for number in (30, 31, 32):
        save_mask(root / f"train/masks/{number}.png", mask(number, classes=200))
    (root / "classes.txt").unlink()
    source = MaskFolderSource(root, 12)
    assert source.train_size == 8 and source.labels == ("0", "1", "2", "3", "4")
    assert f"3 masks in {root / 'train/masks'} have no image and are left out" in source.notes


def remove(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train/images").rename(root / "train/image"), r"train has no folder images; expected"),
        (
            lambda root: (root / "val/masks").rename(root / "val/mask"),
            r"val has no folder masks; expected images/ and m",
        ),
        (
            lambda root: (root / "val").rename(root / "dev"),
            r"data has no folder images; .* val/ with images/ and masks/",
        ),
        (lambda root: remove(root / "val/images"), r"val/images holds no image; expected images/"),
    ],
)
def test_bad_folders(root: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(root)
    with pytest.raises(EmptySplitError, match=message):
        MaskFolderSource(root, 12)


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: got .*none, which is not a folder; expected images/ and masks/"):
        MaskFolderSource(tmp_path / "none", 12)
    pair(tmp_path, "0", 0)
    with pytest.raises(EmptySplitError, match=r"images holds 1 images; expected at least 2, to train and test"):
        MaskFolderSource(tmp_path, 12)
    pair(tmp_path, "1", 1)
    source = MaskFolderSource(tmp_path, 12)
    assert (source.train_size, source.test_size) == (1, 1)


# classes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "classes.txt holds 0 names; expected 2 to 255, one a line"),
        (b"sky\n", "classes.txt holds 1 names; expected 2 to 255, one a line"),
        (b"sky\nroad\nsky\n", "classes.txt holds sky more than once; expected different names"),
        (b"sky\n\nroad\n", "classes.txt, line 2: got a blank line; expected the name of a class"),
        (b"sky\nk\xfcche\n", "classes.txt cannot be read: .*; expected names in UTF-8, one a line"),
        (b"\n".join(b"%d" % number for number in range(256)), "classes.txt holds 256 names; expected 2 to 255"),
    ],
)
def test_bad_class_names(root: Path, content: bytes, message: str) -> None:
    (root / "classes.txt").write_bytes(content)
    with pytest.raises(ClassNamesError, match=message):
        MaskFolderSource(root, 12)


def test_class_names_of_another_editor(root: Path) -> None:
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfsky\r\nroad \r\ncar\r\n d\r\ne\r\n \r\n\r\n")
    assert MaskFolderSource(root, 12).labels == ("sky", "road", "car", "d", "e")


def test_classes_are_counted_without_names(root: Path) -> None:
    (root / "classes.txt").unlink()
    one = mask(9)
    one[0, 0] = 6
    save_mask(root / "val/masks/9.png", one)
    (root / "train/masks/0.png").write_bytes(b"none")
    rgb(root / "train/masks/3.png")
    source = MaskFolderSource(root, 12)
    assert source.labels == ("0", "1", "2", "3", "4", "5", "6")
    assert source.notes[1].startswith(
        "7 classes, 0 to 6, by the largest index in the 11 masks (2 of them unreadable); a file classes.txt in "
    )
    batch = source.train_batch(0, 0, 8)
    assert {item.path for item in batch.unreadable} == {str(root / f"train/masks/{name}.png") for name in (0, 3)}
    one_pixel(7, root / "train/masks/6.png")  # changed since
    reasons = {item.path: item.reason for item in source.train_batch(0, 0, 8).unreadable}
    assert reasons[str(root / "train/masks/6.png")] == "class 7 at row 3, column 5; expected 0 to 6, or 255"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, r"the 11 masks below .*data hold class 0 only; expected at least 2 classes"),
        (IGNORED, "hold no class; expected"),
        (256, r"the 11 masks below .*data \(11 of them unreadable\) hold no class; expected at least 2 classes"),
    ],
)
def test_a_single_class(root: Path, value: int, message: str) -> None:
    (root / "classes.txt").unlink()
    for path in root.rglob("masks/**/*.png"):
        save_mask(path, np.full((HEIGHT, WIDTH), value, np.uint16))
    with pytest.raises(SingleClassError, match=message):
        MaskFolderSource(root, 12)


def test_options(root: Path) -> None:
    with pytest.raises(ValueError, match="input_size: got native; expected a number of pixels for task segmentation"):
        MaskFolderSource(root, "native")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fit: got 'pad'; expected one of crop, squash"):
        MaskFolderSource(root, 12, fit="pad")
    grey = MaskFolderSource(root, 12, in_channels=1).train_batch(0, 0, 2)
    assert grey.images.shape == (2, 1, 12, 12) and grey.targets.shape == (2, 12, 12)  # type: ignore[union-attr]
