"""Peak memory of one training step of a resizer, above its inputs, parameters and output gradient.

On a CPU the step runs in a process of its own, whose peak resident size the kernel keeps (VmHWM in
/proc/self/status). A small step first loads libraries and starts threads; then the peak is reset (by
writing 5 to /proc/self/clear_refs), and the result is the peak of the next step less the resident size
before it. So it counts everything: tensors, scratch buffers of the convolution library, and memory that
the allocator holds back. On CUDA it is the caching allocator's peak less what was allocated before.

Run by path (`python benchmarks/memory.py …`), not as a module: an installed package must win over the
source tree.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def available(device: torch.device) -> bool:
    """Whether the peak can be measured here."""
    return device.type == "cuda" or (STATUS.exists() and CLEAR_REFS.exists())


def peak_in_subprocess(
    model: str,
    layout: str,
    *,
    batch: int,
    in_size: int,
    out_size: int,
    device: torch.device,
    repeats: int = 1,
) -> int:
    """Least peak of several fresh processes: memory that an allocator holds back only adds.

    Args:
        model: "fused" or "reference".
        layout: memory format of images and weights, "NCHW" or "channels_last".
        batch: images per step.
        in_size: side of the images.
        out_size: side of the result.
        device: torch device.
        repeats: number of processes.

    Returns:
        Bytes.
    """
    command = [sys.executable, __file__, model, layout, str(batch), str(in_size), str(out_size), str(device)]
    peaks = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        peaks.append(json.loads(done.stdout)["peak_bytes"])
    return min(peaks)


def peak_of_step(model: str, layout: str, batch: int, in_size: int, out_size: int, device: torch.device) -> int:
    """Peak bytes in this process, which should have done nothing else."""
    from learned_resizer_cuda import FusedResizer, reference

    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    build = {"fused": FusedResizer, "reference": reference.Resizer}[model]
    torch.manual_seed(0)
    module = build(out_size).to(device, memory_format=memory_format)

    def step(x: torch.Tensor, grad: torch.Tensor) -> None:
        module(x, size=tuple(grad.shape[-2:])).backward(grad)
        module.zero_grad(set_to_none=True)

    def tensors(n: int, side: int, out: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.rand(n, 3, s, s).to(device, memory_format=memory_format) for s in (side, out))

    step(*tensors(1, 32, 16))
    x, grad = tensors(batch, in_size, out_size)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(x, grad)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    CLEAR_REFS.write_text("5")
    before = status("VmRSS")
    step(x, grad)
    return status("VmHWM") - before


def status(key: str) -> int:
    """Bytes of a line of /proc/self/status, such as VmRSS."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS}: has no line {key}")


def main() -> None:
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    parser = argparse.ArgumentParser(description="Peak memory of one training step, as JSON.")
    parser.add_argument("model", choices=("fused", "reference"))
    parser.add_argument("layout", choices=("NCHW", "channels_last"))
    parser.add_argument("batch", type=int)
    parser.add_argument("in_size", type=int)
    parser.add_argument("out_size", type=int)
    parser.add_argument("device", type=torch.device)
    print(json.dumps({"peak_bytes": peak_of_step(**vars(parser.parse_args()))}))


if __name__ == "__main__":
    main()
