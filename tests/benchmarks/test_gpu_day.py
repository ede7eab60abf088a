"""`benchmarks.gpu.gpu_day` on a machine without a GPU: the folder, the build, the budget, the plan."""

from __future__ import annotations

import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.gpu_days import QUICK, call, new_day, page_in, states, summary_in

# isort: split
from benchmarks import bars, op_calls
from benchmarks.cases import OURS, Case
from benchmarks.gpu import cold, gpu_build, gpu_day, gpu_report, gpu_sections
from benchmarks.gpu.day import Day
from benchmarks.op_calls import OpCall
from benchmarks.race import Entry


def test_bars_write_everything(tmp_path: Path) -> None:
    code, summary = call(tmp_path, "bars", "--sections", "roofs,resample,kernels")
    assert code == 0, summary["parts"]
    assert states(summary) == {"measure roofs, resample, kernels": "done"}
    assert {row["case"]["op"] for row in summary["time"]} == {"resample", "resample_fixed"}
    assert all(row["ours_ms"] > 0 and row["bar"] is None for row in summary["time"])
    assert {kernel["name"] for kernel in summary["kernels"]} == set(gpu_sections.targets())
    assert all(kernel["bytes"] > 0 and kernel["flop"] > 0 for kernel in summary["kernels"])
    (run,) = summary["runs"]
    assert run["sections"] == ["roofs", "resample", "kernels"]
    assert run["environment"]["native"].startswith("none: a rehearsal")
    names = ("gpu-day-quick.json", "gpu-day-quick.md", "gpu-day-quick.png", "gpu-day-quick-roofline.png")
    assert {file.name for file in tmp_path.iterdir()} == {*names, "bars.log", "bars.rows.jsonl"}
    page = page_in(tmp_path)
    assert "## Kernels alone" in page and "stem_backward" in page


@pytest.mark.slow
def test_every_call_runs_into_one_folder(tmp_path: Path) -> None:
    for name in reversed(gpu_day.CALLS):
        assert call(tmp_path, name, "--budget", "100")[0] == 0
    summary = summary_in(tmp_path)
    assert {run["call"] for run in summary["runs"]} == set(gpu_day.CALLS)
    assert not [part for part in summary["parts"] if part["state"] in ("failed", "cut")]
    assert not [reason for reason in summary["skipped"] if reason.startswith("failure")]
    assert {row["case"]["op"] for row in summary["time"]} >= {"resample", "resize", "FusedResizer"}
    assert len(summary["launches"]) == 4 and len(summary["kernels"]) == len(gpu_sections.targets())


