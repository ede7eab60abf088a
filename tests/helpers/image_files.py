"""Pictures for tests of `learned-resizer resize`, and the command in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from learned_resizer_cuda import resize
from learned_resizer_cuda.cli.main import main


def command(*arguments: object) -> int:
    """The exit code of one command line."""
    try:
        return main(["resize", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def pattern(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    """A smooth picture with noise, uint8 (height, width, channels)."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 60 * np.sin(x / 7 + c) + 60 * np.cos(y / 5 - c) for c in range(channels)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, channels))
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


def expected(array: np.ndarray, size: tuple[int, int], **options: object) -> np.ndarray:
    """The library's resize of (H, W, C)."""
    planes = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return resize(planes, size, **options).permute(1, 2, 0).numpy()  # type: ignore[arg-type]


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)
