"""Comparisons with an oracle, and a check of torch's global state, for tests/gpu.

The oracle is the same op on the CPU in float64, on the *rounded* arguments: rounding them is not an error of an op.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda import backend

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks" / "op_calls.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from benchmarks import op_calls  # noqa: E402
from benchmarks.op_calls import OpCall  # noqa: E402

# Arithmetic -> dtype of the tensors. "tf32" is float32 with torch's flags set to allow it.
ARITHMETIC = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

# Greatest error of an entry, relative to the tensor's largest. Half types and tf32 round up to four values in a row to
# p significant bits (a feature, the next one, the gradient between them, the result), each by 2^-p at most:
# 4 · 2^-11 for float16 and tf32, 4 · 2^-8 for bfloat16. Sums are in float32; float32 itself has p = 24 and rounds each
# of some hundred terms of a sum: 160 · 2^-24.
BOUND = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.5e-2}

# Where float32 calls torch's own resampling on a CPU: its coordinates are rounded to float32 (see peers.FLOAT32).
TORCH_COORDINATES = 5e-5

# Greatest ‖error‖ / ‖exact‖ of gradients where LeakyReLU's inputs may be next to zero. An input within its rounding
# error of zero takes the other slope, which changes that entry by a factor of up to 5, so by 0.8 of itself. With inputs
# spread over about [-1, 1] a fraction p = 4 · 2^-p_bits of them lies that close, and the norm of the error is
# 0.8 · √p of the norm: 1.0e-1, 3.5e-2, 4e-4. A float32 tensor of 10^4 entries shows one flip as 0.8 / √10^4.
KINK_BOUND = {"float32": 1e-2, "tf32": 3.5e-2, "float16": 3.5e-2, "bfloat16": 1e-1}


def devices() -> list[Any]:
    """ "cpu", which tests the tests themselves, and "cuda"."""
    return ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@contextmanager
def arithmetic(name: str) -> Iterator[torch.dtype]:
    """Allow or forbid tf32 in the block, as `name` says, and restore torch's flags."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield ARITHMETIC[name]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def flags() -> dict[str, Any]:
    """Torch's global state that an op or a test could change."""
    state = {
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")),
        "threads": torch.get_num_threads(),
        "backend": backend.current(),
    }
    if torch.cuda.is_available():
        state["sync debug mode"] = torch.cuda.get_sync_debug_mode()
        state["device"] = torch.cuda.current_device()
        state["stream"] = torch.cuda.current_stream().cuda_stream
        state["capturing"] = torch.cuda.is_current_stream_capturing()
    return state


@pytest.fixture
def unchanged_flags() -> Iterator[None]:
    """Fail a test that leaves torch's global state changed."""
    before = flags()
    yield
    after = flags()
    changed = {name: (value, after[name]) for name, value in before.items() if after[name] != value}
    assert not changed, f"left changed (before, after): {changed}"


def backend_on(device: str) -> str:
    """ "native" on a GPU: it raises where the kernel cannot run. "torch" on a CPU."""
    return "torch" if device == "cpu" else "native"


def results(call: OpCall, name: str, device: str, seed: int | None = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and gradients of an op on a device in an arithmetic, and the oracle's."""
    with arithmetic(name) as dtype:
        values = op_calls.placed(op_calls.arguments(call), dtype, device, call.layout)
        with lr.use_backend(backend_on(device)):
            found = op_calls.run(call.op, values, seed)
    return found, oracle(call, values, seed)


def oracle(call: OpCall, values: dict[str, Any], seed: int | None = 1) -> dict[str, Tensor]:
    """The op in float64 on the CPU, on the same numbers."""
    wide = {
        name: value.detach().cpu().double() if isinstance(value, Tensor) else value for name, value in values.items()
    }
    with lr.use_backend("torch"):
        return op_calls.run(call.op, wide, seed)


def check(found: dict[str, Tensor], exact: dict[str, Tensor], bound: float, kink_bound: float | None = None) -> None:
    """Compare every tensor with the oracle's.

    Args:
        found: results of the op.
        exact: the oracle's.
        bound: greatest error of an entry, relative to the tensor's largest.
        kink_bound: if given, gradients must meet this bound of ‖error‖ / ‖exact‖ instead.
    """
    assert list(found) == list(exact)
    wrong = []
    for name, tensor in found.items():
        expected = exact[name]
        assert tensor.shape == expected.shape, f"{name}: {tuple(tensor.shape)}, expected {tuple(expected.shape)}"
        by_norm = kink_bound is not None and name.startswith("grad ")
        error = relative_error(tensor, expected, by_norm)
        limit = kink_bound if by_norm and kink_bound is not None else bound
        if not error <= limit:  # not "error > limit": NaN never passes
            wrong.append(f"{name}: error {error:.2e} of the {'norm' if by_norm else 'largest'}, more than {limit:.2e}")
    assert not wrong, "; ".join(wrong)


def relative_error(found: Tensor, exact: Tensor, by_norm: bool = False) -> float:
    """Largest error over the largest entry, or norm of the error over the norm; NaN if any entry is NaN."""
    if exact.numel() == 0:
        return 0.0
    error = found.detach().cpu().double() - exact.cpu()
    if by_norm:
        return float(error.norm() / exact.cpu().norm().clamp_min(1e-300))
    return float(error.abs().max() / exact.cpu().abs().max().clamp_min(1e-300))


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all tensors are equal bit for bit (a NaN, which no result here may hold, equals nothing)."""
    return list(a) == list(b) and all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))
