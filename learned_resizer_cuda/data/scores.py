"""Images with histograms of human scores, from AVA's or a CSV file."""

from __future__ import annotations

import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError, EmptySplitError, MissingScoreError, ScoreFormatError
from .file_source import FileSource, ImageFiles, check_options
from .listing import images_under
from .source import InputSize

AVA_FILE, CSV_FILE = "AVA.txt", "scores.csv"
_AVA_BINS = 10
_AVA_COLUMNS = 15  # index, image, counts of the scores 1 to 10, two tags, challenge
_SPLITS = {"train": False, "val": True, "validation": True, "test": True}
_NAMED = 5


class ScoreSource(FileSource):
    """``Source`` for image quality assessment: images with histograms of scores.

    Score files:

    - ``AVA.txt`` (Murray et al., "AVA: a large-scale database for aesthetic visual analysis", CVPR 2012), any name
      that does not end in ``.csv``: lines of 15 numbers between spaces, ``index image c1 ... c10 tag1 tag2
      challenge``; image 123 is ``123.jpg`` anywhere below ``root``.
    - CSV with the header ``image,1,2,...,K`` or ``image,1,2,...,K,split``: the name of a file anywhere below
      ``root``, or its path relative to ``root`` where several have that name; counts or probabilities of the K
      scores; ``train`` or ``val`` (also ``validation``, ``test``).

    Histograms are scaled to sum to 1. Without a split column, a tenth of the images are for testing: those whose file
    name hashes to 0 modulo 10, so that adding or removing other images does not move an image. Rows without an image
    file are left out, with a note in ``notes``: few copies of AVA are complete.

    Args:
        root: folder with the images.
        scores: score file; None: ``AVA.txt`` or ``scores.csv`` in ``root``.
        input_size, max_pixels, in_channels: see ``FileSource``.
        augment, fit: see ``FileSource``. Whole images, squashed, by default: score networks are trained on images
            rescaled without regard to their aspect (Talebi & Milanfar, "NIMA", IEEE TIP 2018), since a crop need not
            deserve the score of its image.

    Attributes:
        labels: the scores, ``"1"`` to ``"K"``.

    Raises:
        DataError: ``root`` is not a folder, or the score file is missing.
        ScoreFormatError: a row is malformed, negative, not finite, all zero, of the wrong length, a repetition, or
            its file name is ambiguous; names file and line.
        MissingScoreError: image files below ``root`` have no row; names how many and the first few.
        EmptySplitError: no image for training or none for testing is left.
        ValueError, ModuleNotFoundError: see ``FileSource``.
    """

    def __init__(
        self,
        root: Path,
        scores: Path | None,
        input_size: InputSize,
        in_channels: int = 3,
        augment: str = "flip",
        fit: str = "squash",
        max_pixels: int | None = None,
    ) -> None:
        check_options(input_size, in_channels, augment, fit, max_pixels)
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"data: got {root}, which is not a folder; expected a folder of images")
        path = _score_file(root, scores)
        rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else _ava_rows(path))
        if not rows:
            raise EmptySplitError(f"scores: {path} has no rows")
        files, found, absent = _matched(root, path, rows)
        notes = [f"{absent} of the {len(rows)} rows of {path} have no image file and are left out"] if absent else []
        testing = np.array([_is_test(row, file) for row, file in zip(found, files, strict=True)], dtype=bool)
        for name, count in (("training", int((~testing).sum())), ("testing", int(testing.sum()))):
            if not count:
                raise EmptySplitError(
                    f"data: no image for {name} among the {len(files)} images of {root} with a row in {path}; expected "
                    "more images, or a CSV file with a column split that says train or val"
                )
        # The order of the files, not of the rows: a score file sorted anew is the same data.
        order = np.array(sorted(range(len(files)), key=files.__getitem__))
        histograms = np.array([row.histogram for row in found], np.float64)
        histograms = (histograms / histograms.sum(1, keepdims=True)).astype(np.float32)
        train, test = (
            ImageFiles(root, [files[index] for index in chosen], histograms[chosen])
            for chosen in (order[~testing[order]], order[testing[order]])
        )
        super().__init__(
            "iqa",
            tuple(str(score) for score in range(1, histograms.shape[1] + 1)),
            train,
            test,
            input_size=input_size,
            max_pixels=max_pixels,
            in_channels=in_channels,
            augment=augment,
            fit=fit,
            notes=notes,
        )


class _Row(NamedTuple):
    image: str
    """File name, path relative to the root, or for AVA the name without its extension."""
    histogram: list[float]
    split: str | None
    line: int
    by_stem: bool


