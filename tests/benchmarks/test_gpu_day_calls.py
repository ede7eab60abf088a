"""The calls `right`, `profile` and `sanitize` of `benchmarks.gpu.gpu_day`, with stubs of NVIDIA's tools."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.gpu_days import ROOT, call, new_day, page_in, put_tool, states, summary_in

# isort: split
from benchmarks.gpu import gpu_build, gpu_day, gpu_ncu, gpu_sections, gpu_tests

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
    code, summary = call(tmp_path / "out", "right", "--tests", str(folder))
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
    assert "test_values_d" in page_in(tmp_path / "out")


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
    gpu_tests.run(new_day(tmp_path, "right", 5), folder, 1)
    summary = summary_in(tmp_path)
    assert states(summary)["tests 1 of 1"] == "cut"
    assert summary["tests"] == {"cut": 1}


def test_launches_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = torch.autograd.DeviceType
    names = ["void stem_kernel<16>", "void stem_kernel<16>", "Memcpy HtoD (Pageable -> Device)", "Memset (Device)"]
    events = [SimpleNamespace(name=name, device_type=where.CUDA) for name in names]
    events.append(SimpleNamespace(name="cudaLaunchKernel", device_type=where.CPU))
    found = gpu_sections.counted(events, True)
    assert found == {"launches": 2, "copies": 2, "kernels": {"void stem_kernel<16>": 2}}
    day = new_day(tmp_path, "right")
    day.device = "cuda"
    row = {"kind": "launches", "section": "launches", "name": "inference", "most": 1, **found}
    monkeypatch.setattr(gpu_day, "bench", lambda day, *_: day.add(row))
    monkeypatch.setattr(gpu_build, "keep", lambda _: None)
    monkeypatch.setattr(gpu_tests, "run", lambda *_: None)
    gpu_day.right(day, SimpleNamespace(tests=tmp_path))  # type: ignore[arg-type]
    assert day.failed == ["inference"] and day.finish() == 1
    assert "| inference | 2 | 1 | 2 |" in page_in(tmp_path)


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
    put_tool(tmp_path / "bin", "ncu", f"RUNS, UNKNOWN = True, False\n{STUB_NCU}", monkeypatch)
    code, summary = call(tmp_path / "out", "profile", "--targets", "stem_backward")
    assert code == 0, summary["parts"]
    row, reduction = summary["ncu"]
    assert row["target"] == reduction["target"] == "stem_backward"
    assert row["us"] == pytest.approx(1280) and row["dram_bytes"] == 78118912 and row["registers"] == 168
    assert row["occupancy_pct"] == 18.5 and row["issue_pct"] == 31.25 and row["tensor_pct"] is None
    assert row["stalls"] == [["long_scoreboard", 6.5], ["wait", 2.25], ["barrier", 0.75]]
    page = page_in(tmp_path / "out")
    # 1,286.4 µs of 64 images, both launches.
    roof, latency, binds = gpu_ncu.predictions()["stem_backward"]
    assert float(roof) < float(latency)
    assert f"| stem_backward | {binds} | 20.1 | {roof} | {latency} |" in page
    assert "`stem_backward_kernel`" in page and "predicted" in page
    assert (tmp_path / "out" / "profile.ncu.csv").read_text().count("sum_rows_kernel") == 1


def test_times_of_events_stand_beside_the_predictions_too(tmp_path: Path) -> None:
    """Where ncu gave nothing; only of the sizes that the model is for."""
    day = new_day(tmp_path)
    numbers = {"low_ms": 1.0, "high_ms": 1.0, "bytes": 1, "bytes_per_s": 1.0, "flop": 1, "flop_per_s": 1.0}
    for name, sizes in (("conv", "64 × 448² → 224²"), ("head", "2 × 32² → 16²")):
        row = {"kind": "kernel", "section": "kernels", "name": name, "dtype": "bfloat16", "sizes": sizes, "ms": 0.128}
        day.add({**row, **numbers})
    day.finish()
    page = page_in(tmp_path).split("## Beside the model")[1].split("## ")[0]
    roof, latency, binds = gpu_ncu.predictions()["conv"]
    assert f"| conv | {binds} | 2 | {roof} | {latency} |" in page and "head" not in page


def test_ncu_without_a_metric_is_asked_for_the_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tool(tmp_path / "bin", "ncu", f"RUNS, UNKNOWN = False, True\n{STUB_NCU}", monkeypatch)
    day = new_day(tmp_path, "profile")
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
        put_tool(tmp_path / "bin", "ncu", f"import sys\n{code}\n", monkeypatch)
    timed = []
    monkeypatch.setattr(gpu_day, "bench", lambda day, sections, seconds: timed.append(sections))
    code_of_call, summary = call(tmp_path / "out", "profile", "--targets", "stem")
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
    put_tool(tmp_path / "bin", "compute-sanitizer", f"LOG = {str(log)!r}\n{SANITIZER}", monkeypatch)
    code, summary = call(tmp_path / "out", "sanitize")
    assert code == 1
    found = states(summary)
    assert {found[f"sanitize {name}"] for name in ("memcheck", "synccheck", "racecheck")} == {"done"}
    assert found["sanitize initcheck"] == "failed"
    times = {(words[0], words[1]): float(words[2]) for line in log.read_text().splitlines() if (words := line.split())}
    others = ("memcheck", "synccheck", "initcheck")
    assert max(times[name, "began"] for name in others) < min(times[name, "ended"] for name in others)
    assert times["racecheck", "began"] > max(times[name, "ended"] for name in others)


def test_the_sanitizer_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_day.shutil, "which", lambda *_, **__: None)
    code, summary = call(tmp_path, "sanitize")
    assert code == 0 and summary["parts"][0]["reason"] == "compute-sanitizer is not installed"


def test_the_exerciser_runs_every_op() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "sanitize.py"), "--device", "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) > 20
