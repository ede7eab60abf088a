"""A folder of images of mixed sizes: handwritten digits on photographs, for training at native sizes.

``python -m benchmarks.experiments.mixed_sizes FOLDER`` writes ``train/DIGIT/…png`` and ``val/DIGIT/…png``: 2,000 and
500 images with sides of 64 to 192 pixels, each a random crop of a photograph with one digit of 28×28 pixels at a random
place. A digit takes 2 to 19 % of the area, and always the same number of pixels: an image that is resized to one side
first loses the more of it the larger it is. Photographs and digits are those of the built-in data, split as there, and
come with the installed packages. The same folder every time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from learned_resizer_cuda.data.digits import DIGIT_SIZE, DigitsOnPhotographs

SIDES = (64, 192)
COUNTS = {"train": 2000, "val": 500}


def write_folder(root: Path, counts: dict[str, int] | None = None) -> None:
    """Writes the images; ``counts`` of train and val, multiples of 10 that are at most 4,000 and 1,000."""
    source = DigitsOnPhotographs()
    indices = {"train": source.train_index, "val": source.test_index}
    photographs = {"train": source.train_photographs, "val": source.test_photographs}
    for split, count in (counts or COUNTS).items():
        generator = np.random.default_rng((0, len(split)))
        backgrounds = list(photographs[split].values())
        for digit in range(source.num_classes):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            mine = indices[split][source.classes[indices[split]] == digit][: count // source.num_classes]
            for number, index in enumerate(mine):
                image = _image(source.digits[index], backgrounds, generator)
                Image.fromarray(image).save(folder / f"{number:03}.png")


def _image(digit: np.ndarray, backgrounds: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    height, width = generator.integers(SIDES[0], SIDES[1], 2, endpoint=True)
    background = backgrounds[generator.integers(len(backgrounds))]
    top, left = (
        int(generator.integers(whole - side + 1)) for whole, side in zip(background.shape, (height, width), strict=True)
    )
    image = background[top : top + height, left : left + width].astype(np.uint16)
    down, right = (int(generator.integers(side - DIGIT_SIZE + 1)) for side in (height, width))
    under = image[down : down + DIGIT_SIZE, right : right + DIGIT_SIZE]
    under += ((255 - under) * digit + 127) // 255
    return image.astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write_folder(parser.parse_args().folder)
