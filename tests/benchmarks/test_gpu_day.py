"""`benchmarks.gpu.gpu_day` on a machine without a GPU: the same code at tiny sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks" / "gpu" / "gpu_day.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from benchmarks import bars, op_calls  # noqa: E402
from benchmarks.cases import OURS, Case  # noqa: E402
from benchmarks.gpu import cold, gpu_day, gpu_report  # noqa: E402
from benchmarks.op_calls import OpCall  # noqa: E402
from benchmarks.race import Entry  # noqa: E402

FILES = (".json", ".md", ".log", ".rows.jsonl")


def _day(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu" / "gpu_day.py"),
        "--device",
        "cpu",
        "--quick",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads((out / "gpu-day-quick.json").read_text())


def _options(tmp_path: Path) -> Any:
    options = {"out": tmp_path, "device": "cpu", "quick": True, "budget": 60.0, "sections": ["roofs"], "parts": []}
    return type("Options", (), options)()


def test_the_bench_writes_everything(tmp_path: Path) -> None:
    code, summary = _day(tmp_path, "--parts", "sanitize,bench", "--sections", "roofs,resample,kernels")
    assert code == 0, summary["parts"]
    states = {part["name"]: part["state"] for part in summary["parts"]}
    assert states == {"sanitize": "skipped", "bench roofs, resample, kernels": "done"}
    assert {row["case"]["op"] for row in summary["time"]} == {"resample"}
    assert all(row["ours_ms"] > 0 and row["bar"] is None for row in summary["time"])
    # Every op, and the backward of the four that have one.
    assert len({kernel["name"] for kernel in summary["kernels"]}) == 10
    assert all(kernel["bytes"] > 0 and kernel["flop"] > 0 for kernel in summary["kernels"])
    for ending in (*FILES, ".png", "-roofline.png"):
        assert (tmp_path / f"gpu-day-quick{ending}").stat().st_size > 0 or ending == ".log"
    page = (tmp_path / "gpu-day-quick.md").read_text()
    assert "## Kernels alone" in page and "stem_backward" in page


@pytest.mark.slow
def test_every_section_runs(tmp_path: Path) -> None:
    start = time.monotonic()
    code, summary = _day(tmp_path, "--parts", "bench")
    assert time.monotonic() - start < 90
    assert not [part for part in summary["parts"] if part["state"] == "failed"]
    assert not [reason for reason in summary["skipped"] if reason.startswith("failure")]
    assert code == 0
    assert {row["case"]["op"] for row in summary["time"]} >= {"resample", "resize", "FusedResizer"}


def test_a_command_that_hangs_is_cut(tmp_path: Path) -> None:
    day = gpu_day.Day(_options(tmp_path))
    state, said = day.run("hangs", [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(60)"], 2)
    assert (state, said) == ("cut", "here\n")
    assert day.run("fails", [sys.executable, "-c", "raise SystemExit('why')"], 10)[0] == "failed"
    summary = json.loads((tmp_path / "gpu-day-quick.json").read_text())
    assert [(part["state"], part["seconds"] < 20) for part in summary["parts"]] == [("cut", True), ("failed", True)]
    assert "why" in summary["parts"][1]["reason"]
    assert day.finish() == 1


def test_rows_survive_a_worker_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process dies in its second section; another one does the rest, and no row is lost."""
    script = tmp_path / "benchmarks" / "gpu" / "gpu_worker.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "import json, sys, time\n"
        "for word in sys.argv[4:]:\n"
        "    if word.startswith('--'): continue\n"
        "    name = word.split('=')[0]\n"
        "    with open(sys.argv[1], 'a') as f:\n"
        "        f.write(json.dumps({'kind': 'begun', 'name': name, 'kill_at': time.time() + 9}) + '\\n')\n"
        "        if name == 'resize': f.write('{\"half'); f.flush(); sys.exit(3)\n"
        "        f.write('\\n' + json.dumps({'kind': 'roof', 'name': name, 'bytes_per_s': 1.0}) + '\\n')\n"
    )
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)
    options = _options(tmp_path)
    options.sections = ["roofs", "resize", "kernels"]
    day = gpu_day.Day(options)
    gpu_day.bench(day)
    assert [roof["name"] for roof in day.summary()["roofs"]] == ["roofs", "kernels"]
    states = [(part["name"], part["state"]) for part in day.parts]
    assert states == [
        ("bench roofs, resize, kernels", "failed"),
        ("section resize", "failed"),
        ("bench kernels", "done"),
    ]


