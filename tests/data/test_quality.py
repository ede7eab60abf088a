"""The built-in images for quality assessment: their distortions, their grades, and what a batch depends on."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from learned_resizer_cuda.data import quality
from learned_resizer_cuda.data.digits import TEST_PHOTOGRAPHS
from learned_resizer_cuda.data.distortions import DISTORTIONS, LEVELS, REACH, blur, exposure, noise, pixelate
from learned_resizer_cuda.data.errors import DataError, EmptySplitError
from learned_resizer_cuda.data.quality import QualityPhotographs, grade_histogram, is_for_testing

Image = pytest.importorskip("PIL.Image", reason="the built-in data comes with the [train] extra")
pytest.importorskip("skimage", reason="the built-in data comes with the [train] extra")

SPREADING = [distortion for distortion in DISTORTIONS if distortion.name in ("blur", "pixelation")]
KINDS = pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda distortion: distortion.name)


@pytest.fixture(scope="module")
def source() -> QualityPhotographs:
    return QualityPhotographs(96)


@pytest.fixture(scope="module")
def patch(source: QualityPhotographs) -> np.ndarray:
    return np.ascontiguousarray(source.test_photographs["motorcycle_left"][200:328, 300:428])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Distortions


@KINDS
def test_levels_grow(distortion, patch: np.ndarray) -> None:
    """Level 0 changes nothing, and each level lies further from the original than the one below it."""
    assert np.array_equal(distortion(patch, 0, rng()), patch)
    errors = []
    for level in range(LEVELS):
        out = distortion(patch, level, rng())
        assert out.shape == patch.shape and out.dtype == np.uint8
        errors.append(np.abs(out.astype(float) - patch).mean())
    assert all(low + 0.5 < high for low, high in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("distortion", SPREADING, ids=lambda distortion: distortion.name)
def test_border_reaches_no_further_than_stated(distortion, patch: np.ndarray) -> None:
    """Inside ``REACH`` pixels a patch tells nothing of where it was cut.

    The larger patch starts 48 pixels earlier, a multiple of every square's side (3, 4, 6, 8 and 12), so that the
    squares fall on the same places.
    """
    inner = slice(REACH, 80 - REACH)
    large, small = distortion(patch, 5, rng()), distortion(np.ascontiguousarray(patch[48:, 48:]), 5, rng())
    gap = np.abs(large[48:, 48:].astype(int) - small)
    assert gap[inner, inner].max() <= 1  # a level of rounding: float32 sums of other lengths


def test_blur_of_a_point_is_the_gaussian() -> None:
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    for sigma in (1.0, 4.0):
        offset = np.arange(65) - 32
        line = np.where(np.abs(offset) <= REACH, np.exp(-(offset**2) / (2 * sigma**2)), 0)
        exact = 255 * np.outer(line, line) / line.sum() ** 2
        gap = np.abs(blur(point, sigma, rng()) - exact[..., None])[16:-16, 16:-16]
        assert gap.max() <= 0.5 + 1e-3  # rounding to the nearest level, and float32


def test_noise_has_its_deviation_and_no_colour_in_common() -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    out = noise(grey, 17.0, rng()).astype(float) - 128
    count = out.size
    # The standard error of a deviation is sd / sqrt(2 n), and of a correlation 1 / sqrt(n); five of them.
    assert abs(out.std() - math.sqrt(17**2 + 1 / 12)) < 5 * 17 / math.sqrt(2 * count)
    assert abs(np.corrcoef(out[..., 0].ravel(), out[..., 1].ravel())[0, 1]) < 5 / 128


def test_exposure_clips_at_white() -> None:
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    assert np.array_equal(exposure(ramp, 2.5, rng()), np.minimum(np.rint(ramp * 2.5), 255))


def test_pixelation_is_the_mean_of_squares(patch: np.ndarray) -> None:
    out = pixelate(patch, 4, rng()).reshape(32, 4, 32, 4, 3)
    assert (out == out[:, :1, :, :1]).all()
    mean = patch.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(out[:, 0, :, 0] - mean).max() <= 0.5 + 1e-6  # rounding
    assert pixelate(patch, 6, rng()).shape == patch.shape  # 6 does not divide 128


# Grades


def test_histograms_follow_the_formula() -> None:
    for level in range(LEVELS):
        centre = 9 - 7 * level / 5
        weights = [math.exp(-((k - centre) ** 2) / (2 * 1.2**2)) for k in range(1, 11)]
        exact = np.array(weights) / sum(weights)
        assert np.abs(grade_histogram(level) - exact).max() < 1e-7  # float32, values below 0.4


def test_mean_grades_fall_with_the_level() -> None:
    means = [float(grade_histogram(level) @ np.arange(1, 11)) for level in range(LEVELS)]
    assert all(high - low > 1 for high, low in itertools.pairwise(means)), means


def test_labels_speak_of_grades(source: QualityPhotographs) -> None:
    assert source.labels == tuple(f"grade {k}" for k in range(1, 11))
    assert source.task == "iqa"


# The source


def test_photographs(source: QualityPhotographs) -> None:
    assert set(source.test_photographs) == set(TEST_PHOTOGRAPHS)
    assert len(source.train_photographs) == 12
    everything = source.train_photographs | source.test_photographs
    assert len(everything) == 17
    for name, image in everything.items():
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, name
        assert 300 <= min(image.shape[:2]) <= quality.SHORTER_SIDE, name
    # Grey files have three equal channels.
    assert sum(np.ptp(image.astype(int), axis=2).max() > 0 for image in everything.values()) == 10


def test_train_batch(source: QualityPhotographs) -> None:
    batch = source.train_batch(3, 7, 48)
    assert batch.images.shape == (48, 3, 96, 96) and batch.images.dtype == torch.uint8
    assert batch.targets.shape == (48, 10) and batch.targets.dtype == torch.float32
    assert (batch.targets.sum(1) - 1).abs().max() < 1e-6  # ten float32 terms
    assert not batch.unreadable


def test_batch_depends_on_seed_and_step_alone(source: QualityPhotographs) -> None:
    first = source.train_batch(3, 7, 16)
    source.train_batch(3, 8, 16)
    source.test_batch(slice(0, 2))
    again = QualityPhotographs(96).train_batch(3, 7, 16)
    assert torch.equal(first.images, again.images) and torch.equal(first.targets, again.targets)
    for other in (source.train_batch(3, 8, 16), source.train_batch(4, 7, 16)):
        assert not torch.equal(first.images, other.images)


def test_parts_make_up_the_batch(source: QualityPhotographs) -> None:
    whole = source.train_batch(1, 2, 12)
    parts = [source.train_batch(1, 2, 12, slice(rank, None, 3)) for rank in range(3)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.images, whole.images[rank::3]) and torch.equal(part.targets, whole.targets[rank::3])
    assert source.train_batch(1, 2, 12, slice(0, 0)).images.shape == (0, 3, 96, 96)


def test_test_images_are_fixed_and_cut_by_slices(source: QualityPhotographs) -> None:
    whole = source.test_batch(slice(0, 40))
    part = QualityPhotographs(96).test_batch(slice(30, 40))
    assert torch.equal(part.images, whole.images[30:]) and torch.equal(part.targets, whole.targets[30:])
    assert len(source.test_batch(slice(590, 700)).images) == 10


def test_test_set_is_balanced() -> None:
    """Each kind and level 25 times, on each test photograph 5 times: told by photographs of one value each."""
    marked = QualityPhotographs(8)
    values = {name: 10 * (index + 1) for index, name in enumerate(marked.test_photographs)}
    marked.test_photographs = {name: np.full((60, 60, 3), value, np.uint8) for name, value in values.items()}
    batch = marked.test_batch(slice(0, marked.test_size))
    counts = np.zeros((len(DISTORTIONS), LEVELS, len(values)), int)
    for number, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True)):
        kind, level = marked.test_condition(number)
        assert torch.equal(target, torch.from_numpy(grade_histogram(level)))
        distortion = DISTORTIONS[kind]
        if distortion.name == "noise":
            continue  # it moves an even patch's value
        gain = distortion.parameters[level - 1] if distortion.name == "exposure" and level else 1
        counts[kind, level, round(float(image.float().mean()) / gain / 10) - 1] += 1
    seen = counts[counts.sum((1, 2)) > 0]
    assert seen.shape[0] == 3 and (seen == quality.CROPS // len(values)).all()


def test_training_uses_its_own_photographs_evenly() -> None:
    """Two photographs told apart by how many channels they fill, whatever those are varied to."""
    marked = QualityPhotographs(8)
    shades = {"flat": (60, 60, 60), "blue": (0, 0, 60)}
    marked.train_photographs = {name: np.full((60, 60, 3), shade, np.uint8) for name, shade in shades.items()}
    marked.test_photographs = {"test": np.full((60, 60, 3), 255, np.uint8)}
    batch = marked.train_batch(0, 0, 600)
    plain = batch.images.flatten(2).float()
    plain = plain.mean(2)[(plain.std(2) == 0).all(1)]
    assert plain.max() < 255  # 60 times the highest gain is 228
    flat, single = (plain > 0).all(1), (plain > 0).sum(1) == 1
    assert (flat | single).all()
    # Noise leaves about a quarter out. Five standard errors of a share of at least 400.
    assert len(plain) > 400 and abs(flat.float().mean() - 0.5) < 5 * 0.5 / math.sqrt(400)
    assert {int(channel) for channel in plain[single].argmax(1)} == {0, 1, 2}
    best = (batch.targets == torch.from_numpy(grade_histogram(0))).all(1)
    assert abs(best.float().mean() - 1 / LEVELS) < 5 * math.sqrt(1 / LEVELS * (1 - 1 / LEVELS) / 600)
    undistorted = batch.images[best].amax((1, 2, 3))
    assert undistorted.min() >= 30 and undistorted.max() <= 60 and undistorted.unique().numel() > 10


def test_test_images_are_not_varied() -> None:
    marked = QualityPhotographs(8)
    marked.test_photographs = {"test": np.full((60, 60, 3), (10, 20, 30), np.uint8)}
    images = marked.test_batch(slice(0, 600)).images
    plain = torch.stack([images[number] for number in range(600) if marked.test_condition(number)[1] == 0])
    assert (plain == torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]).all()


def test_crops_prefer_detail() -> None:
    """Half of a photograph is a steep ramp, the other a faint pattern: the pattern has the detail, not the contrast.

    A crop lies on the ramp's half with all of its places far more seldom than with one.
    """
    marked = QualityPhotographs(8)
    photograph = np.empty((300, 600, 3), np.uint8)
    photograph[:, :300] = np.linspace(0, 255, 300)[:, None, None]
    photograph[:, 300:] = 100 + 8 * (np.indices((300, 300)).sum(0) % 2)[..., None]
    crops = [marked._crop(photograph, 0, 0, rng(seed)) for seed in range(200)]
    share = np.mean([np.ptp(crop[:, 0, 0]) != 8 and np.ptp(crop[:, -1, 0]) != 8 for crop in crops])
    side = 8 + 2 * REACH + 12
    alone = (300 - side + 1) / (600 - side + 1)  # places of the ramp's half over all places
    assert share < alone**quality.PLACES + 5 * math.sqrt(alone**quality.PLACES / 200)


@pytest.mark.parametrize("side", [7, 265])
def test_input_size_out_of_range(side: int) -> None:
    with pytest.raises(ValueError, match=f"input_size: got {side}; expected 8 to 264"):
        QualityPhotographs(side)


# A user's photographs


def test_extra_photographs_join_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    names = [f"{index}.png" for index in range(20)] + ["sub/a.jpg"]
    for name in names:
        Image.fromarray(rng().integers(0, 255, (132, 140, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photograph")
    source = QualityPhotographs(96, tmp_path)
    test = {name for name in names if is_for_testing(tmp_path / name)}
    assert 0 < len(test) < len(names)
    assert set(source.test_photographs) == set(TEST_PHOTOGRAPHS) | test
    assert set(source.train_photographs) >= set(names) - test
    assert len(source.train_photographs) == 12 + len(names) - len(test)
    assert source.train_size == len(source.train_photographs) * 192
    assert not source.unreadable
    moved = tmp_path / "elsewhere" / "7.png"
    assert is_for_testing(moved) == is_for_testing(tmp_path / "7.png")


def test_unusable_photographs_are_named(tmp_path: Path) -> None:
    good = rng().integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(good).save(tmp_path / "good.png")
    Image.fromarray(good[:50]).save(tmp_path / "small.png")
    (tmp_path / "text.jpg").write_text("no photograph")
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"3 of 4 photographs left out, the first .*cut\.png"):
        source = QualityPhotographs(96, tmp_path)
    assert [Path(path).name for path, _ in source.unreadable] == ["cut.png", "small.png", "text.jpg"]
    assert "200 x 50 pixels; expected at least 132 a side" in source.unreadable[1].reason


def test_large_photographs_are_reduced(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((600, 1200), np.uint8)).save(tmp_path / "wide.png")
    assert quality.read_photograph(tmp_path / "wide.png").shape == (512, 1024, 3)


def test_folder_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(EmptySplitError, match="holds no photograph of at least 132 x 132 pixels"):
        QualityPhotographs(96, tmp_path)
    with pytest.raises(DataError, match=r"extra: got .*nowhere, which is not a folder"):
        QualityPhotographs(96, tmp_path / "nowhere")
