"""Stand-ins for your images and your network, which the other examples use.

The images are synthetic, of four classes that differ only in a pattern of three to four pixels. A bilinear resize to a
quarter of the side removes most of such a pattern, and a learned one can keep what tells the classes apart: they show
the mechanism, not what to expect of photographs. The other examples write them into a temporary folder where ``--data``
names no folder of your own.

    python docs/examples/stand_ins.py patterns/ --train 128 --val 32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

CLASSES = ("checks", "columns", "rings", "rows")


def fine_pattern(name: str, height: int, width: int, generator: np.random.Generator) -> Image.Image:
    """Draw a disc of a pattern on a smooth background."""
    y, x = np.mgrid[:height, :width].astype(float)
    centre_y, centre_x = generator.uniform(0.3, 0.7, 2) * (height, width)
    wave = 2 * np.pi / generator.uniform(3, 4)
    y0, x0 = generator.uniform(0, 2 * np.pi, 2)
    distance = np.hypot(y - centre_y, x - centre_x)
    pattern = {
        "checks": np.sin(wave * y + y0) * np.sin(wave * x + x0) * np.sqrt(2),  # as much contrast as the others
        "columns": np.sin(wave * x + x0),
        "rings": np.sin(wave * distance + x0),
        "rows": np.sin(wave * y + y0),
    }[name]
    colours = Image.fromarray(generator.integers(64, 192, (4, 4, 3), dtype=np.uint8))
    background = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), float)
    disc = distance < min(height, width) / 3
    levels = background + 40 * (pattern * disc)[..., None] + generator.normal(0, 8, background.shape)
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def write_images(
    folder: Path, train: int = 128, val: int = 32, sides: tuple[int, int] = (96, 96), seed: int = 0
) -> Path:
    """Write ``train/CLASS/*.png`` and ``val/CLASS/*.png``, so many of each class.

    ``sides`` are the shortest and longest sides of an image, drawn anew for each.
    """
    generator = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                height, width = generator.integers(*sides, 2, endpoint=True)
                fine_pattern(name, height, width, generator).save(folder / split / name / f"{index:04}.png")
    return folder


def small_network(num_classes: int) -> nn.Module:
    """Build a network (B, 3, h, w) → logits, with 94,000 parameters."""

    def block(channels: int, width: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]

    layers = [*block(3, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 128)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes))


def main() -> None:
    """Write a folder of images."""
    parser = argparse.ArgumentParser(description="Write synthetic images with fine patterns.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=128, help="images of each class for training")
    parser.add_argument("--val", type=int, default=32, help="images of each class for validation")
    args = parser.parse_args()
    write_images(args.folder, args.train, args.val)
    print(f"{args.folder}: {len(CLASSES)} classes, {args.train} images of each for training, {args.val} for validation")


if __name__ == "__main__":
    main()
