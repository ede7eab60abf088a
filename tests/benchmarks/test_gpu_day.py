"""`benchmarks.gpu.gpu_day` on a machine without a GPU: the same code at tiny sizes, and stubs of NVIDIA's tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks" / "gpu" / "gpu_day.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from benchmarks import bars, op_calls  # noqa: E402
from benchmarks.cases import OURS, Case  # noqa: E402
from benchmarks.gpu import cold, gpu_build, gpu_day, gpu_ncu, gpu_report, gpu_sections, gpu_tests  # noqa: E402
from benchmarks.gpu.day import Day  # noqa: E402
from benchmarks.op_calls import OpCall  # noqa: E402
from benchmarks.race import Entry  # noqa: E402

QUICK = ("--device", "cpu", "--quick")


def _call(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = gpu_day.main([*arguments, *QUICK, "--out", str(out)])
    return code, _summary(out)


def _summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "gpu-day-quick.json").read_text())


def _states(summary: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["state"] for part in summary["parts"]}


def _day(out: Path, call: str = "bars", budget: float = 60.0) -> Day:
    return Day(call, out, gpu_build.environment("cpu", True), budget, "cpu", True)


def _tool(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name, written in Python, first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{code}")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])


# --- A call's folder --------------------------------------------------------------------------------------------------


def test_bars_write_everything(tmp_path: Path) -> None:
    code, summary = _call(tmp_path, "bars", "--sections", "roofs,resample,kernels")
    assert code == 0, summary["parts"]
    assert _states(summary) == {"measure roofs, resample, kernels": "done"}
    assert {row["case"]["op"] for row in summary["time"]} == {"resample"}
    assert all(row["ours_ms"] > 0 and row["bar"] is None for row in summary["time"])
    assert {kernel["name"] for kernel in summary["kernels"]} == set(gpu_sections.targets())
    assert all(kernel["bytes"] > 0 and kernel["flop"] > 0 for kernel in summary["kernels"])
    (run,) = summary["runs"]
    assert run["sections"] == ["roofs", "resample", "kernels"]
    assert run["environment"]["native"].startswith("none: a rehearsal")
    names = ("gpu-day-quick.json", "gpu-day-quick.md", "gpu-day-quick.png", "gpu-day-quick-roofline.png")
    assert {file.name for file in tmp_path.iterdir()} == {*names, "bars.log", "bars.rows.jsonl"}
    page = (tmp_path / "gpu-day-quick.md").read_text()
    assert "## Kernels alone" in page and "stem_backward" in page


@pytest.mark.slow
def test_every_call_runs_into_one_folder(tmp_path: Path) -> None:
    for call in reversed(gpu_day.CALLS):
        assert _call(tmp_path, call, "--budget", "100")[0] == 0
    summary = _summary(tmp_path)
    assert {run["call"] for run in summary["runs"]} == set(gpu_day.CALLS)
    assert not [part for part in summary["parts"] if part["state"] in ("failed", "cut")]
    assert not [reason for reason in summary["skipped"] if reason.startswith("failure")]
    assert {row["case"]["op"] for row in summary["time"]} >= {"resample", "resize", "FusedResizer"}
    assert len(summary["launches"]) == 4 and len(summary["kernels"]) == len(gpu_sections.targets())


def test_a_command_that_hangs_is_cut(tmp_path: Path) -> None:
    day = _day(tmp_path)
    state, said = day.run("hangs", [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(60)"], 2)
    assert (state, said) == ("cut", "here\n")
    assert day.run("fails", [sys.executable, "-c", "raise SystemExit('why')"], 10)[0] == "failed"
    parts = _summary(tmp_path)["parts"]
    assert [(part["state"], part["seconds"] < 20) for part in parts] == [("cut", True), ("failed", True)]
    assert parts[0]["reason"].endswith("it said last: here") and "why" in parts[1]["reason"]
    assert day.finish() == 1


@pytest.mark.parametrize("budget", ["2", None])
def test_the_budget_is_the_call_s(tmp_path: Path, budget: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shortens a call that has a longer one by default, and there is no other limit."""
    seen = []
    monkeypatch.setattr(gpu_day, "bench", lambda day, sections, seconds: seen.append((day.left, seconds)))
    monkeypatch.setitem(gpu_day.CALLS, "bars", (gpu_day.bars, 100.0))
    _call(tmp_path, "bars", *(["--budget", budget] if budget else []))
    ((left, seconds),) = seen
    assert left == pytest.approx(float(budget or 100), abs=1.5) and seconds == pytest.approx(left, abs=0.5)


