"""Waiting of OpenMP's threads: set before torch loads, and never over the user's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import learned_resizer_cuda
from benchmarks.cpu import busy, main_job
from learned_resizer_cuda import waiting
from learned_resizer_cuda.waiting import SETTINGS, SPIN_COUNT

HOME = Path(learned_resizer_cuda.__file__).parent.parent

_ASK = """
import os, sys
sys.argv = {argv!r}
sys.orig_argv = {argv!r}
{before}
import learned_resizer_cuda
print(os.environ.get("GOMP_SPINCOUNT"))
"""


def _spin_count(argv: list[str], before: str = "", **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    # On request, libgomp prints its settings when it is loaded
    inherited |= {"OMP_DISPLAY_ENV": "verbose"} | environment
    done = subprocess.run(
        [sys.executable, "-c", _ASK.format(argv=argv, before=before)],
        cwd=HOME, env=inherited, capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if shown and done.stdout.strip() != "None":
        assert f"'{done.stdout.strip()}'" in shown[0], "set too late: libgomp has read another value"
    return done.stdout.strip()


COMMANDS = [["/usr/bin/learned-resizer", "info"], ["-m", "learned_resizer_cuda", "info"]]


@pytest.mark.parametrize("argv", COMMANDS, ids=["script", "module"])
def test_command_sets_it_before_torch_loads(argv: list[str]) -> None:
    assert _spin_count(argv) == str(SPIN_COUNT)


@pytest.mark.parametrize("argv", [["train.py"], ["-c"], ["-m", "pytest", "learned-resizer"], [""]])
def test_other_programs_are_left_alone(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", ["python", *argv])
    assert not waiting.is_command()


def test_import_sets_nothing() -> None:
    assert _spin_count(["train.py"]) == "None"


def test_nothing_is_set_once_torch_is_loaded() -> None:
    assert _spin_count(COMMANDS[0], before="import torch") == "None"


@pytest.mark.parametrize("name", SETTINGS)
def test_users_own_setting_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in SETTINGS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(waiting, "sys", SimpleNamespace(modules={}))
    monkeypatch.setenv(name, "0")
    assert not waiting.limit_spinning()
    assert {n: os.environ.get(n) for n in SETTINGS} == {n: "0" if n == name else None for n in SETTINGS}


def test_tests_wait_alike() -> None:
    assert any(name in os.environ for name in SETTINGS)


def test_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 3.0, 2.0, 5.0, 9.0, 4.0])
    monkeypatch.setattr(busy, "stages", lambda environment, steps: dict.fromkeys(busy.ARMS, next(seconds)))
    rows = busy.measure(["command"], 1, 3)
    assert [(row["arm"], row["idle_s"], row["busy_s"], row["factor"]) for row in rows] == [
        (arm, 2.0, 4.0, 2.0) for arm in busy.ARMS
    ]


@pytest.mark.slow
def test_benchmark_tells_the_factor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "busy.json"
    assert busy.main(["--steps", "2", "--rounds", "1", "--settings", "command", "--output", str(path)]) == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["busy"]
    assert [row["arm"] for row in rows] == list(busy.ARMS) and all(row["busy_s"] > 0 for row in rows)
    assert "×" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        busy.main(["--settings", "fast"])


@pytest.mark.parametrize("spoiled", ["nothing", "figures", "weights"])
def test_main_job_compares_its_runs(spoiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[Sequence[str]] = []

    def timed(folder: Path, arguments: Sequence[str]) -> float:
        words.append(arguments)
        number = len(words)
        folder.mkdir()
        loss, weight = (0.5 if spoiled == what and number == 4 else 0.25 for what in ("figures", "weights"))
        (folder / "metrics.csv").write_text(f"loss,wall_seconds\n{loss},{number}\n", encoding="utf-8")
        save_file({"weight": torch.tensor([weight])}, folder / "resizer.safetensors", {"call": "of" * number})
        return float(number)

    monkeypatch.setattr(main_job, "timed", timed)
    output = tmp_path / "main-job.json"
    if spoiled != "nothing":
        with pytest.raises(RuntimeError, match="jobs 1, busy: other figures or weights"):
            main_job.main(["--output", str(output)])
        assert not output.exists()
        return
    assert main_job.main(["--steps", "4", "--output", str(output)]) == 0
    assert words == [["--steps", "4"]] * 2 + [["--steps", "4", "--jobs", "1"]] * 2
    rows = json.loads(output.read_text(encoding="utf-8"))["main_job"]
    assert rows == [{"jobs": "default", "idle_s": 1.0, "busy_s": 2.0}, {"jobs": "1", "idle_s": 3.0, "busy_s": 4.0}]
