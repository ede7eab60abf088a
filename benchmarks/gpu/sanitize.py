"""A few small runs of every kernel, forward and backward, for compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 99 python benchmarks/gpu/sanitize.py

Inputs are made on the host and copied, so that initcheck sees them written. Results are checked for NaN only: the
tests compare them. Each call is printed before it runs, so that a run that is cut says how far it came.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

import learned_resizer_cuda as lr
from benchmarks import op_calls
from benchmarks.op_calls import OPS, OpCall


def calls() -> Iterator[tuple[OpCall, torch.dtype]]:
    """Each op once in every instance that differs in more than a constant: dtype, filters, layout, direction."""
    for op in OPS:
        halves = (torch.float16, torch.bfloat16)
        for dtype in halves if op.startswith("trunk") else (torch.float32, *halves):
            yield OpCall(op), dtype
            yield OpCall(op, layout="channels_last", channels=4, sizes=(13, 11, 29, 31)), dtype
            if op not in ("resample", "trunk_block", "trunk_tail"):
                yield OpCall(op, filters=32, skip=False, statistics=False), dtype
                yield OpCall(op, filters=5), dtype
            if op in ("conv", "head"):
                yield OpCall(op, earlier=True, norm=False), dtype
    for interpolation in ("bicubic", "lanczos"):
        yield OpCall("resample", interpolation=interpolation), torch.float32
        yield OpCall("stem", interpolation=interpolation), torch.bfloat16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    device = parser.parse_args().device
    count = 0
    with lr.use_backend("torch" if device == "cpu" else "native"):
        for call, dtype in calls():
            if device == "cpu" and dtype == torch.float16:
                continue
            print(call, str(dtype).removeprefix("torch."), flush=True)
            values = op_calls.placed(op_calls.arguments(call), dtype, device, call.layout)
            for name, tensor in op_calls.run(call.op, values).items():
                assert bool(tensor.cpu().isfinite().all()), f"{call} {dtype}: {name} is not finite"
            count += 1
        image = torch.arange(2 * 3 * 37 * 29).to(torch.uint8).view(2, 3, 37, 29).to(device)
        lr.resize(image, (17, 13)).cpu()
        # The rows first, and the columns.
        for size in ((17, 13), (17, 40)):
            lr.resize(image, size, parity="pillow").cpu()
        # A whole step, for the code between the ops; on uint8 images, which the stem converts.
        resizer = lr.FusedResizer((17, 13), mean=(0.5,) * 3, std=(0.25,) * 3).to(device)
        resizer(image).square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.cpu().isfinite().all()) for p in resizer.parameters())
    print(f"{count + 4} calls ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