def test_a_section_s_last_run_counts(tmp_path: Path) -> None:
    """Of two runs with different sections, in any order of calls; a line cut off by a kill is left out."""
    for call, names in (("profile", ("kernels",)), ("bars", ("roofs", "kernels")), ("bars", ("kernels",))):
        day = _day(tmp_path, call)
        for name in names:
            day.add({"section": name, "kind": "roof", "name": f"{call} {name} {len(day.mine())}", "bytes_per_s": 1.0})
        with day.rows.open("a") as file:
            file.write('{"section": "roofs", "ki')
            file.write("\n" if call == "bars" else "")
        time.sleep(0.01)  # runs are ordered by their time
    _day(tmp_path).add({"section": "roofs", "kind": "cut", "name": "copy", "reason": "no time"})
    gpu_report.write(tmp_path, [tmp_path])
    summary = _summary(tmp_path)
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
    day = _day(tmp_path)
    gpu_day.bench(day, ["kernels", "roofs", "resize"], 30)
    assert day.finish() == 1
    summary = _summary(tmp_path)
    assert [roof["name"] for roof in summary["roofs"]] == ["roofs", "kernels"]
    assert _states(summary) == {
        "measure roofs, resize, kernels": "failed",
        "section resize": "failed",
        "measure kernels": "done",
    }


# --- build ------------------------------------------------------------------------------------------------------------


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
    day = _day(tmp_path / "out")
    gpu_build.install(day, tmp_path)
    assert not day.failed
    assert {file.name for file in (tmp_path / "peers").glob("*.py")} == {"kept_wheel.py"}
    (run,) = gpu_report.runs([tmp_path / "out"])
    assert run["environment"]["peers"] == {"kept-wheel": "1.5"}


# --- right ------------------------------------------------------------------------------------------------------------

HOST_TESTS = "from tests.helpers import kernels_host\nimport pytest\npytestmark = pytest.mark.gpu\n"
HOST_TESTS += "def test_bits_of_the_host(): kernels_host.build()\ndef test_without_the_host(): kernels_host.start()\n"
GPU_TESTS = textwrap.dedent("""\
    import os, signal, time, pytest
    pytestmark = pytest.mark.gpu
    def test_values_a(): pass
    def test_values_b(): assert 1 + 1 == 3, "one and one"
    def test_values_c(): os.kill(os.getpid(), signal.SIGKILL)
    def test_values_d(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
    def test_values_e(): pass
    def test_values_f(): pytest.skip("needs two GPUs")
    def test_values_g(): time.sleep(60)
    def test_graphs(): pass
    def test_compiles(): pass
    def test_stem_beyond_int32(): pass
    """)


