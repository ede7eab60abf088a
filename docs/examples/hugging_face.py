"""A Hugging Face image processor on this package's resize, and a learned resizer between it and its model.

The accelerated processor gives the pixels of its Pillow-backed twin, on any device. The model is made from its
configuration; with ``AutoImageProcessor.from_pretrained`` and a trained model the lines stay the same.

    python docs/examples/hugging_face.py --size 224
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from stand_ins import fine_pattern  # only without --image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTImageProcessorPil

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.integrations.transformers import accelerate

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Pillow 13 rounds differently from earlier ones; a twin is compared with the Pillow that is installed.
PARITY = "pillow" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow-12"


def main() -> None:
    """Compare with the Pillow-backed twin, then classify from twice the size."""
    parser = argparse.ArgumentParser(description="Accelerate a Hugging Face image processor.")
    parser.add_argument("--image", type=Path, help="an image file; default: a synthetic one")
    parser.add_argument("--size", type=int, default=224, help="side that the model sees")
    args = parser.parse_args()
    torch.manual_seed(0)
    image = fine_pattern("rings", 480, 640, np.random.default_rng(0))
    if args.image:
        image = Image.open(args.image).convert("RGB")

    size = {"height": args.size, "width": args.size}
    processor = accelerate(ViTImageProcessor(size=size), parity=PARITY)
    pixels = processor(pil_to_tensor(image).to(DEVICE), return_tensors="pt")["pixel_values"]
    expected = ViTImageProcessorPil(size=size)(image, return_tensors="pt")["pixel_values"]
    # In levels of 0 to 255: the processor maps them to -1 to 1.
    difference = float((pixels.cpu() - expected).abs().max()) * 127.5
    print(f"pixels {tuple(pixels.shape)} on {pixels.device.type}: largest difference {difference:.4f} levels of 255")

    # The processor gives twice the side, normalised as the model expects, and the resizer the model's own. With
    # zero_init it starts as exactly the bilinear resize; train it with the model, as in train_loop.py.
    large = accelerate(ViTImageProcessor(size={"height": 2 * args.size, "width": 2 * args.size}), parity=PARITY)
    resizer = FusedResizer(args.size, zero_init=True).to(DEVICE)
    config = ViTConfig(
        image_size=args.size, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )
    model: nn.Module = ViTForImageClassification(config)
    model.to(DEVICE)
    pixels = large(pil_to_tensor(image).to(DEVICE), return_tensors="pt")["pixel_values"]
    logits = model(pixel_values=resizer(pixels)).logits
    logits.square().sum().backward()
    gradient = sum(float(p.grad.square().sum()) for p in resizer.parameters() if p.grad is not None) ** 0.5
    print(f"{tuple(pixels.shape)} to logits {tuple(logits.shape)}; norm of the resizer's gradient {gradient:.2e}")


if __name__ == "__main__":
    main()
