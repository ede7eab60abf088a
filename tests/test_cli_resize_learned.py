"""`learned-resizer resize --weights`: a learned resizer over pictures of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from image_files import command, opened, pattern
from PIL import Image

from learned_resizer_cuda.weights import ResizerConfig, save_resizer

# a learned resizer


@pytest.fixture
def weights(tmp_path: Path) -> dict[int, Path]:
    """Files of learned resizers that compute the plain bilinear resize, for 1 and 3 channels."""
    paths = {}
    for channels in (1, 3):
        config = ResizerConfig((12, 10), in_channels=channels, num_filters=4)
        resizer = config.build()
        torch.nn.init.zeros_(resizer.conv4.weight)
        torch.nn.init.zeros_(resizer.conv4.bias)
        paths[channels] = tmp_path / f"w{channels}.safetensors"
        save_resizer(resizer, config, paths[channels])
    return paths


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16"])
def test_learned_resizer_of_every_picture(tmp_path: Path, weights: dict[int, Path], channels: int, mode: str) -> None:
    """With its last convolution zero it is the fixed filter, whatever becomes of channels and alpha."""
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
    resizer = config.build()
    save_resizer(resizer, config, tmp_path / "w")
    array = pattern()
    Image.fromarray(array).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", "--weights", tmp_path / "w", "--size", "14x9", "--output", tmp_path / "out") == 0
    unit = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        exact = (resizer.eval()(unit, (14, 9))[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    # rounded to the nearest level; 1e-3 of a level for float32
    assert np.abs(opened(tmp_path / "out" / "a.png") - exact).max() <= 0.501


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
