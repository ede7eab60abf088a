"""A timm model behind a learned resizer: images of twice its side go in, and it sees its own size.

Images stay uint8 from the file to the resizer, which normalises them with the model's mean and standard deviation as it
loads them. Before a pretrained model (``--pretrained``) the resizer starts as exactly bilinear, which changes nothing.

    python docs/examples/timm_imagefolder.py --model test_resnet --size 48 --epochs 6
"""

from __future__ import annotations

import argparse
import functools
import random
import tempfile
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from stand_ins import write_images  # only without --data
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.transforms import use_in

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(path: str) -> Tensor:
    """Decode a file to uint8 (3, H, W), without PIL."""
    return decode_image(path, ImageReadMode.RGB)


@torch.inference_mode()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Measure the share of images whose largest logit is the right one."""
    model.eval()
    hits = [model(images.to(DEVICE)).argmax(1) == labels.to(DEVICE) for images, labels in loader]
    return torch.cat(hits).float().mean().item()


def main() -> None:
    """Fine-tune a model together with a resizer."""
    parser = argparse.ArgumentParser(description="Train a timm model behind a learned resizer.")
    parser.add_argument("--data", type=Path, help="folder of train/CLASS and val/CLASS; default: synthetic images")
    parser.add_argument("--model", default="test_resnet", help="any of timm.list_models(); the default is tiny")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights, a download")
    parser.add_argument("--size", type=int, help="side that the model sees; default: its own")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)  # timm's transforms draw from it
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or write_images(Path(temporary))
        classes = sorted(folder.name for folder in (data / "train").iterdir())
        network = timm.create_model(args.model, pretrained=args.pretrained, num_classes=len(classes))
        config = timm.data.resolve_model_data_config(network)
        size = args.size or config["input_size"][-1]
        large = (3, 2 * size, 2 * size)
        # normalize=False: the transforms end with uint8, a quarter of float32's bytes in queues and on the bus.
        # use_in: timm's transforms take these tensors too, and resize them to the bytes that Pillow would give.
        make = functools.partial(timm.data.create_transform, large, normalize=False)
        train_transform = use_in(make(is_training=True, scale=(0.5, 1), color_jitter=0.0))
        val_transform = use_in(make(crop_pct=1.0))
        train_set = ImageFolder(data / "train", train_transform, loader=load)
        val_set = ImageFolder(data / "val", val_transform, loader=load)
        train_loader = DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True)
        val_loader = DataLoader(val_set, args.batch_size)

        # zero_init: at first exactly the bilinear resize, so that trained weights see what they know. A new network has
        # nothing to lose, and learns faster behind a resizer with random weights.
        resizer = FusedResizer(size, mean=config["mean"], std=config["std"], zero_init=args.pretrained)
        model = nn.Sequential(resizer, network).to(DEVICE)
        before = accuracy(model, val_loader)
        rate = 1e-4 if args.pretrained else 1e-3
        optimiser = torch.optim.AdamW(model.parameters(), rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=args.epochs * len(train_loader))
        for _ in range(args.epochs):
            model.train()
            for images, labels in train_loader:
                loss = F.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        print(
            f"{args.model}, {2 * size} to {size} pixels: validation accuracy {accuracy(model, val_loader):.1%}, "
            f"untrained {before:.1%}, chance {1 / len(classes):.1%}"
        )


if __name__ == "__main__":
    main()