def test_every_gpu_test_runs_and_failures_are_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though one kills its process, one hangs, and one loses the CUDA context for all that come after it."""
    monkeypatch.setattr(gpu_tests, "LIMIT", 3.0)
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(GPU_TESTS)
    (folder / "test_other.py").write_text("def test_without_a_gpu(): assert False\n")
    (folder / "test_host.py").write_text(HOST_TESTS)
    monkeypatch.setattr(gpu_day, "bench", lambda *_: None)
    code, summary = _call(tmp_path / "out", "right", "--tests", str(folder))
    assert code == 1
    assert summary["tests"] == {"passed": 6, "failed": 4, "skipped": 2}
    reasons = {row["name"].split("::")[1]: row["reason"] for row in summary["failed tests"]}
    assert set(reasons) == {"test_values_b", "test_values_c", "test_values_d", "test_values_g"}
    assert reasons["test_values_g"] == "it had not ended after 3 s"
    assert "one and one" in reasons["test_values_b"] and reasons["test_values_c"] == "its process died"
    assert set(summary["skipped tests"]) == {"needs two GPUs", "compiles the kernels for the host"}
    printed = capsys.readouterr().out
    assert "FAILED " in printed
    assert printed.index("test_it.py::test_values_b: AssertionError: one and one") < printed.index("tests: done")
    assert "one and one" in (tmp_path / "out" / "right.failures.txt").read_text()
    assert "test_values_d" in (tmp_path / "out" / "gpu-day-quick.md").read_text()


def test_the_order_of_the_gpu_tests() -> None:
    names = ["test_features_beyond_int32", "test_compiled", "test_values", "test_graphs_replay", "test_uint8"]
    ordered = sorted((f"test_it.py::{name}" for name in names), key=gpu_tests.rank)
    assert [name[12:] for name in ordered] == [names[i] for i in (2, 4, 3, 1, 0)]
    found = {file.relative_to(ROOT / "tests").as_posix() for file in gpu_tests.files(ROOT / "tests")}
    marked = {
        "gpu/test_values.py",
        "gpu/test_cuda.py",
        "gpu/test_resizer.py",
        "kernels/test_resample.py",
        "test_info.py",
    }
    assert marked <= found and not any(name.startswith("benchmarks/") for name in found)


def test_tests_are_cut_with_their_call(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text("import pytest, time\n@pytest.mark.gpu\ndef test_long(): time.sleep(60)\n")
    gpu_tests.run(_day(tmp_path, "right", 5), folder, 1)
    summary = _summary(tmp_path)
    assert _states(summary)["tests 1 of 1"] == "cut"
    assert summary["tests"] == {"cut": 1}


def test_launches_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = torch.autograd.DeviceType
    names = ["void stem_kernel<16>", "void stem_kernel<16>", "Memcpy HtoD (Pageable -> Device)", "Memset (Device)"]
    events = [SimpleNamespace(name=name, device_type=where.CUDA) for name in names]
    events.append(SimpleNamespace(name="cudaLaunchKernel", device_type=where.CPU))
    found = gpu_sections.counted(events, True)
    assert found == {"launches": 2, "copies": 2, "kernels": {"void stem_kernel<16>": 2}}
    day = _day(tmp_path, "right")
    day.device = "cuda"
    row = {"kind": "launches", "section": "launches", "name": "inference", "most": 1, **found}
    monkeypatch.setattr(gpu_day, "bench", lambda day, *_: day.add(row))
    monkeypatch.setattr(gpu_build, "keep", lambda _: None)
    monkeypatch.setattr(gpu_tests, "run", lambda *_: None)
    gpu_day.right(day, SimpleNamespace(tests=tmp_path))  # type: ignore[arg-type]
    assert day.failed == ["inference"] and day.finish() == 1
    assert "| inference | 2 | 1 | 2 |" in (tmp_path / "gpu-day-quick.md").read_text()


# --- profile ----------------------------------------------------------------------------------------------------------

# As `ncu --csv --page raw --print-units base` prints two launches.
NCU = """\
==PROF== Connected to process 4711 (/usr/bin/python3.12)
==PROF== Profiling "stem_backward_kernel" - 0: 0%....50%....100% - 9 passes
==PROF== Disconnected from process 4711
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"dram__bytes_read.sum","dram__bytes_write.sum","gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",\
"gpu__time_duration.sum","launch__registers_per_thread","sm__inst_issued.avg.pct_of_peak_sustained_active",\
"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active","sm__warps_active.avg.pct_of_peak_sustained_active",\
"smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_selected_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio"
"","","","","","","","","","","","byte","byte","%","ns","register/thread","%","%","%","inst","inst","inst","inst"
"0","4711","python3.12","127.0.0.1","void lr::stem_backward_kernel<lr::Tf32, (int)16>(lr::StemBackwardParams)","1","7",\
"(384, 1, 1)","(132, 1, 1)","0","9.0","77,070,336","1,048,576","12.50","1,280,000","168","31.25","n/a","18.5","0.75",\
"6.50","1.00","2.25"
"1","4711","python3.12","127.0.0.1","lr::sum_rows_kernel(lr::SumRowsParams)","1","7","(256, 1, 1)","(16, 1, 1)","0",\
"9.0","4,096","0","1.00","6,400","24","5","0","10","0","9","1","1"
"""
STUB_NCU = f"""\
import subprocess, sys
words = sys.argv[1:]
if "--metrics" in words and UNKNOWN:
    print("==ERROR== Failed to find metric dram__bytes_read.sum"); sys.exit(1)
