"""Images of any sizes straight into a learned resizer: nothing is cropped or resized before it.

``NativeFolder`` reads uint8 images at their own sizes, each with a region of its own, ``collate_images`` makes lists of
them, and ``FusedResizer`` turns a list into one batch of one size.

    python docs/examples/mixed_sizes.py --epochs 6
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from stand_ins import small_network, write_images  # in place of your network and, without --data, of your images
from torch import Tensor
from torch.utils.data import DataLoader

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.data import NativeFolder, collate_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Train a network behind a resizer of images of any sizes."""
    parser = argparse.ArgumentParser(description="Train a learned resizer on images of different sizes.")
    parser.add_argument("--data", type=Path, help="folder of train/CLASS and val/CLASS; default: synthetic images")
    parser.add_argument("--size", type=int, default=24, help="side that the network sees")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or write_images(Path(temporary), sides=(80, 128))
        # "crop" would draw regions of 8 to 100 % of the area; "flip" takes the centre, mirrored or not.
        train_set = NativeFolder(data / "train", augment="flip", max_pixels=1_000_000)
        val_set = NativeFolder(data / "val", augment="none", max_pixels=1_000_000)
        train_loader = DataLoader(train_set, args.batch_size, True, drop_last=True, collate_fn=collate_images)
        val_loader = DataLoader(val_set, args.batch_size, collate_fn=collate_images)
        # The resizer normalises the bytes itself, as mean and std say.
        resizer = FusedResizer(args.size, mean=MEAN, std=STD).to(DEVICE)
        network = small_network(len(train_set.classes)).to(DEVICE)

        def logits(images: list[Tensor], boxes: Tensor, flip: Tensor) -> Tensor:
            # Boxes and flips are read on the CPU and stay there.
            return network(resizer([image.to(DEVICE) for image in images], boxes=boxes, flip=flip))

        optimiser = torch.optim.AdamW([*resizer.parameters(), *network.parameters()], lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=args.epochs * len(train_loader))
        sizes = set()
        for _ in range(args.epochs):
            for images, labels, boxes, flip in train_loader:
                sizes |= {tuple(image.shape[1:]) for image in images}
                loss = F.cross_entropy(logits(images, boxes, flip), labels.to(DEVICE))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        resizer.eval()
        network.eval()
        with torch.inference_mode():
            hits = [logits(images, *view).argmax(1).cpu() == labels for images, labels, *view in val_loader]
        accuracy = torch.cat(hits).float().mean().item()
        print(
            f"images of {len(sizes)} sizes to {args.size}x{args.size}: validation accuracy {accuracy:.1%}, "
            f"chance {1 / len(train_set.classes):.1%}"
        )


if __name__ == "__main__":
    main()
