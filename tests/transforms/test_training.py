"""`transforms.Resize` where torchvision's references have theirs: in data loaders' workers, then a training step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from learned_resizer_cuda import transforms
from tests.helpers import photographs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two photographs, of several sizes."""
    for number, picture in enumerate(photographs.pictures()):
        path = tmp_path / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture.crop((0, 0, 100 + 10 * number, 90)).save(path)
    return tmp_path


def pipeline(resize: type[v2.Resize]) -> v2.Compose:
    """Preprocessing of torchvision's classification reference, on tensors."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomHorizontalFlip(),
            resize((32, 40)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_classification(folder: Path, start_method: str) -> None:
    batches = []
    for resize in (transforms.Resize, v2.Resize):
        loader = DataLoader(
            ImageFolder(folder, pipeline(resize)),
            batch_size=2,
            num_workers=2,
            multiprocessing_context=start_method,
            generator=torch.Generator().manual_seed(0),
        )
        batches.append(list(loader))
        if start_method == "spawn":  # seconds for every start: once
            break
    for got, expected in zip(*batches, strict=True) if len(batches) == 2 else ():
        assert torch.equal(got[1], expected[1])
        # Bytes within a level of torchvision's, divided by 255 and the standard deviation.
        assert (got[0] - expected[0]).abs().max() <= 1.01 / 255 / 0.224
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    optimizer, losses = torch.optim.SGD(network.parameters(), 0.01), []
    images, labels = (torch.cat(parts) for parts in zip(*batches[0], strict=True))
    assert images.shape == (4, 3, 32, 40) and images.dtype == torch.float32 and labels.tolist() == [0, 0, 1, 1]
    for _ in range(2):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_detection() -> None:
    """Image, boxes and masks of one sample at one size, as torchvision's detection reference passes them."""
    image = photographs.pictures()[0].crop((0, 0, 120, 90))
    target = {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[10.0, 20, 60, 80]]), format="XYXY", canvas_size=(90, 120)),
        "masks": tv_tensors.Mask(torch.zeros(1, 90, 120, dtype=torch.uint8)),
        "labels": torch.tensor([3]),
    }
    target["masks"][:, 20:80, 10:60] = 1
    results = []
    for resize in (transforms.Resize, v2.Resize):
        steps = [v2.ToImage(), v2.RandomHorizontalFlip(1), resize(45, max_size=55), v2.SanitizeBoundingBoxes()]
        results.append(v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])(image, target))
    (image, target), (expected, other) = results
    assert image.shape == (3, 41, 55) and (image - expected).abs().max() <= 1.01 / 255
    assert all(torch.equal(target[name], other[name]) for name in other)
    # The mask fills its box, but for the roundings of its edges.
    x0, y0, x1, y1 = target["boxes"][0].round().int().tolist()
    mask = target["masks"][0]
    assert mask[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all()
    assert mask.sum() == mask[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1].sum()