def _score_file(root: Path, scores: Path | None) -> Path:
    if scores is not None:
        if not Path(scores).is_file():
            raise DataError(f"scores: got {scores}, which is not a file; expected {AVA_FILE} or a CSV file of scores")
        return Path(scores)
    for name in (AVA_FILE, CSV_FILE):
        if (root / name).is_file():
            return root / name
    raise DataError(f"scores: {root} holds neither {AVA_FILE} nor {CSV_FILE}; expected one of them, or the file named")


def _ava_rows(path: Path) -> Iterator[_Row]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            values = line.split()
            if not values:
                continue
            if len(values) != _AVA_COLUMNS:
                raise ScoreFormatError(
                    f"{path}, line {number}: got {len(values)} values; expected {_AVA_COLUMNS}: index, image, "
                    "counts of the scores 1 to 10, two tags, challenge"
                )
            yield _Row(values[1], _histogram(values[2 : 2 + _AVA_BINS], path, number), None, number, True)


def _csv_rows(path: Path) -> Iterator[_Row]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        has_split = header[-1:] == ["split"]
        bins = len(header) - 1 - has_split
        if bins < 2 or header[: bins + 1] != ["image", *(str(score) for score in range(1, bins + 1))]:
            raise ScoreFormatError(
                f"{path}, line 1: got the header {','.join(header)!r}; expected image,1,2,...,K or "
                "image,1,2,...,K,split with K at least 2"
            )
        try:
            for values in reader:
                number = reader.line_num
                if not any(value.strip() for value in values):
                    continue
                if len(values) != len(header):
                    raise ScoreFormatError(
                        f"{path}, line {number}: got {len(values)} values; expected {len(header)}, as the header names"
                    )
                split = values[-1].strip() if has_split else None
                if split is not None and split not in _SPLITS:
                    raise ScoreFormatError(f"{path}, line {number}: got the split {split!r}; expected train or val")
                yield _Row(values[0], _histogram(values[1 : bins + 1], path, number), split, number, False)
        except csv.Error as error:
            raise ScoreFormatError(f"{path}, line {reader.line_num}: {error}") from None


def _histogram(values: list[str], path: Path, line: int) -> list[float]:
    where = f"{path}, line {line}"
    try:
        numbers = [float(value) for value in values]
    except ValueError as error:
        raise ScoreFormatError(f"{where}: {error}; expected counts or probabilities") from None
    for number in numbers:
        if not (math.isfinite(number) and number >= 0):
            raise ScoreFormatError(f"{where}: got the count {number:g}; expected finite numbers of at least 0")
    total = sum(numbers)
    if not (math.isfinite(total) and total > 0):
        raise ScoreFormatError(f"{where}: the counts sum to {total:g}; expected a finite sum above 0")
    return numbers


def _matched(root: Path, path: Path, rows: list[_Row]) -> tuple[list[str], list[_Row], int]:
    """Files with rows, the rows, and how many rows have no file."""
    listed = images_under(root)
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in listed:
        name = file.rsplit("/", 1)[-1]
        by_name[name.rsplit(".", 1)[0] if rows[0].by_stem else name].append(file)
    relative = set() if rows[0].by_stem else set(listed)
    first_row: dict[str, int] = {}
    files, found, absent = [], [], 0
    for row in rows:
        matches = [row.image] if row.image in relative else by_name.get(row.image, [])
        if len(matches) > 1:
            raise ScoreFormatError(
                f"{path}, line {row.line}: image {row.image!r} may be any of {len(matches)} files "
                f"({', '.join(matches[:_NAMED])}); expected one, or a path relative to {root} in a CSV file"
            )
        file = matches[0] if matches else row.image
        if first_row.setdefault(file, row.line) != row.line:
            raise ScoreFormatError(
                f"{path}, line {row.line}: image {row.image!r} has a row already, line {first_row[file]}"
            )
        if matches:
            files.append(file)
            found.append(row)
        else:
            absent += 1
    missing = sorted(set(listed) - first_row.keys())
    if missing:
        more = ", ..." if len(missing) > _NAMED else ""
        raise MissingScoreError(
            f"data: {len(missing)} of the {len(listed)} images below {root} have no row in {path}: "
            f"{', '.join(missing[:_NAMED])}{more}; expected a row for each"
        )
    return files, found, absent


def _is_test(row: _Row, file: str) -> bool:
    if row.split is not None:
        return _SPLITS[row.split]
    name = file.rsplit("/", 1)[-1].encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") % 10 == 0
