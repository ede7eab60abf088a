"""The benchmarks' own parts: the race, the report's arithmetic, the README's tables, the memory measurement."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks" / "report.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from benchmarks import bars, memory, race, readme, report  # noqa: E402
from benchmarks.cases import OURS, Case  # noqa: E402

RESIZE = Case("resize", "forward", "bilinear", True, "float32", "NCHW", 8, 448, 224)
RESIZER = Case("FusedResizer", "train step", "bilinear", True, "float32", "NCHW", 8, 448, 224)
FIXED = Case("resample_fixed", "forward", "lanczos", True, "uint8", "channels_last", 1, 1200, 224, in_width=1600)
CHANNELS_LAST, NCHW = "reference, channels_last", "reference, NCHW"


def record(case: Case, seconds: dict[str, list[float]], memory: dict[str, int] | None = None) -> dict[str, Any]:
    peers = [name for name in seconds if name != OURS]
    return {
        "case": asdict(case),
        "seconds": seconds,
        "difference": dict.fromkeys(peers, 1e-7),
        "bound": dict.fromkeys(peers, 1e-5),
        "skipped": {"kornia": "has no lanczos"},
        "memory": memory or {},
        "device": "cpu",
    }


@pytest.fixture
def results() -> dict[str, Any]:
    """The part of pytest-benchmark's file that the report reads."""
    records = [
        # Ours takes 10, 20, 10 ms and the peer twice, as long, four times as long: the middle ratio is 2.
        record(RESIZE, {OURS: [0.01, 0.02, 0.01], "F.interpolate": [0.02, 0.02, 0.04]}),
        record(
            RESIZER,
            {OURS: [1.0], CHANNELS_LAST: [1.2], NCHW: [2.0]},
            {OURS: 300 * report.MIB, CHANNELS_LAST: 600 * report.MIB, NCHW: 1200 * report.MIB},
        ),
    ]
    return {
        "machine_info": {
            "node": "a-private-host-name",
            "system": "Linux",
            "machine": "x86_64",
            "python_version": "3.11.7",
            "threads": 2,
            "device_type": "cpu",
            "device_name": "A Processor, 2 cores",
            "versions": {"torch": "2.9.0", "kornia": None},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-01-02T03:04:05+00:00",
        "benchmarks": [{"extra_info": r} for r in records] + [{"extra_info": {}}],
    }


def test_ratios_are_paired_medians(results: dict[str, Any]) -> None:
    (row,) = report.rows_of(results["benchmarks"][0]["extra_info"])
    assert (row["ratio"], row["low"], row["high"]) == pytest.approx((2.0, 1.5, 3.0))
    assert (row["ours_ms"], row["peer_ms"]) == pytest.approx((10.0, 20.0))
    assert row["bar"] == 0.95
    assert row["met"] is True


def test_a_missed_bar_is_told(results: dict[str, Any]) -> None:
    summary = report.summarise(results)
    page = report.markdown(summary)
    # 1.2 < 1.3 in time and 0.5 > 1/3 in memory against channels_last; 2.0 ≥ 1.5 and 0.25 ≤ 1/3 against NCHW.
    assert "3 of 5 bars are met." in page
    assert page.count("- not met:") == 2
    assert [row["met"] for row in summary["memory"]] == [False, True]


def test_no_bar_for_other_cases() -> None:
    case = dict(results_case(RESIZE), dtype="uint8")
    assert bars.time_bar(results_case(RESIZE), "F.interpolate", "cpu") == 0.95
    assert bars.time_bar(case, "F.interpolate", "cpu") is None
    assert bars.time_bar(results_case(RESIZE), "F.interpolate", "cuda") is None
    assert bars.memory_bar(results_case(RESIZER), "Pillow", "cpu") is None


def results_case(case: Case) -> dict[str, Any]:
    return record(case, {})["case"]


def test_every_bar_belongs_to_a_benchmark() -> None:
    """A renamed peer or direction would silently lose its bar."""
    sources = "".join((ROOT / "benchmarks" / name).read_text() for name in ("peers.py", "cpu/bench_resizer.py"))
    sources += (ROOT / "benchmarks" / "cpu" / "bench_resample.py").read_text()
    for _, op, direction, peer in bars.TIME:
        assert all(f'"{name}"' in sources or name == "FusedResizer" for name in (op, direction, peer))
    for _, _, peer in bars.MEMORY:
        assert f'"{peer}"' in sources


def test_report_writes_page_rows_and_plot(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results))
    assert report.main([str(source), "-o", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "cpu.md").read_text()
    assert capsys.readouterr().out.strip() == page.strip()
    assert "A Processor, 2 cores, 2 threads" in page
    assert "commit 0123456789 with changes, 2026-01-02" in page
    assert "kornia: has no lanczos" in page
    assert (tmp_path / "out" / "cpu.png").read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "out" / "cpu.json").read_text()
    assert "private-host" not in page + rows


