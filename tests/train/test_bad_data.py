"""Bad data: one line from the command that names the problem, and an error class of its own in the library.

`python -m tests.train.test_bad_data` prints them as a Markdown table.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.cli.main import main as command_line
from learned_resizer_cuda.data import errors
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.jobs import train_stages
from learned_resizer_cuda.train.record import NonFiniteLossError
from learned_resizer_cuda.train.run import Run
from tests.helpers.mask_folders import mask_folder
from tests.helpers.photo_folders import class_folder, save

SHORT = (
    *("train", "--model", "small_cnn", "--size", "8", "--input-size", "16", "--arms", "bilinear", "--steps", "6"),
    *("--batch-size", "4", "--evaluations", "1", "--accelerator", "cpu"),
)


@dataclass(frozen=True)
class Bad:
    """A change to good data, and how the command must end on it."""

    what: str
    spoil: Callable[[Path], object]
    error: type[ValueError]
    words: tuple[str, ...]
    code: int = 2
    arguments: tuple[str, ...] = ()


def _unreadable(data: Path) -> None:
    for path in sorted(data.glob("train/*/*.png"))[:3]:
        path.write_bytes(path.read_bytes()[:60])


def _scores(data: Path, *lines: str) -> None:
    shutil.rmtree(data)
    for number in range(8):
        save(data / "images" / f"{number}.png", number)
    (data / "scores.csv").write_text("\n".join(["image,1,2,3,split", *lines]) + "\n")


def _masks(data: Path, spoil: Callable[[Path], object]) -> None:
    shutil.rmtree(data)
    mask_folder(data)
    (data / "classes.txt").write_text("nothing\nright\nleft\n")
    spoil(data / "masks/0.png")


def _class_9(path: Path) -> None:
    mask = np.array(Image.open(path))
    mask[3, 4] = 9
    Image.fromarray(mask).save(path)


GOOD = [f"{number}.png,1,2,1,{'val' if number > 5 else 'train'}" for number in range(8)]
IQA = ("--task", "iqa")
# A command's later option wins
SEGMENTATION = ("--task", "segmentation", "--model", "small_unet")
NONE = (*SEGMENTATION, "--max-unreadable", "0")

CASES = [
    Bad(
        "class folders differ between train and val",
        lambda data: (data / "val/bee").rename(data / "val/wasp"),
        errors.ClassMismatchError,
        ("bee", "wasp"),
    ),
    Bad("no val folder", lambda data: shutil.rmtree(data / "val"), errors.EmptySplitError, ("val",)),
    Bad(
        "a class without images",
        lambda data: [path.unlink() for path in (data / "train/ant").iterdir()],
        errors.EmptySplitError,
        ("ant",),
    ),
    Bad(
        "a single class",
        lambda data: [shutil.rmtree(data / split / "bee") for split in ("train", "val")],
        errors.SingleClassError,
        ("ant",),
    ),
    Bad(
        "more unreadable images than the limit",
        _unreadable,
        errors.TooManyUnreadableError,
        ("limit of 2", ".png"),
        1,
        ("--max-unreadable", "2"),
    ),
    Bad(
        "a loss that is not finite",
        lambda data: None,
        NonFiniteLossError,
        ("the training loss is", "at step"),
        1,
        ("--learning-rate", "1e30", "--optimizer", "sgd", "--schedule", "constant", "--loss", "softmax"),
    ),
    Bad(
        "an image without a row of scores",
        lambda data: _scores(data, *GOOD[:-1]),
        errors.MissingScoreError,
        ("7.png",),
        2,
        IQA,
    ),
    Bad(
        "a row that is not a histogram",
        lambda data: _scores(data, *GOOD[:-1], "7.png,1,-2,1,val"),
        errors.ScoreFormatError,
        ("scores.csv", "9"),
        2,
        IQA,
    ),
    Bad(
        "no scores for validation",
        lambda data: _scores(data, *(line.replace("val", "train") for line in GOOD)),
        errors.EmptySplitError,
        ("val",),
        2,
        IQA,
    ),
    Bad(
        "an image without a mask",
        lambda data: _masks(data, Path.unlink),
        errors.MissingMaskError,
        ("1 of the 8 images", "0.png"),
        2,
        SEGMENTATION,
    ),
    Bad(
        "a mask of another size than its image",
        lambda data: _masks(data, lambda path: Image.fromarray(np.ones((5, 6), np.uint8)).save(path)),
        errors.TooManyUnreadableError,
        ("masks/0.png", "mask of 5×6 pixels for an image of 20×30"),
        1,
        NONE,
    ),
    Bad(
        "a mask with a class that does not exist",
        lambda data: _masks(data, _class_9),
        errors.TooManyUnreadableError,
        ("masks/0.png", "class 9 at row 3, column 4; expected 0 to 2, or 255"),
        1,
        NONE,
    ),
    Bad(
        "a mask in colour",
        lambda data: _masks(data, lambda path: Image.fromarray(np.ones((20, 30, 3), np.uint8)).save(path)),
        errors.TooManyUnreadableError,
        ("masks/0.png", "mode RGB; expected class indices"),
        1,
        NONE,
    ),
    Bad(
        "class names given twice",
        lambda data: _masks(data, lambda path: (data / "classes.txt").write_text("a\na\n")),
        errors.ClassNamesError,
        ("classes.txt",),
        2,
        SEGMENTATION,
    ),
]


def provoke(bad: Bad, folder: Path) -> tuple[int, str]:
    """Exit code and error output of the command on spoilt data."""
    data = class_folder(folder / "data", train=6, val=3)
    bad.spoil(data)
    printed = StringIO()
    with redirect_stderr(printed), redirect_stdout(StringIO()):
        try:
            code = command_line([*SHORT, *bad.arguments, "--data", str(data), "--output", str(folder / "run")])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, printed.getvalue().strip()


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.what)
def test_bad_data(bad: Bad, tmp_path: Path) -> None:
    code, printed = provoke(bad, tmp_path)
    lines = [line for line in printed.splitlines() if "Warning" not in line and not line.startswith("  warnings")]
    assert code == bad.code, printed
    assert lines[-1].startswith("learned-resizer train: "), printed
    for word in bad.words:
        assert word in lines[-1], printed
    # What can be seen before training leaves no folder behind.
    assert (tmp_path / "run").exists() == (bad.code == 1)

    # The library raises the error of that name.
    with pytest.raises(bad.error):
        given = {"data": str(tmp_path / "data"), "max_unreadable": 2, "size": 8, "input_size": (16,)}
        if bad.code == 2:
            task = bad.arguments[1] if bad.arguments else "classification"
            model = "small_unet" if task == "segmentation" else "small_cnn"
            Run(RunConfig.make(given | {"model": model, "task": task}), tmp_path)
        else:
            train_stages(Run(RunConfig.load(tmp_path / "run/config.yaml"), tmp_path / "run"))


def test_some_unreadable_images_are_skipped_and_named(tmp_path: Path) -> None:
    def spoil(data: Path) -> None:
        _unreadable(data)
        (data / "val/ant/0.png").write_bytes(b"")

    assert provoke(Bad("", spoil, errors.DataError, ()), tmp_path)[0] == 0
    named = (tmp_path / "run/unreadable.tsv").read_text().splitlines()
    assert len(named) == 4 and sum("val/ant/0.png" in line for line in named) == 1
    assert "4 unreadable images were skipped" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.what)
def test_the_docs_list_it(bad: Bad) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "experiments.md"
    assert f"| {bad.what} | `{bad.error.__name__}` | {bad.code} | " in page.read_text(encoding="utf-8")


def main() -> None:
    """Print every case as a Markdown table."""
    print("| data | error | exit code | message |\n|---|---|---:|---|")
    for bad in CASES:
        with tempfile.TemporaryDirectory() as folder:
            code, printed = provoke(bad, Path(folder))
            message = printed.splitlines()[-1].removeprefix("learned-resizer train: ").replace(f"{folder}/", "")
            print(f"| {bad.what} | `{bad.error.__name__}` | {code} | {message} |")


if __name__ == "__main__":
    sys.exit(main())
