"""The Triton reductions: under the interpreter against float64, and compiled for every architecture."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

triton = pytest.importorskip("triton")


def _run(code: str, **environment: str) -> str:
    """Run code in a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_INTERPRETED = """
import torch
from learned_resizer_cuda.kernels import reduce

generator = torch.Generator().manual_seed(0)
for blocks in (1, 2, 127, 128, 300):
    for n in (16, 32):
        partials = torch.empty(blocks, 3, n)
        # Counts whose sum float32 does not hold, some zero; means a thousand deviations from zero.
        seen = torch.arange(blocks)[:, None] % 5 > 0
        partials[:, 0] = torch.randint(0, 2**20, (blocks, 1), generator=generator) * seen
        partials[:, 1] = 1000 + torch.randn(blocks, n, generator=generator)
        partials[:, 2] = partials[:, 0] * torch.rand(blocks, n, generator=generator)
        mean, var = reduce.merge_statistics(partials)
        count, means, m2 = partials.double().unbind(1)
        total = count.sum(0).clamp(min=1)
        exact = (count * means).sum(0) / total
        exact_var = (m2 + count * (means - exact) ** 2).sum(0) / total
        # float64 inside, one rounding to float32 at the end.
        assert ((mean - exact).abs() <= 2**-23 * exact.abs()).all(), (blocks, n)
        assert ((var - exact_var).abs() <= 2**-22 * exact_var).all(), (blocks, n)
        again = reduce.merge_statistics(partials)
        assert torch.equal(again[0], mean) and torch.equal(again[1], var)
for blocks, elements in ((1, 5), (3, 64), (132, 2640), (200, 33)):
    partials = torch.randn(blocks, elements, generator=generator)
    total = reduce.sum_rows(partials)
    exact = partials.double().sum(0)
    assert ((total - exact).abs() <= 2**-23 * exact.abs()).all(), (blocks, elements)
    assert torch.equal(reduce.sum_rows(partials), total)
print("right")
"""


@pytest.mark.skipif(
    TorchVersion(triton.__version__) < (3, 8) and TorchVersion(np.__version__) >= (2, 4),
    reason="the interpreter of Triton before 3.8 reads a loop's bound in a way that NumPy 2.4 and newer refuse",
)
def test_reductions_are_right_under_the_interpreter() -> None:
    assert _run(_INTERPRETED, TRITON_INTERPRET="1").strip() == "right"


_COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from learned_resizer_cuda.kernels import reduce

kernels = (
    (reduce._merge_statistics, "partials mean var count", {"n": 16, "rows": reduce._ROWS}),
    (reduce._merge_statistics, "partials mean var count", {"n": 32, "rows": reduce._ROWS}),
    (reduce._sum_rows, "partials total count elements", {"rows": reduce._ROWS, "columns": reduce._COLUMNS}),
)
for kernel, names, constants in kernels:
    signature = {name: "i32" if name in ("count", "elements") else "*fp32" for name in names.split()}
    signature |= dict.fromkeys(constants, "constexpr")
    for capability in (80, 90, 100, 120):
        built = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
        print(kernel.__name__, capability, built.metadata.shared, len(built.asm["cubin"]))
        open(f"{FOLDER}/{kernel.__name__}_{constants.get('n', 0)}_{capability}.cubin", "wb").write(built.asm["cubin"])
"""


@pytest.mark.skipif(
    torch.version.cuda is None, reason="this torch was built without CUDA, and its triton without ptxas"
)
def test_reductions_compile_for_every_architecture(tmp_path) -> None:
    out = _run(f"FOLDER = {str(tmp_path)!r}\n{_COMPILED}", TRITON_CACHE_DIR=str(tmp_path / "cache"))
    lines = [line.split() for line in out.strip().splitlines()]
    assert len(lines) == 12
    for name, capability, shared, size in lines:
        # What fits beside anything else on every GPU.
        assert int(shared) <= 16 * 1024, (name, capability)
        assert int(size) > 0
    for cubin in tmp_path.glob("*.cubin"):
        usage = _resources(cubin)
        if usage is not None:
            assert "STACK:0" in usage and "LOCAL:0" in usage, (cubin.name, usage)


def _resources(cubin) -> str | None:
    """Registers, stack and shared memory that the disassembler reports; None where there is none."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    if not os.path.exists(tool):
        return None
    done = subprocess.run([tool, "--dump-resource-usage", str(cubin)], capture_output=True, text=True, check=True)
    return done.stdout
