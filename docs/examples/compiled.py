"""``torch.compile(fullgraph=True)`` of a learned resizer with its network, beside eager mode.

Prints how far outputs and gradients of one training step are apart, and what a step takes both ways on this machine.

    python docs/examples/compiled.py --steps 10
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from learned_resizer_cuda import FusedResizer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_step(run: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Compute logits and gradients; ``run`` is ``model``, compiled or not."""
    model.zero_grad()
    logits = run(images)
    F.cross_entropy(logits, labels).backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """Measure the largest difference, relative to the largest value of all."""
    largest = max(float(b.abs().max()) for b in second)
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True)) / largest


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description="Compile a learned resizer and its network.")
    parser.add_argument("--steps", type=int, default=10, help="steps to time")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--input-size", type=int, default=224)
    args = parser.parse_args()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    eager = nn.Sequential(FusedResizer(args.input_size // 2), network).to(DEVICE)
    # A copy, because a training step changes the running statistics.
    model = copy.deepcopy(eager)
    # fullgraph: any part that could not be compiled would be an error, not a silent break of the graph.
    compiled = torch.compile(model, fullgraph=True)
    images = torch.rand(args.batch_size, 3, args.input_size, args.input_size, device=DEVICE)
    labels = torch.arange(args.batch_size, device=DEVICE) % 10

    found = difference(training_step(compiled, model, images, labels), training_step(eager, eager, images, labels))
    statistics = difference(list(model.buffers()), list(eager.buffers()))
    print(f"largest relative difference: logits and gradients {found:.1e}, running statistics {statistics:.1e}")

    times = {}
    for name, run, module in (("eager", eager, eager), ("compiled", compiled, model)):
        call = {"step": training_step, "arguments": (run, module, images, labels)}
        # Timer waits for the GPU, and warms up first.
        timer = Timer("step(*arguments)", globals=call, num_threads=torch.get_num_threads())
        times[name] = 1e3 * timer.timeit(args.steps).median
    print(f"{DEVICE}: a training step takes {times['eager']:.1f} ms eager, {times['compiled']:.1f} ms compiled")


if __name__ == "__main__":
    main()
