"""A learned resizer in front of a network of your own, in a plain PyTorch training loop.

As in the paper, the network is trained behind a bilinear resize first. Then it goes on behind a learned resizer, and
as a control a copy of it goes on behind bilinear for as many epochs: the difference is what the resizer adds.

    python docs/examples/train_loop.py --epochs 6 --output resizer/
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from stand_ins import small_network, write_images  # in place of your network and, without --data, of your images
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from learned_resizer_cuda import FusedResizer, Resize

SIZE, INPUT_SIZE = 24, 96  # what the network sees, and what the resizer sees
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(model: nn.Module, loader: DataLoader, epochs: int) -> None:
    """Train every parameter of a model."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.inference_mode()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Measure the share of images whose largest logit is the right one."""
    model.eval()
    hits = [model(images.to(DEVICE)).argmax(1) == labels.to(DEVICE) for images, labels in loader]
    return torch.cat(hits).float().mean().item()


def main() -> None:
    """Train behind bilinear, then behind both; save the resizer and load it again."""
    parser = argparse.ArgumentParser(description="Train a learned resizer in a plain PyTorch loop.")
    parser.add_argument("--data", type=Path, help="folder of train/CLASS and val/CLASS; default: synthetic images")
    parser.add_argument("--epochs", type=int, default=6, help="of each of the three trainings")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("resizer"), help="folder for the trained resizer")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or write_images(Path(temporary))
        # Only cropped or resized to INPUT_SIZE: detail that is lost here is lost to the resizer as well.
        transform = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(INPUT_SIZE),
                v2.CenterCrop(INPUT_SIZE),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )
        train_set, val_set = (ImageFolder(data / split, transform) for split in ("train", "val"))
        train_loader = DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True)
        val_loader = DataLoader(val_set, args.batch_size)

        network = small_network(len(train_set.classes))
        control = nn.Sequential(Resize(SIZE), network).to(DEVICE)
        train(control, train_loader, args.epochs)
        start = accuracy(control, val_loader)
        resizer = FusedResizer(SIZE)
        learned = nn.Sequential(resizer, copy.deepcopy(network)).to(DEVICE)
        train(control, train_loader, args.epochs)
        train(learned, train_loader, args.epochs)
        print(
            f"accuracy: learned {accuracy(learned, val_loader):.1%}, control {accuracy(control, val_loader):.1%}, "
            f"before both {start:.1%}, chance {1 / len(train_set.classes):.1%}"
        )

        resizer.save_pretrained(args.output)
        torch.save(learned[1].state_dict(), args.output / "network.pt")
        network.load_state_dict(torch.load(args.output / "network.pt", map_location=DEVICE))
        again = nn.Sequential(FusedResizer.from_pretrained(args.output, map_location=DEVICE), network)
        print(f"loaded from {args.output}: {accuracy(again, val_loader):.1%}")


if __name__ == "__main__":
    main()