def test_a_command_that_hangs_is_cut(tmp_path: Path) -> None:
    day = new_day(tmp_path)
    state, said = day.run("hangs", [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(60)"], 2)
    assert (state, said) == ("cut", "here\n")
    assert day.run("fails", [sys.executable, "-c", "raise SystemExit('why')"], 10)[0] == "failed"
    parts = summary_in(tmp_path)["parts"]
    assert [(part["state"], part["seconds"] < 20) for part in parts] == [("cut", True), ("failed", True)]
    assert parts[0]["reason"].endswith("it said last: here") and "why" in parts[1]["reason"]
    assert day.finish() == 1


@pytest.mark.parametrize("budget", ["2", None])
def test_the_budget_is_the_call_s(tmp_path: Path, budget: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shortens a call that has a longer one by default, and there is no other limit."""
    seen = []
    monkeypatch.setattr(gpu_day, "bench", lambda day, sections, seconds: seen.append((day.left, seconds)))
    monkeypatch.setitem(gpu_day.CALLS, "bars", (gpu_day.bars, 100.0))
    call(tmp_path, "bars", *(["--budget", budget] if budget else []))
    ((left, seconds),) = seen
    assert left == pytest.approx(float(budget or 100), abs=1.5) and seconds == pytest.approx(left, abs=0.5)


def test_a_section_s_last_run_counts(tmp_path: Path) -> None:
    """Of two runs with different sections, in any order of calls; a line cut off by a kill is left out."""
    for which, names in (("profile", ("kernels",)), ("bars", ("roofs", "kernels")), ("bars", ("kernels",))):
        day = new_day(tmp_path, which)
        for name in names:
            day.add({"section": name, "kind": "roof", "name": f"{which} {name} {len(day.mine())}", "bytes_per_s": 1.0})
        with day.rows.open("a") as file:
            file.write('{"section": "roofs", "ki')
            file.write("\n" if which == "bars" else "")
        time.sleep(0.01)  # runs are ordered by their time
    new_day(tmp_path).add({"section": "roofs", "kind": "cut", "name": "copy", "reason": "no time"})
    gpu_report.write(tmp_path, [tmp_path])
    summary = summary_in(tmp_path)
    assert [run["sections"] for run in summary["runs"] if run["call"] == "bars"] == [["roofs"], ["kernels"], []]
    assert [roof["name"] for roof in summary["roofs"]] == ["bars kernels 1", "bars roofs 1"]


def test_folders_of_two_devices_make_two_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
        Day("right", tmp_path / name[-4:], {**gpu_build.environment("cpu", True), "device": name}, 9, "cpu", True)
    folders = [str(tmp_path / name) for name in ("HBM3", "H200")]
    assert gpu_day.main(["report", "--out", str(tmp_path), *folders]) == 0
    assert {file.stem for file in tmp_path.glob("*.md")} == {"nvidia-h100-80gb-hbm3", "nvidia-h200"}
    assert gpu_day.main(["report", "--out", str(tmp_path)]) == 1
    assert "no rows" in capsys.readouterr().out


def test_rows_survive_a_worker_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process dies in its second section; another one does the rest, and no row is lost."""
    script = tmp_path / "benchmarks" / "gpu" / "gpu_worker.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "import json, os, sys, time\n"
        "for word in sys.argv[4:]:\n"
        "    if word.startswith('--'): continue\n"
        "    name = word.split('=')[0]\n"
        "    with open(sys.argv[1], 'a') as f:\n"
        "        f.write(json.dumps({'kind': 'begun', 'name': name, 'kill_at': time.time() + 9}) + '\\n')\n"
        "        if name == 'resize': f.write('{\"half'); f.flush(); os.kill(os.getpid(), 9)\n"
        "        row = {'kind': 'roof', 'section': name, 'name': name, 'bytes_per_s': 1.0}\n"
        "        f.write('\\n' + json.dumps(row) + '\\n')\n"
    )
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)
    day = new_day(tmp_path)
    gpu_day.bench(day, ["kernels", "roofs", "resize"], 30)
    assert day.finish() == 1
    summary = summary_in(tmp_path)
    assert [roof["name"] for roof in summary["roofs"]] == ["roofs", "kernels"]
    assert states(summary) == {
        "measure roofs, resize, kernels": "failed",
        "section resize": "failed",
        "measure kernels": "done",
    }


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, "cannot be imported"),
        (
            {"native": {"state": "failed to load", "reason": "libcudart.so.13: no such file"}, "versions": {}},
            "libcudart.so.13",
        ),
        (
            {
                "native": {"state": "loaded", "record": {"architectures": ["80"], "cuda": "13.0"}},
                "versions": {},
                "ops": {"resample": {"cuda": {"native_refused": "it has code for sm_80"}}},
            },
            "sm_80",
        ),
    ],
    ids=["import", "load", "architecture"],
)
def test_nothing_is_measured_without_the_native_module(
    said: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_build, "KEPT", tmp_path)
    monkeypatch.setattr(gpu_build, "digest", lambda _: "same")
    (tmp_path / "digest.txt").write_text("same")
    monkeypatch.setattr(gpu_build, "query", lambda _: said and json.dumps(said))
    monkeypatch.setattr(gpu_build, "smi", lambda _: [])
    monkeypatch.setattr(gpu_day, "bench", lambda *_: pytest.fail("measured without the native module"))
    assert gpu_day.main(["bars", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "native module: failed after 0 s: nothing is measured: " in printed and reason in printed


def test_a_failed_build_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where an older module lies in the source tree, which would load."""
    monkeypatch.setattr(gpu_build, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(gpu_build, "smi", lambda fields: ["9.0"] if fields == "compute_cap" else [])
    seen = {}

    def run(day: Day, name: str, command: list[str], budget: float, env: dict[str, str]) -> tuple[str, str]:
        seen.update(env, command=command[1:4])
        day.part(name, "failed", "nvcc: not found")
        return "failed", ""

    monkeypatch.setattr(Day, "run", run)
    monkeypatch.setattr(gpu_day, "bench", lambda *_: pytest.fail("measured an old module"))
    assert gpu_day.main(["compiled", "--out", str(tmp_path)]) == 1
    assert seen["LEARNED_RESIZER_CUDA_ARCHS"] == "90" and seen["command"] == ["setup.py", "build_ext", "--inplace"]
    assert not (tmp_path / "kept").exists()


def test_a_module_of_an_earlier_call_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was built from the same sources; `right` puts it into the results."""
    kept, package = tmp_path / "kept", tmp_path / "root" / "learned_resizer_cuda"
    (tmp_path / "root" / "csrc").mkdir(parents=True)
    for folder in (kept, package):
        folder.mkdir()
    for name in ("CMakeLists.txt", "setup.py", "csrc/stem.cu"):
        (tmp_path / "root" / name).write_text(name)
    monkeypatch.setattr(gpu_build, "ROOT", tmp_path / "root")
    monkeypatch.setattr(gpu_build, "KEPT", kept)
    monkeypatch.setattr(gpu_build, "smi", lambda fields: ["9.0"] if fields == "compute_cap" else [])
    monkeypatch.setattr(gpu_build, "found", lambda: ("loaded: sm_90, CUDA 13.0", "", {"torch's CUDA": "13.0"}))
    builds = []
    monkeypatch.setattr(Day, "run", lambda day, name, *_: builds.append(name) or ("done", ""))
    (kept / "_C.so").write_bytes(b"old")
    (package / "_C.abi.so").write_bytes(b"new")
    day = Day("right", tmp_path / "out", gpu_build.environment("cpu", True), 60, "cuda", True)
    assert gpu_build.build(day) and builds == ["build"]
    assert (kept / "_C.abi.so").read_bytes() == b"new"
    (package / "_C.abi.so").unlink()
    assert gpu_build.build(day) and builds == ["build"]
    assert (package / "_C.abi.so").read_bytes() == b"new"
    gpu_build.keep(day)
    assert (tmp_path / "out" / "_C.abi.so").exists() and (tmp_path / "out" / "digest.txt").exists()
    (tmp_path / "root" / "csrc" / "stem.cu").write_text("changed")
    assert gpu_build.build(day) and builds == ["build", "build"]
    (run,) = gpu_report.runs([tmp_path / "out"])
    assert run["environment"]["native"] == "loaded: sm_90, CUDA 13.0"
    assert run["environment"]["versions"] == {"torch's CUDA": "13.0"}


def test_peers_come_from_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_build, "PEERS", tmp_path / "peers")
    monkeypatch.setattr(gpu_build, "NAMES", ("kept-wheel",))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with zipfile.ZipFile(tmp_path / "kept_wheel-1.5-py3-none-any.whl", "w") as wheel:
        info = "kept_wheel-1.5.dist-info"
        wheel.writestr("kept_wheel.py", "")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: kept-wheel\nVersion: 1.5\nRequires-Dist: torch\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    day = new_day(tmp_path / "out")
    gpu_build.install(day, tmp_path)
    assert not day.failed
    assert {file.name for file in (tmp_path / "peers").glob("*.py")} == {"kept_wheel.py"}
    (run,) = gpu_report.runs([tmp_path / "out"])
    assert run["environment"]["peers"] == {"kept-wheel": "1.5"}


def test_the_plan_fits_into_half_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_day.main(["plan"]) == 0
    commands = [line.split("s  ", 1) for line in capsys.readouterr().out.splitlines() if "--out $OUT" in line]
    assert [command.split()[3] for _, command in commands] == list(gpu_day.CALLS)
    assert all(int(limit) <= 540 and len(command) < 2000 for limit, command in commands)
    # Two minutes for the machine's start.
    assert sum(int(limit) for limit, _ in commands) <= 28 * 60


def test_wrong_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_day.main(["bars", "--out", str(tmp_path), "--sections", "roof"])
    assert "--sections: got 'roof'; expected some of roofs," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_day.main(["profile", *QUICK, "--out", str(tmp_path), "--targets", "steam"])
    assert "--targets: got 'steam'; expected some of resample," in capsys.readouterr().err


def test_a_peer_that_differs_is_said_to(tmp_path: Path) -> None:
    case = Case("resize", "forward", "bilinear", True, "float32", "NCHW", 1, 4, 2)
    clock = cold.Clock(torch.device("cpu"), 1024)
    ours = Entry(OURS, lambda: torch.ones(3), lambda t: [t])
    peer = Entry("peer", lambda: torch.full((3,), 1.5), lambda t: [t], 1e-3)
    record = cold.race(clock, case, ours, [peer], rounds=4, deadline=time.monotonic() + 5, constants={"floor": 1.0})
    assert len(record["unequal"]) == 1 and "peer" in record["unequal"][0]
    assert {name: len(seconds) for name, seconds in record["seconds"].items()} == {"peer": 4, OURS: 4, "floor": 4}
    day = new_day(tmp_path)
    day.add({"kind": "record", "section": "resize", **record})
    assert day.finish() == 1
    assert "**resize forward" in page_in(tmp_path)


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


def test_the_bytes_of_a_call() -> None:
    """Counted by hand: 2 images of 8 × 6 made 4 × 3, 3 channels, float32."""
    call = OpCall("resample", sizes=(8, 6, 4, 3))
    values = op_calls.placed(op_calls.arguments(call), torch.float32, "cpu", "NCHW")
    small, large = 2 * 3 * 4 * 3 * 4, 2 * 3 * 8 * 6 * 4
    out = list(op_calls.run("resample", values, None).values())
    assert op_calls.least_bytes(call, values, out, False) == small + large
    assert op_calls.least_bytes(call, values, op_calls.backward_call(call, values)(), True) == small + large