at = next(i for i, word in enumerate(words) if "python" in word)
assert words[:2] == ["--profile-from-start", "off"] and "SpeedOfLight" in words
if RUNS:
    done = subprocess.run(words[at:])
    if done.returncode: sys.exit(done.returncode)
print({NCU!r})
"""


def test_counters_stand_beside_the_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub of ncu that runs the profiled program."""
    _tool(tmp_path / "bin", "ncu", f"RUNS, UNKNOWN = True, False\n{STUB_NCU}", monkeypatch)
    code, summary = _call(tmp_path / "out", "profile", "--targets", "stem_backward")
    assert code == 0, summary["parts"]
    row, reduction = summary["ncu"]
    assert row["target"] == reduction["target"] == "stem_backward"
    assert row["us"] == pytest.approx(1280) and row["dram_bytes"] == 78118912 and row["registers"] == 168
    assert row["occupancy_pct"] == 18.5 and row["issue_pct"] == 31.25 and row["tensor_pct"] is None
    assert row["stalls"] == [["long_scoreboard", 6.5], ["wait", 2.25], ["barrier", 0.75]]
    page = (tmp_path / "out" / "gpu-day-quick.md").read_text()
    # 1,286.4 µs of 64 images, both launches.
    assert "| stem_backward | 20.1 | 11.1 | 20–25 | dependent loads |" in page
    assert "`stem_backward_kernel`" in page and "predictions" in page
    assert (tmp_path / "out" / "profile.ncu.csv").read_text().count("sum_rows_kernel") == 1


def test_times_of_events_stand_beside_the_predictions_too(tmp_path: Path) -> None:
    """Where ncu gave nothing; only of the sizes that the model is for."""
    day = _day(tmp_path)
    numbers = {"low_ms": 1.0, "high_ms": 1.0, "bytes": 1, "bytes_per_s": 1.0, "flop": 1, "flop_per_s": 1.0}
    for name, sizes in (("conv", "64 × 448² → 224²"), ("head", "2 × 32² → 16²")):
        row = {"kind": "kernel", "section": "kernels", "name": name, "dtype": "bfloat16", "sizes": sizes, "ms": 0.128}
        day.add({**row, **numbers})
    day.finish()
    page = (tmp_path / "gpu-day-quick.md").read_text().split("## Beside the model")[1].split("## ")[0]
    assert "| conv | 2 | 1.0–1.4 | 1.6–2.2 | load latency |" in page and "head" not in page


