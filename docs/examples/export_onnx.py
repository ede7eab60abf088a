"""A learned resizer with its network as one ONNX model that takes images of any size, run in onnxruntime.

The model has standard operators only, so no runtime needs this package. ``--resizer`` names a folder that
``save_pretrained`` has written, as train_loop.py does; without it the weights are random.

    python docs/examples/export_onnx.py --output network.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxruntime
import torch
from stand_ins import small_network  # in place of your network
from torch import Tensor, nn

from learned_resizer_cuda import FusedResizer, resize
from learned_resizer_cuda.export import to_onnx


def smooth_images(batch: int, height: int, width: int) -> Tensor:
    """Make images of random colours, unlike one another; put yours here."""
    return resize(torch.rand(batch, 3, 3, 4), (height, width), interpolation="bicubic").clamp(0, 1)


def main() -> None:
    """Export, then compare with PyTorch on two sizes."""
    parser = argparse.ArgumentParser(description="Export a learned resizer and its network to ONNX.")
    parser.add_argument("--resizer", type=Path, help="folder of a trained resizer; default: random weights")
    parser.add_argument("--output", type=Path, default=Path("network.onnx"))
    args = parser.parse_args()
    torch.manual_seed(0)
    resizer = FusedResizer.from_pretrained(args.resizer) if args.resizer else FusedResizer(64)
    network = small_network(10)
    with torch.no_grad():
        # Statistics for the untrained network's norms, without which all images have about the same logits.
        for _ in range(20):
            network.train()(smooth_images(8, 64, 64))
    # eval: an exported batch norm uses its running statistics, not those of a batch.
    model = nn.Sequential(resizer, network).eval()
    # The example's size means nothing with dynamic_size: the model computes its resampling from each image's size.
    to_onnx(model, args.output, smooth_images(1, 200, 200), dynamic_size=True)

    session = onnxruntime.InferenceSession(args.output, providers=["CPUExecutionProvider"])
    for height, width in ((180, 240), (333, 127)):
        images = smooth_images(2, height, width)
        (logits,) = session.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            expected = model(images)
        difference = float((torch.from_numpy(logits) - expected).abs().max())
        spread = float((expected[0] - expected[1]).abs().max())
        print(f"{height}x{width}: logits within {difference:.1e} of PyTorch's; two images differ by {spread:.1e}")


if __name__ == "__main__":
    main()
