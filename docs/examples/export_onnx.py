"""A learned resizer with its network as one ONNX model that takes images of any size, run in onnxruntime.

The model has standard operators only, so no runtime needs this package. ``--resizer`` names a folder that
``save_pretrained`` has written, as train_loop.py does; without it the weights are random.

    python docs/examples/export_onnx.py --output network.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxruntime
import timm
import torch
from torch import nn

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.export import to_onnx


def main() -> None:
    """Export, then compare with PyTorch on two sizes."""
    parser = argparse.ArgumentParser(description="Export a learned resizer and its network to ONNX.")
    parser.add_argument("--resizer", type=Path, help="folder of a trained resizer; default: random weights")
    parser.add_argument("--output", type=Path, default=Path("network.onnx"))
    args = parser.parse_args()
    torch.manual_seed(0)
    resizer = FusedResizer.from_pretrained(args.resizer) if args.resizer else FusedResizer(64)
    # eval: an exported batch norm has its running statistics, not those of a batch.
    network = nn.Sequential(resizer, timm.create_model("test_resnet", num_classes=10)).eval()
    # The example's size means nothing with dynamic_size: the model computes its resampling from each image's size.
    to_onnx(network, args.output, torch.rand(1, 3, 200, 200), dynamic_size=True)

    session = onnxruntime.InferenceSession(args.output, providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 180, 240), (4, 333, 127)):
        images = torch.rand(batch, 3, height, width)
        (logits,) = session.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            expected = network(images)
        difference = float((torch.from_numpy(logits) - expected).abs().max())
        print(
            f"{batch} of {height}x{width}: largest difference {difference:.1e}, "
            f"largest logit {float(expected.abs().max()):.1e}"
        )


if __name__ == "__main__":
    main()