def test_ncu_without_a_metric_is_asked_for_the_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tool(tmp_path / "bin", "ncu", f"RUNS, UNKNOWN = False, True\n{STUB_NCU}", monkeypatch)
    day = _day(tmp_path, "profile")
    assert gpu_ncu.profile(day, ["stem", "conv"])
    assert [row["target"] for row in day.mine() if row["kind"] == "ncu"] == ["stem", "stem", "conv", "conv"]
    assert not day.failed


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('==ERROR== ERR_NVGPUCTRPERM - The user does not have permission'); sys.exit(1)", "ERR_NVGPUCTRPERM"),
        ("print('==ERROR== The application returned an error code (11).'); sys.exit(11)", "no kernel in ncu's output"),
        (None, "ncu is not installed"),
    ],
    ids=["refuses", "fails", "missing"],
)
def test_kernels_are_timed_where_ncu_cannot(
    code: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code is None:
        monkeypatch.setattr(gpu_ncu.shutil, "which", lambda *_, **__: None)
    else:
        _tool(tmp_path / "bin", "ncu", f"import sys\n{code}\n", monkeypatch)
    timed = []
    monkeypatch.setattr(gpu_day, "bench", lambda day, sections, seconds: timed.append(sections))
    code_of_call, summary = _call(tmp_path / "out", "profile", "--targets", "stem")
    assert timed == [["kernels"]]
    assert any(reason in part["reason"] for part in summary["parts"])
    assert code_of_call == int("no kernel" in reason)


def test_a_line_for_each_metric_is_read_too() -> None:
    lines = ['"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"']
    lines.append('"0","stem","GPU Speed Of Light","gpu__time_duration.sum","us","1,205.00"')
    lines.append('"0","stem","Occupancy","sm__warps_active.avg.pct_of_peak_sustained_active","%","12.5"')
    lines.append('"1","sum","GPU Speed Of Light","gpu__time_duration.sum","ms","0.5"')
    rows = gpu_ncu.parse("==PROF== Connected\n" + "\n".join(lines))
    assert [(row["kernel"], row["us"], row["occupancy_pct"]) for row in rows] == [
        ("stem", 1205, 12.5),
        ("sum", 500, None),
    ]
    assert gpu_ncu.parse("==WARNING== No kernels were profiled.") == []


# --- sanitize ---------------------------------------------------------------------------------------------------------

SANITIZER = """\
import os, sys, time
name = sys.argv[sys.argv.index("--tool") + 1]
assert os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1" and sys.argv[-2:] == ["--device", "cpu"]
print(name, "began", time.time(), file=open(LOG, "a"))
time.sleep(1 if name != "racecheck" else 0)
print(name, "ended", time.time(), file=open(LOG, "a"))
print("========= ERROR SUMMARY:", int(name == "initcheck"), "errors")
sys.exit(99 if name == "initcheck" else 0)
"""


def test_racecheck_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    _tool(tmp_path / "bin", "compute-sanitizer", f"LOG = {str(log)!r}\n{SANITIZER}", monkeypatch)
    code, summary = _call(tmp_path / "out", "sanitize")
    assert code == 1
    states = _states(summary)
    assert {states[f"sanitize {name}"] for name in ("memcheck", "synccheck", "racecheck")} == {"done"}
    assert states["sanitize initcheck"] == "failed"
    times = {(words[0], words[1]): float(words[2]) for line in log.read_text().splitlines() if (words := line.split())}
    others = ("memcheck", "synccheck", "initcheck")
    assert max(times[name, "began"] for name in others) < min(times[name, "ended"] for name in others)
    assert times["racecheck", "began"] > max(times[name, "ended"] for name in others)


def test_the_sanitizer_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_day.shutil, "which", lambda *_, **__: None)
    code, summary = _call(tmp_path, "sanitize")
    assert code == 0 and summary["parts"][0]["reason"] == "compute-sanitizer is not installed"


def test_the_exerciser_runs_every_op() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "sanitize.py"), "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 20


# --- plan, options, races ---------------------------------------------------------------------------------------------


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
    day = _day(tmp_path)
    day.add({"kind": "record", "section": "resize", **record})
    assert day.finish() == 1
    assert "**resize forward" in (tmp_path / "gpu-day-quick.md").read_text()


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