def test_report_names_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("not json", "{}", '{"benchmarks": []}'):
        source = tmp_path / "results.json"
        source.write_text(content)
        assert report.main([str(source), "-o", str(tmp_path / "out")]) == 2
        assert str(source) in capsys.readouterr().err
    assert report.main([str(tmp_path / "missing.json"), "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


TRAIN = {
    "config": {"seeds": 2, "model": "small_cnn", "batch_size": 64},
    "environment": {"device": "cpu", "machine": "x86_64", "threads": 2, "torch": "2.9.0", "date": "2026-11-25"},
    "tables": [
        {
            "caption": "",
            "header": ["resizer", "steps", "test accuracy, %"],
            "rows": [["control-long", "2,000", "77.8 ± 0.3"], ["learned", "400", "87.7 ± 0.9"]],
            "bold": [1],
        }
    ],
    "gaps": [{"sentence": "learned − control-long: +9.9 points: learned wins"}],
}


def test_readme_is_filled_and_checked(results: dict[str, Any], tmp_path: Path) -> None:
    results["benchmarks"].append({"extra_info": record(FIXED, {OURS: [2.0], "F.interpolate": [0.2], "Pillow": [1.0]})})
    (tmp_path / "cpu.json").write_text(json.dumps(report.summarise(results)))
    (tmp_path / "train.json").write_text(json.dumps(TRAIN))
    page = tmp_path / "README.md"
    marks = "".join(f"{name}\n<!-- table:{name} -->\nold\n<!-- /table -->\n" for name in ("cpu", "train", "gpu"))
    page.write_text(marks + "end\n")
    options = ["--pages", str(page), "--results", str(tmp_path)]
    assert readme.main([*options, "--check"]) == 1
    assert readme.main(options) == 0
    assert readme.main([*options, "--check"]) == 0
    text = page.read_text()
    assert "| bilinear, forward | 2.00× |  |  |" in text
    assert "| train step | 1.20× | 2.00× |" in text
    assert "| lanczos, 1 × 1200×1600 → 224² | 0.50× |  |" in text
    assert "| peak memory of a train step | 0.50 (300 of 600 MiB) | 0.25 (300 of 1200 MiB) |" in text
    assert "|---|---:|---:|\n| control-long | 2,000 | 77.8 ± 0.3 |\n| **learned** | **400** | **87.7 ± 0.9** |" in text
    assert "- learned − control-long: +9.9 points: learned wins" in text
    assert "2 seeds, mean ± standard deviation; `small_cnn`, batch 64. Measured on cpu (x86_64), 2 threads" in text
    assert text.endswith("gpu\n<!-- table:gpu -->\nNot measured yet.\n<!-- /table -->\nend\n")
    assert "old" not in text


def test_readme_refuses_what_is_no_results_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- table:cpu -->\nold\n<!-- /table -->\n")
    (tmp_path / "cpu.json").write_text("{}")
    assert readme.main(["--pages", str(page), "--results", str(tmp_path)]) == 2
    assert "cpu.json" in capsys.readouterr().err
    page.write_text("no marks")
    assert readme.main(["--pages", str(page), "--results", str(tmp_path)]) == 2
    assert page.read_text() == "no marks"


def test_the_readme_is_what_the_results_say() -> None:
    assert readme.main(["--check"]) == 0


class Benchmark:
    """The part of pytest-benchmark's fixture that a race uses."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group = ""

    def pedantic(self, target: Any, setup: Any, rounds: int) -> None:
        for _ in range(rounds):
            setup()
            target()


def entry(name: str, value: float, order: list[str], bound: float = 0.0) -> race.Entry:
    def run() -> torch.Tensor:
        order.append(name)
        return torch.full((3,), value)

    return race.Entry(name, run, lambda result: [result], bound)


def test_race_alternates_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "RECORDS", [])
    order: list[str] = []
    benchmark = Benchmark()
    peers = [entry("a", 1.0, order), race.Skipped("b", "cannot"), entry("c", 1.001, order, bound=2e-3)]
    race.race(benchmark, RESIZE, entry(OURS, 1.0, order), peers, device=torch.device("cpu"), rounds=3)
    rounds = 3 * ["a", "c", OURS]
    assert order == [OURS, "a", "c", *rounds]
    info = copy.deepcopy(benchmark.extra_info)
    assert json.loads(json.dumps(info)) == info
    assert {name: len(times) for name, times in info["seconds"].items()} == {OURS: 3, "a": 3, "c": 3}
    assert info["skipped"] == {"b": "cannot"}
    assert info["difference"]["c"] == pytest.approx(1e-3, rel=1e-2)
    assert [row["peer"] for row in report.rows_of(info)] == ["a", "c"]
    assert [info] == race.RECORDS


def test_race_does_not_time_what_disagrees() -> None:
    order: list[str] = []
    with pytest.raises(AssertionError, match=r"c differs from ours by 0\.2, more than 0\.1"):
        race.race(
            Benchmark(),
            RESIZE,
            entry(OURS, 1.0, order),
            [entry("c", 1.25, order, bound=0.1)],
            device=torch.device("cpu"),
            rounds=3,
        )
    assert order == [OURS, "c"]


def test_difference_is_relative_or_in_levels() -> None:
    ours, theirs = torch.tensor([4.0, -9.0]), torch.tensor([5.0, -10.0])
    assert race.largest_difference([ours], [theirs]) == pytest.approx(0.1)
    levels = (torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([2, 255], dtype=torch.uint8))
    assert race.largest_difference([levels[0]], [levels[1]]) == 2.0
    with pytest.raises(AssertionError, match="shapes"):
        race.largest_difference([ours], [theirs[:1]])
    assert race.largest_difference([torch.tensor([float("nan")])], [theirs[:1]]) == float("inf")
    assert race.largest_difference([torch.zeros(2)], [torch.zeros(2)]) == 0.0


@pytest.mark.skipif(not memory.available(torch.device("cpu")), reason="needs Linux's /proc/self/clear_refs")
def test_peak_memory_of_a_known_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference keeps at least the maps that its backward reads; ours omits the three largest."""
    # A setting of glibc: every tensor in its own mapping, so that the peak counts live tensors only. On its heap the
    # figure varies by 17 MiB between processes.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**18))
    sizes = {"batch": 8, "in_size": 256, "out_size": 64, "device": torch.device("cpu")}
    feature_map = 8 * 16 * 256 * 256 * 4
    reference = memory.peak_in_subprocess("reference", "NCHW", **sizes)
    fused = memory.peak_in_subprocess("fused", "NCHW", **sizes)
    assert reference >= 3 * feature_map
    assert fused < reference - 3 * feature_map
