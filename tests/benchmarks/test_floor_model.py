"""benchmarks/floor/model.py and simulation.py: known answers, and counts that agree with the disassembly's."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest

pytest.importorskip("benchmarks.floor", reason="the benchmarks are not beside the tests")

from benchmarks.floor import disassembly, hopper, model, program, tensor, tensor_kernels
from benchmarks.floor.machine import H100
from benchmarks.floor.simulation import Op, simulate
from tests.benchmarks.test_floor import ALL, needs_disassembly

LOAD = Op(write=0, pipe=5, wavefronts=1.0, latency=500, l2=1e-9, load=True, reason="global")
NEXT = Op(wait=(0,))  # waits for what scoreboard 0 guards


def clocks(*path: Op, warps: int = 1, blocks: int = 1, resident: int = 1) -> float:
    return simulate(H100, [[list(path)] * warps] * blocks, resident).clocks


def test_dependent_loads_take_two_latencies_and_independent_ones_one() -> None:
    dependent = Op(write=0, wait=(0,), pipe=5, wavefronts=1.0, latency=500, l2=1e-9, load=True, reason="global")
    assert clocks(LOAD, dependent, NEXT) == pytest.approx(2 * 500 + 1, abs=2)
    assert clocks(LOAD, LOAD, NEXT) == pytest.approx(500 + 2, abs=2)
    runs = [simulate(H100, [[path]], 1) for path in ([LOAD, dependent, NEXT], [LOAD, LOAD, NEXT])]
    assert [run.round_trips for run in runs] == [2, 1]
    assert [run.most_in_flight for run in runs] == [1, 2]


def test_a_scheduler_issues_one_instruction_a_clock() -> None:
    """Four warps are on four schedulers, eight share them; a stall of one warp is filled by the other's."""
    one = [Op()] * 100
    assert clocks(*one) == clocks(*one, warps=4) == 100
    assert clocks(*one, warps=8) == 200
    assert clocks(*[Op(stall=2)] * 100, warps=8) == pytest.approx(200, abs=1)


def test_a_barrier_waits_for_the_last_warp() -> None:
    slow = [Op(stall=1)] * 300
    barrier, end = Op(kind="barrier"), Op()
    run = simulate(H100, [[[barrier, end], [*slow, barrier, end]]], 1)
    assert run.clocks == pytest.approx(300 + H100.barrier_clocks + 1, abs=1)
    assert run.stalls["barrier"] == pytest.approx(300 + 2 * H100.barrier_clocks, abs=3)


def test_products_are_bound_by_the_tensor_pipe() -> None:
    product = Op(pipe=4, busy=H100.schedulers / H100.mma_per_clock)
    run = simulate(H100, [[[product] * 200] * 8], 1)
    assert run.clocks == pytest.approx(8 * 200 / H100.mma_per_clock, rel=0.01)
    assert run.stalls["tensor"] + run.stalls["not selected"] > 0.7 * run.warp_clocks


def test_loads_are_bound_by_the_bandwidth_of_the_dram() -> None:
    """Sixteen warps with many loads in flight each, far more than the latency's worth."""
    size = 512.0
    load = Op(pipe=5, wavefronts=4.0, latency=H100.dram_clocks, l2=size, dram=size, load=True, write=0)
    run = simulate(H100, [[[load] * 64] * 16], 1)
    assert run.clocks == pytest.approx(64 * 16 * size / H100.dram_bytes_per_clock - H100.dram_ahead_clocks, rel=0.02)


def test_shared_memory_serves_a_wavefront_a_clock() -> None:
    read = Op(pipe=5, wavefronts=4.0, latency=H100.shared_clocks, write=0)
    assert clocks(*[read] * 100, NEXT, warps=8) == pytest.approx(8 * 100 * 4 + H100.shared_clocks, rel=0.02)


def test_blocks_that_are_not_resident_wait_for_a_place() -> None:
    path = [Op(stall=10)] * 10
    assert clocks(*path, blocks=4, resident=2) == pytest.approx(2 * clocks(*path), abs=4)


def test_asynchronous_copies_are_awaited_by_group() -> None:
    """With one group pending the wait is for the first alone."""
    copy = Op(kind="copy", pipe=5, wavefronts=1.0, latency=500, l2=1e-9, load=True)
    commit = Op(kind="commit", write=0, stall=200)
    both = [copy, commit, copy, commit]
    assert clocks(*both, Op(kind="await", wait=(0,), pending=1), NEXT) == pytest.approx(500, abs=5)
    assert clocks(*both, Op(kind="await", wait=(0,), pending=0), NEXT) == pytest.approx(700, abs=5)


def test_clocks_of_the_warps_are_all_accounted_for() -> None:
    path = [LOAD, NEXT, Op(pipe=4, busy=6.5), Op(pipe=2, busy=2.0, stall=4), Op(kind="barrier"), Op()] * 20
    run = simulate(H100, [[path] * 8] * 3, 2)
    assert sum(run.stalls.values()) == pytest.approx(run.warp_clocks, rel=0.02)


def test_resident_blocks() -> None:
    """By registers, shared memory and warps."""
    assert model.resident_blocks(H100, 256, 128, 0) == 2
    assert model.resident_blocks(H100, 256, 129, 0) == 1
    assert model.resident_blocks(H100, 256, 32, 113 * 1024) == 2
    assert model.resident_blocks(H100, 1024, 32, 0) == 2


def _case(name: str, arithmetic: str) -> tensor_kernels.Case:
    return next(c for c in tensor_kernels.cases([arithmetic]) if c.name == name)


def _frames(made: program.Program, i: int) -> list[str]:
    return tensor.describe(made.kernel.instructions[i].chain)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arithmetic"), ALL)
