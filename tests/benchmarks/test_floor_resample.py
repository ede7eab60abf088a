"""benchmarks/floor/resample.py: its counts are those of the disassembly and the plan, without a GPU."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("benchmarks.floor", reason="the benchmarks are not beside the tests")

from benchmarks.floor import resample, resample_fixed
from benchmarks.floor.machine import H100, H200
from tests.benchmarks.test_floor import needs_disassembly
from tests.helpers.native_host import native_on_host

pytestmark = pytest.mark.slow  # 68 instances to compile


def _case(
    dtype: str, layout: str, sizes: tuple[int, int] = (448, 224)
) -> tuple[int, int, int, int, str, str, str, str]:
    return resample.BATCH, resample.CHANNELS, *sizes, "lanczos", dtype, layout, "forward"


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [(448, 224), (224, 448)])
def test_every_product_of_the_plan_is_counted(sizes: tuple[int, int], dtype: str, layout: str) -> None:
    """Multiply-adds by region: K slots of a row, four rows of a batch by the outputs and taps of a trip."""
    needs_disassembly()
    with native_on_host():
        plan = resample._plan(H100, *_case(dtype, layout, sizes))
        work, *_ = resample._counts(plan, "90")
        products = Counter[str]()
        kernel, source = resample._kernel(plan, "90")
        for item in kernel.instructions:
            if item.opcode == "FFMA":
                products[resample.region(item.chain, item.predicated, source)] += 1
    shrinks = sizes[0] > sizes[1]
    way = "unit" if layout == "NCHW" else "RGB"
    taps = ("add_neighbours" if way == "unit" else "add_strided") if shrinks else "add_shared"
    # Shrinking, a trip has four taps of one output; enlarging, two taps of four outputs.
    trip = 4 * 4 if shrinks else 4 * 2 * 4
    assert products["fold_row"] == 4 * plan.shape["slots"] * (4 if dtype == "float32" else 8)
    assert products[f"{taps} loop {way}"] == trip
    assert products[f"{taps} rest {way}"] == trip // 2
    assert all(work.executions[name] > 0.0 for name in (f"{taps} loop {way}", f"entry {way}", f"store {way}"))


def test_a_time_is_at_least_each_of_its_parts() -> None:
    needs_disassembly()
    with native_on_host():
        for dtype in resample.DTYPES:
            h100, h200 = (resample.predict(machine, *_case(dtype, "NCHW")) for machine in (H100, H200))
            assert h100.total >= max(h100.issue, h100.shared, h100.dram, h100.latency) + h100.setup
            assert h200.issue == pytest.approx(h100.issue) and h200.dram < h100.dram
            assert h200.copy < h100.copy <= h100.total
            assert h100.plan["blocks"] <= h100.waves * h100.plan["resident"] * H100.multiprocessors


@pytest.mark.parametrize("step", [0, 1, 3])
def test_the_loops_of_resample_fixed_have_their_products(step: int) -> None:
    """Four rows a tap and four rows an output, each one multiply-add."""
    needs_disassembly()
    found = resample_fixed.turns(resample_fixed.compiled(step))
    assert set(found) == {"tap", "output", "begin", "store", "group", "block"}
    for part, loads in (("tap", "LDG.E.U8.CONSTANT"), ("output", "LDS")):
        assert found[part]["IMAD"] >= 4
        assert found[part][loads] == (4 if part == "tap" else 1)


def test_a_time_of_resample_fixed_is_at_least_each_of_its_parts() -> None:
    needs_disassembly()
    for machine in (H100, H200):
        for batch in resample_fixed.BATCHES:
            case = (machine, batch, 448, 224, "lanczos", "NCHW")
            rows, columns = (resample_fixed.predict(*case, rows_first) for rows_first in (True, False))
            assert rows.total > max(rows.issue, rows.l1, rows.dram, rows.latency)
            assert columns.l1 > 10 * rows.l1
