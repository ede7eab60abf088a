"""benchmarks/floor/tensor.py: counts from the disassembly agree with the shapes, without a GPU."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("benchmarks.floor", reason="the benchmarks are not beside the tests")

from benchmarks.floor import disassembly, tensor, tensor_kernels
from tests.helpers.native_host import native_on_host


def needs_disassembly() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    try:
        disassembly.disassembler()
    except (FileNotFoundError, ImportError) as missing:
        pytest.skip(f"needs nvdisasm: {missing}")


# The one that compiles fastest; the others are slow.
ALL = [(case.name, case.arithmetic) for case in tensor_kernels.cases()]
QUICK = ("trunk block", "bfloat16")


@pytest.mark.parametrize(
    ("name", "arithmetic"), [pytest.param(*key, marks=[] if key == QUICK else [pytest.mark.slow]) for key in ALL]
)
def test_matrix_products_are_those_of_the_shapes(name: str, arithmetic: str) -> None:
    """The disassembly holds exactly the products that the shapes need, in loops with known trip counts."""
    needs_disassembly()
    case = next(c for c in tensor_kernels.cases([arithmetic]) if c.name == name)
    row = tensor.measure(case, "90")
    assert row.mma == pytest.approx(case.mma, rel=1e-9)
    times = row.microseconds()
    assert all(time > 0.0 for time in times.values())
    assert sum(row.issued.values()) > row.mma


def test_stem_needs_the_products_of_its_shapes() -> None:
    """7 kernel rows of 2 steps and the 1x1's one, by 2 column tiles: 30; R_w: 12 for 16 outputs of 64 pixels.

    The rest is columns and rows of a tile's edge: 4 tiles of 128 columns are 512 of 448, because a block has the same
    8 warps for every image.
    """
    case = next(c for c in tensor_kernels.cases(["bfloat16"]) if c.name.startswith("stem with"))
    assert 33.0 <= case.mma * 16 / case.pixels < 33.0 * 1.1 * 512 / 448


@pytest.mark.parametrize("arithmetic", ["bfloat16", "tf32", "float32"])
def test_stem_plan_is_the_planners(arithmetic: str) -> None:
    """The stem's plan in tensor_kernels.py equals the native module's."""
    from learned_resizer_cuda.kernels import native
    from learned_resizer_cuda.ops.bands import INTERPOLATIONS

    options = (224, 224), INTERPOLATIONS.index("bilinear"), True
    with native_on_host():
        planned = native.load().plan_stem([(64, 448, 448, None, None)], *options, [], 1, 132, arithmetic, 16)
    plan = tensor_kernels.stem_plan(arithmetic)
    assert plan.blocks == planned.blocks
    assert sum(plan.rows) >= 448
    assert plan.warps * 16 * plan.tiles >= 448


LOOP = """
.section .text.kernel,"ax",@progbits
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        //## File "/x/fragment.cuh", line 3 inlined at "/x/conv.cuh", line 9
        //## File "/x/conv.cuh", line 9
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0020*/              @!P0 BRA `(.L_x_2) ;
        /*0030*/                   CALL.REL.NOINC `(.L_x_3) ;
.L_x_2:
        /*0040*/               @P1 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
.L_x_3:
        /*0060*/                   MUFU.RCP R0, R0 ;
        /*0070*/                   RET.REL.NODEC R2 `(kernel) ;
"""


def test_loops_are_found_in_the_flow_graph() -> None:
    """One loop around a branch; code reached only by a call is not part of the kernel's flow."""
    kernel = disassembly.parse(LOOP)["kernel"]
    (loop,) = disassembly.loops(kernel)
    inside = [item.opcode.split(".")[0] for item in kernel.instructions if item.block in loop.blocks]
    assert inside == ["HMMA", "BRA", "CALL", "BRA"]
    live = disassembly.reachable(kernel)
    assert [item.opcode.split(".")[0] for item in kernel.instructions if item.block not in live] == ["MUFU", "RET"]
    assert kernel.instructions[1].chain == (("fragment.cuh", 3), ("conv.cuh", 9))