def test_the_sanitizer_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = gpu_day.Day(_options(tmp_path))
    monkeypatch.setattr(gpu_day.shutil, "which", lambda *_, **__: None)
    gpu_day.sanitize(day)
    assert day.parts[0] == {
        "name": "sanitize", "state": "skipped", "reason": "compute-sanitizer is not installed", "seconds": 0.0,
    }  # fmt: skip


def test_the_exerciser_runs_every_op() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "sanitize.py"), "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 20


def test_a_peer_that_differs_is_said_to(tmp_path: Path) -> None:
    case = Case("resize", "forward", "bilinear", True, "float32", "NCHW", 1, 4, 2)
    clock = cold.Clock(torch.device("cpu"), 1024)
    ours = Entry(OURS, lambda: torch.ones(3), lambda t: [t])
    peer = Entry("peer", lambda: torch.full((3,), 1.5), lambda t: [t], 1e-3)
    record = cold.race(clock, case, ours, [peer], rounds=4, deadline=time.monotonic() + 5, constants={"floor": 1.0})
    assert len(record["unequal"]) == 1 and "peer" in record["unequal"][0]
    assert {name: len(seconds) for name, seconds in record["seconds"].items()} == {"peer": 4, OURS: 4, "floor": 4}
    day = gpu_day.Day(_options(tmp_path))
    summary = gpu_report.summarise(day.environment, [{"kind": "record", **record}], [])
    assert "**resize forward" in gpu_report.markdown(summary, {})


def test_the_bars_of_a_gpu() -> None:
    """Each applies at 448→224 and batch 64 only, and the ResNet's at 128."""
    case = {"op": "FusedResizer", "direction": "evaluation", "interpolation": "bilinear", "antialias": True}
    case |= {"dtype": "bfloat16", "layout": "NCHW", "batch": 64, "in_size": 448, "out_size": 224}
    assert bars.time_bar(case, bars.COMPILED, "cuda") == 4.0
    assert bars.time_bar(case, bars.COMPILED, "cpu") is None
    assert bars.time_bar({**case, "batch": 8}, bars.COMPILED, "cuda") is None
    assert bars.time_bar({**case, "dtype": "float32"}, bars.COMPILED, "cuda") is None
    assert bars.memory_bar(case, "reference, channels_last", "cuda") == pytest.approx(0.2)
    lanczos = {**case, "op": "resize", "direction": "forward", "interpolation": "lanczos"}
    assert bars.time_bar(lanczos, "lanczos-triton", "cuda") == 2.0
    network = {**case, "op": "ResNet-50 behind FusedResizer", "direction": "train step", "batch": 128}
    assert bars.time_bar(network, bars.ALONE, "cuda") == pytest.approx(1 / 1.06)


def test_wrong_options_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--parts", "--sections"):
        with pytest.raises(SystemExit):
            gpu_day.main([option, "bulid"])
        assert f"{option}: got 'bulid'; expected some of" in capsys.readouterr().err


def test_the_bytes_of_a_call() -> None:
    """Counted by hand: 2 images of 8 × 6 made 4 × 3, 3 channels, float32."""
    call = OpCall("resample", sizes=(8, 6, 4, 3))
    values = op_calls.placed(op_calls.arguments(call), torch.float32, "cpu", "NCHW")
    small, large = 2 * 3 * 4 * 3 * 4, 2 * 3 * 8 * 6 * 4
    out = op_calls.operator("resample")(**values)
    assert op_calls.least_bytes(call, values, out, False) == small + large
    assert op_calls.least_bytes(call, values, op_calls.backward_call(call, values)(), True) == small + large