def test_simulated_instructions_and_bytes_are_the_counted_ones(name: str, arithmetic: str) -> None:
    """Paths of warps have the instructions that tensor.py counts and the shapes' DRAM bytes; accesses have rules."""
    needs_disassembly()
    case = _case(name, arithmetic)
    predicted = model.Model(case, H100, 0)
    made, warps = predicted.program, case.threads // 32
    counted = sum(tensor.measure(case, "90").issued.values()) / case.warps
    assert sum(made.times.values()) == pytest.approx(counted, rel=1e-9)
    # Parameters are read in one dtype.
    reads = {i for i in made.memory if any(f.startswith("load_parameter:") for f in _frames(made, i))}
    assert len({made.kernel.instructions[i].opcode for i in reads}) == 1
    # Few trips of the loops that a call runs through once, for an average of four blocks.
    trips = made.trips | {predicted.main.loop.header: 8, predicted.unit.loop.header: 8}
    expected = made.executions(trips)
    paths = [made.path(predicted.operations, trips, w / (4 * warps)) for w in range(4 * warps)]
    assert sum(map(len, paths)) / len(paths) == pytest.approx(sum(expected.values()), rel=0.02)
    moved = sum(op.dram for path in paths for op in path) / len(paths)
    assert moved == pytest.approx(made.dram_bytes(expected), rel=0.03)
    assert made.dram_bytes(made.times) * case.warps == pytest.approx(case.bytes, rel=1e-9)
    # What is read twice is a halo or few bytes: the accesses do not ask for many times the bytes of the shapes.
    assert 0.2 < made.first_touch < 1.2


def test_prediction_of_a_kernel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema of --json; no prediction is below what binds without latency."""
    needs_disassembly()
    monkeypatch.setattr("sys.argv", ["model", "--json", "--kernel", "trunk block", "--batch", "8"])
    model.main()
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"h100", "h200"}
    for machine in result.values():
        assert machine["batch"] == 8
        assert "inference_us" not in machine  # one kernel is not a call
        kernel = machine["kernels"]["trunk block"]
        assert kernel["us"] > max(kernel["bound_us"].values())
        assert kernel["us_per_image"] == pytest.approx(kernel["us"] / 8)
        assert math.isclose(sum(kernel["stalls"].values()), 1.0, abs_tol=0.01)
        assert kernel["resident"] >= 1
        assert kernel["round_trips"] > 0


def test_an_edit_of_the_loader_shortens_a_kernel() -> None:
    """hopper.py: without counting addresses and waiting for loads; never below the matrix products' time."""
    needs_disassembly()
    with tensor_kernels.batch_of(8):
        case = _case("trunk block", "bfloat16")
    before, after = (model.Model(case, H100, 80_000) for _ in range(2))
    (feature,) = (feature for feature in hopper.features(H100) if feature.name == "TMA, tiles")
    removed, changed = hopper.apply(after, feature.edit)
    assert 10 < removed < 200 and changed > 0
    edited = after.predict()
    assert edited.bound_us["tensor"] < edited.us < before.predict().us


@pytest.mark.slow
def test_every_feature_of_hopper_finds_its_instructions() -> None:
    """In every kernel that it names: apply raises otherwise."""
    needs_disassembly()
    calls = tensor_kernels.INFERENCE.keys() | tensor_kernels.TRAINING.keys()
    for case in tensor_kernels.cases(["bfloat16"]):
        for feature in hopper.features(H100) if case.name in calls else ():
            if re.search(feature.kernels, case.name):
                assert hopper.apply(model.Model(case, H100, 0), feature.edit)[1] > 0


ENCODED = """
.section .text.kernel,"ax",@progbits
        /*0000*/                   S2R R122, SR_TID.X ;              /* 0x00000000007a7919 */
                                                                     /* 0x000e220000002100 */
        /*0010*/                   HMMA.16816.F32 R56, R56, R72, R24 ; /* 0x000000483838723c */
                                                                     /* 0x004fe20000001818 */
        /*0020*/                   DEPBAR.LE SB0, 0x2 ;              /* 0x000080800000791a */
                                                                     /* 0x000fc80000000000 */
"""


def test_control_fields_are_read_from_the_encoding() -> None:
    """Stall counts, the scoreboard that guards a result, those waited for, and a wait for groups of copies."""
    items = disassembly.parse(ENCODED)["kernel"].instructions
    case = _case("trunk block", "bfloat16")
    tid, product, groups = (program.operation(case, item, H100) for item in items)
    assert (tid.stall, tid.write, tid.wait) == (1, 0, ())
    assert (product.stall, product.write, product.wait) == (1, None, (2,))
    assert (groups.kind, groups.wait, groups.pending, groups.stall) == ("await", (0,), 2, 4)


def test_a_loop_without_a_rule_is_an_error() -> None:
    needs_disassembly()
    case = replace(_case("trunk block", "bfloat16"), loops=())
    with pytest.raises(LookupError, match="no trip count for the loop"):
        model.Model(case, H100, 0)


def test_an_access_without_a_rule_is_an_error() -> None:
    case = _case("trunk block", "bfloat16")
    with pytest.raises(LookupError, match="no memory for LDG"):
        program.memory_of(case, disassembly.Instruction("LDG.E", False, 0, ()))


def test_calls_are_sums_of_their_kernels() -> None:
    us = dict.fromkeys((*tensor_kernels.INFERENCE, "resample"), 10.0)
    assert model.totals(H100, "bfloat16", us) == {"inference": 40.0}
    us |= dict.fromkeys(tensor_kernels.TRAINING, 10.0)
    launches = 1 + sum(tensor_kernels.TRAINING.values())
    assert model.totals(H100, "bfloat16", us)["train"] == launches * 10.0 + model.REDUCTIONS * H100.small_kernel_us
