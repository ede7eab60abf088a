"""`learned-resizer resize --weights` on pictures of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from PIL import Image

from learned_resizer_cuda import FusedResizer, resize
from learned_resizer_cuda.weights import ResizerConfig, save_resizer
from tests.helpers.image_files import command, opened, pattern

# a learned resizer


@pytest.fixture
def weights(tmp_path: Path) -> dict[int, Path]:
    """Files of learned resizers that compute the plain bilinear resize, for 1 and 3 channels."""
    paths = {}
    for channels in (1, 3):
        config = ResizerConfig((12, 10), in_channels=channels, num_filters=4)
        resizer = FusedResizer(**config.arguments())
        torch.nn.init.zeros_(resizer.conv4.weight)
        torch.nn.init.zeros_(resizer.conv4.bias)
        paths[channels] = tmp_path / f"w{channels}.safetensors"
        save_resizer(resizer, config, paths[channels])
    return paths


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16"])
def test_learned_resizer_of_every_picture(tmp_path: Path, weights: dict[int, Path], channels: int, mode: str) -> None:
    """With a zero last convolution it equals the fixed filter, for all channels and alpha."""
    if mode == "I;16":
        Image.fromarray(pattern(channels=1)[..., 0].astype(np.uint16) * 200).save(tmp_path / "a.png")
    else:
        image = Image.fromarray(pattern(channels=4)).convert(mode)
        image.save(tmp_path / "a.png")
    plain, learned = tmp_path / "plain", tmp_path / "learned"
    assert command(tmp_path / "a.png", "--size", "12x10", "--output", plain) == 0
    assert command(tmp_path / "a.png", "--weights", weights[channels], "--output", learned) == 0
    a, b = opened(plain / "a.png"), opened(learned / "a.png")
    assert a.shape == b.shape and a.dtype == b.dtype and a.shape[:2] == (12, 10)
    # one rounding each, of values that differ by float32 noise: of 65,535 levels or 255, one at a tie
    assert np.abs(a.astype(int) - b).max() <= 1


def test_learned_resizer_really_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ResizerConfig((12, 10), num_filters=4)
    resizer = FusedResizer(**config.arguments())
    save_resizer(resizer, config, tmp_path / "w")
    array = pattern()
    Image.fromarray(array).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", "--weights", tmp_path / "w", "--size", "14x9", "--output", tmp_path / "out") == 0
    unit = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        exact = (resizer.eval()(unit, (14, 9))[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    # rounded to the nearest level; 1e-3 of a level for float32
    assert np.abs(opened(tmp_path / "out" / "a.png") - exact).max() <= 0.501


MEANS = {1: ((0.4,), (0.2,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16"])
def test_mean_and_std_of_the_file(tmp_path: Path, channels: int, mode: str) -> None:
    """The picture is the module's output, converted from its normalised units back to [0, 1]."""
    torch.manual_seed(0)
    terms = [torch.tensor(values) for values in MEANS[channels]]
    config = ResizerConfig((12, 10), channels, num_filters=4, mean=MEANS[channels][0], std=MEANS[channels][1])
    resizer = FusedResizer(**config.arguments())
    save_resizer(resizer, config, tmp_path / "w")
    resizer.eval()

    def module(images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W), bytes or floats in [0, 1], to [0, 1]."""
        mean, std = (term.view(-1, 1, 1) for term in terms)
        with torch.no_grad():
            return resizer(images if images.dtype == torch.uint8 else (images - mean) / std) * std + mean

    def colour(planes: torch.Tensor) -> torch.Tensor:
        if channels == 1:
            return module(planes[:, None])[:, 0]
        return module(planes[None])[0] if len(planes) == 3 else module(planes.expand(3, -1, -1)[None]).mean(1)

    if mode == "I;16":
        array = pattern(channels=1)[..., 0].astype(np.uint16) * 200
        Image.fromarray(array).save(tmp_path / "a.png")
        exact, white = colour(torch.from_numpy(array.astype(np.float32))[None] / 65535), 65535
    else:
        image = Image.fromarray(pattern(channels=4)).convert(mode)
        image.save(tmp_path / "a.png")
        array = np.array(image)
        planes = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
        white = 255
        if mode in ("LA", "RGBA"):
            over_black, alpha = planes[:-1] / 255 * (planes[-1:] / 255), resize(planes[-1:] / 255, (12, 10))
            exact = torch.cat([colour(over_black) / alpha, alpha])
        else:
            exact = colour(planes)
    assert command(tmp_path / "a.png", "--weights", tmp_path / "w", "--output", tmp_path / "out") == 0
    got = opened(tmp_path / "out" / "a.png").reshape(12, 10, -1)
    values = (exact.clamp(0, 1) * white).permute(1, 2, 0).numpy()
    assert ((got > 0) & (got < white)).mean() > 0.9  # saturation would hide a wrong value
    # one rounding to the nearest level, and float32's of values up to `white`
    assert np.abs(got - values).max() <= 0.501 + white * 1e-6


def test_learned_resizer_refuses_what_has_no_range(
    tmp_path: Path, weights: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(pattern()).convert("CMYK").save(tmp_path / "a.jpg")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "b.tif")
    out = tmp_path / "out"
    assert command(tmp_path / "a.jpg", tmp_path / "b.tif", "--weights", weights[3], "--output", out) == 1
    printed = capsys.readouterr()
    assert "mode CMYK cannot go through a learned resizer" in printed.err
    assert "mode F cannot go through a learned resizer" in printed.err
    assert printed.out.startswith("0 resized, 2 skipped")
