"""Score files: AVA's and CSV, their split, and every way in which they can be wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from learned_resizer_cuda import resize
from learned_resizer_cuda.data import scores
from learned_resizer_cuda.data.errors import DataError, EmptySplitError, MissingScoreError, ScoreFormatError
from learned_resizer_cuda.data.scores import ScoreSource
from learned_resizer_cuda.data.source import Source
from tests.helpers.photo_folders import photograph, save

HEADER = "image,1,2,3,split"


def collection(root: Path, lines: list[str], count: int = 3) -> Path:
    """Images ``0.png``, ``1.png``, ... and scores.csv."""
    for number in range(count):
        save(root / f"{number}.png", number)
    (root / "scores.csv").write_text("\n".join(lines) + "\n")
    return root


def ava_line(index: int, image: int, counts: list[int]) -> str:
    return " ".join(map(str, [index, image, *counts, 1, 22, 1396]))


def small_ava(root: Path, images: range) -> dict[int, list[int]]:
    generator = np.random.default_rng(0)
    counts = {image: generator.integers(0, 90, 10).tolist() for image in images}
    for image in images:
        save(root / "images" / f"{image}.jpg", image)
    (root / "AVA.txt").write_text("\n".join(ava_line(n, *row) for n, row in enumerate(counts.items(), 1)) + "\n")
    return counts


def names(files: scores.ImageFiles) -> list[str]:
    return [files.path(index).relative_to(files.root).as_posix() for index in range(len(files))]


def test_ava(tmp_path: Path) -> None:
    counts = small_ava(tmp_path, range(900, 960))
    source: Source = ScoreSource(tmp_path, None, 12)
    assert source.task == "iqa" and source.labels == tuple(str(score) for score in range(1, 11))
    assert source.train_size + source.test_size == 60
    # a tenth of 60: 6 expected, and a binomial beyond 15 has a chance of 1 in 5,000
    assert 1 <= source.test_size <= 15
    source = ScoreSource(tmp_path, tmp_path / "AVA.txt", 12)
    files = names(source.train) + names(source.test)
    assert sorted(files) == [f"images/{image}.jpg" for image in counts]
    for file, histogram in zip(files, torch.cat([source.train.targets, source.test.targets]), strict=True):
        exact = torch.tensor(counts[int(Path(file).stem)], dtype=torch.float64)
        assert histogram.dtype == torch.float32
        # one rounding to float32 of numbers up to 1
        assert torch.allclose(histogram.double(), exact / exact.sum(), atol=2**-24, rtol=0)
    batch = source.train_batch(0, 0, 5)
    assert batch.images.shape == (5, 3, 12, 12) and batch.targets.shape == (5, 10)


def test_an_image_keeps_its_side(tmp_path: Path) -> None:
    """Whatever else is there, in whatever order the rows come, wherever the images lie."""
    small_ava(tmp_path / "large", range(900, 960))
    large = ScoreSource(tmp_path / "large", None, 12)
    small_ava(tmp_path / "small", range(900, 940))
    (tmp_path / "small" / "images").rename(tmp_path / "small" / "elsewhere")
    table = tmp_path / "small" / "AVA.txt"
    table.write_text("\n".join(reversed(table.read_text().splitlines())))
    small = ScoreSource(tmp_path / "small", None, 12)
    kept = {Path(name).name for name in names(large.test) if int(Path(name).stem) < 940}
    assert kept and {Path(name).name for name in names(small.test)} == kept
    assert names(small.train) == sorted(names(small.train))


def test_rows_without_a_file_are_left_out_with_a_note(tmp_path: Path) -> None:
    small_ava(tmp_path, range(900, 960))
    for image in range(910, 917):
        (tmp_path / "images" / f"{image}.jpg").unlink()
    source = ScoreSource(tmp_path, None, 12)
    assert source.train_size + source.test_size == 53
    assert source.notes == [
        f"7 of the 60 rows of {tmp_path / 'AVA.txt'} have no image file and are left out",
    ]


def test_csv_with_a_split(tmp_path: Path) -> None:
    lines = [
        HEADER,
        "1.png,1,0,3,train",
        "0.png,0.5,0.25,0.25,val",
        '"2.png", 0, 0, 1e-3 ,train',
        "gone.png,1,1,1,val",
        "",
    ]
    source = ScoreSource(collection(tmp_path, lines), None, 12)
    assert source.labels == ("1", "2", "3")
    assert names(source.train) == ["1.png", "2.png"] and names(source.test) == ["0.png"]
    assert source.train.targets.tolist() == [[0.25, 0, 0.75], [0, 0, 1]]
    assert source.test.targets.tolist() == [[0.5, 0.25, 0.25]]
    assert len(source.notes) == 1


def test_csv_without_a_split(tmp_path: Path) -> None:
    count = 40
    lines = ["image,1,2", *(f"{number}.png,{number},1" for number in range(count))]
    source = ScoreSource(collection(tmp_path, lines, count), None, 12)
    assert source.train_size + source.test_size == count
    assert 1 <= source.test_size <= 12


def test_csv_names_paths_where_names_repeat(tmp_path: Path) -> None:
    for folder in "ab":
        save(tmp_path / folder / "x.png", ord(folder))
    save(tmp_path / "c" / "y.png")
    table = tmp_path / "table.CSV"
    table.write_text(f"\ufeff{HEADER}\r\na/x.png,1,0,0,train\r\nb/x.png,0,1,0,train\r\ny.png,0,0,1,test\r\n", "utf-8")
    source = ScoreSource(tmp_path, table, 12)
    assert names(source.train) == ["a/x.png", "b/x.png"] and names(source.test) == ["c/y.png"]
    table.write_text(f"{HEADER}\nx.png,1,0,0,train\n")
    with pytest.raises(ScoreFormatError, match=r"line 2: image 'x.png' may be any of 2 files \(a/x.png, b/x.png\)"):
        ScoreSource(tmp_path, table, 12)


def test_whole_images_are_squashed_and_mirrored(tmp_path: Path) -> None:
    lines = [HEADER, "0.png,1,0,0,train", "1.png,1,0,0,val"]
    source = ScoreSource(collection(tmp_path, lines, 2), None, 12)
    planes = [torch.from_numpy(photograph(number)).permute(2, 0, 1) for number in (0, 1)]
    assert torch.equal(source.test_batch(slice(0, 1)).images[0], resize(planes[1], 12))
    squashed = resize(planes[0], 12)
    mirrored = [torch.equal(image, squashed.flip(-1)) for image in source.train_batch(0, 0, 32).images]
    straight = [torch.equal(image, squashed) for image in source.train_batch(0, 0, 32).images]
    assert [not value for value in mirrored] == straight and 4 < sum(mirrored) < 28


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.png,1,2,train", "line 3: got 4 values; expected 5, as the header names"),
        ("1.png,1,2,3,4,train", "line 3: got 6 values; expected 5"),
        ("1.png,1,-2,3,train", "line 3: got the count -2; expected finite numbers of at least 0"),
        ("1.png,1,nan,3,train", "line 3: got the count nan"),
        ("1.png,1,inf,3,train", "line 3: got the count inf"),
        ("1.png,1e308,1e308,1e308,train", "line 3: the counts sum to inf"),
        ("1.png,0,0,0,train", "line 3: the counts sum to 0; expected a finite sum above 0"),
        ("1.png,1,many,3,train", "line 3: could not convert string to float: 'many'; expected counts"),
        ("1.png,1,,3,train", "line 3: could not convert string to float: ''"),
        ("1.png,1,2,3,", "line 3: got the split ''; expected train or val"),
        ("1.png,1,2,3,trial", "line 3: got the split 'trial'"),
        ("0.png,1,2,3,val", "line 3: image '0.png' has a row already, line 2"),
        ("1.png," + "9" * 200_000, "line 3: field larger than field limit"),
    ],
)
def test_csv_rows_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    root = collection(tmp_path, [HEADER, "0.png,1,2,3,train", line, "2.png,1,2,3,val"])
    with pytest.raises(ScoreFormatError, match=f"scores.csv, {message}"):
        ScoreSource(root, None, 12)


@pytest.mark.parametrize("header", ["", "image", "image,1", "image,1,3", "image,a,b", "file,1,2", "image,1,2,fold"])
def test_csv_headers_that_are_none(tmp_path: Path, header: str) -> None:
    root = collection(tmp_path, [header, "0.png,1,2"], 1)
    with pytest.raises(ScoreFormatError, match=r"line 1: got the header .*; expected image,1,2,...,K or"):
        ScoreSource(root, None, 12)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 901 1 2 3 4 5 6 7 8 9 10 1 22", "line 2: got 14 values; expected 15: index, image, counts of the scores"),
        ("2 901 1 2 3 4 5 6 7 8 9 x 1 22 3", "line 2: could not convert string to float: 'x'"),
        ("2 901 0 0 0 0 0 0 0 0 0 0 1 22 3", "line 2: the counts sum to 0"),
        ("2 901 0 0 0 0 0 0 0 0 0 -1 1 22 3", "line 2: got the count -1"),
        ("2 900 0 0 0 0 0 0 0 0 0 1 1 22 3", "line 2: image '900' has a row already, line 1"),
    ],
)
def test_ava_rows_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    small_ava(tmp_path, range(900, 902))
    (tmp_path / "AVA.txt").write_text(ava_line(1, 900, [1] * 10) + "\n" + line + "\n")
    with pytest.raises(ScoreFormatError, match=f"AVA.txt, {message}"):
        ScoreSource(tmp_path, None, 12)


def test_images_without_a_row(tmp_path: Path) -> None:
    root = collection(tmp_path, [HEADER, "0.png,1,2,3,train", "1.png,1,2,3,val"], 9)
    with pytest.raises(MissingScoreError) as caught:
        ScoreSource(root, None, 12)
    assert str(caught.value) == (
        f"data: 7 of the 9 images below {root} have no row in {root / 'scores.csv'}: 2.png, 3.png, 4.png, 5.png, "
        "6.png, ...; expected a row for each"
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "scores.csv has no rows"),
        (["0.png,1,2,3,train"], "no image for testing among the 1 images"),
        (["0.png,1,2,3,val"], "no image for training among the 1 images"),
    ],
)
def test_empty_splits(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(EmptySplitError, match=message):
        ScoreSource(collection(tmp_path, [HEADER, *rows], len(rows)), None, 12)


def test_no_image_at_all(tmp_path: Path) -> None:
    root = collection(tmp_path, [HEADER, "a.png,1,2,3,val", "b.png,1,2,3,train"], 0)
    with pytest.raises(EmptySplitError, match="no image for training among the 0 images"):
        ScoreSource(root, None, 12)


def test_no_score_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither AVA.txt nor scores.csv"):
        ScoreSource(tmp_path, None, 12)
    with pytest.raises(DataError, match=r"scores: got .*none.csv, which is not a file"):
        ScoreSource(tmp_path, tmp_path / "none.csv", 12)
    with pytest.raises(DataError, match=r"data: got .*none, which is not a folder"):
        ScoreSource(tmp_path / "none", None, 12)


def test_ava_names_with_two_files(tmp_path: Path) -> None:
    small_ava(tmp_path, range(900, 902))
    Image.new("RGB", (4, 4)).save(tmp_path / "900.png")
    with pytest.raises(ScoreFormatError, match=r"image '900' may be any of 2 files \(900.png, images/900.jpg\)"):
        ScoreSource(tmp_path, None, 12)
