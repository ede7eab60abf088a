"""Stages side by side: the results of one after the other, whatever ends a process."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import psutil
from safetensors.torch import load_file

import learned_resizer_cuda
from learned_resizer_cuda.train import server
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.limits import processors, shares
from learned_resizer_cuda.train.protocol import plan, widest
from tests.helpers.failures import command
from tests.helpers.photo_folders import class_folder

SHORT = (
    *("--model", "small_cnn", "--size", 6, "--input-size", 12, "--num-filters", 4, "--steps", 90, "--batch-size", 4),
    *("--evaluations", 1, "--checkpoint-steps", 3, "--accelerator", "cpu", "--recalibration-batches", 2),
    *("--arms", "learned,control"),
)
ARMS = ("learned", "control")
"""Those that start from the baseline, and so can train at a time."""
TIMES = ("cpu_seconds", "wall_seconds")
IMPORTED_LATE = "/scipy/"
"""In the paths of libraries that a server loads in the middle of its imports, by Lightning's torchmetrics."""
needs_forks = pytest.mark.skipif(not server.FORKS, reason="here each worker imports for itself")
HOME = Path(learned_resizer_cuda.__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME)}
COMMAND = """
import sys
from learned_resizer_cuda.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = class_folder(tmp_path_factory.mktemp("images"), train=6, val=3)
    (root / "train/bee/2.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the others must equal, one stage after the other."""
    folder = tmp_path_factory.mktemp("run") / "alone"
    code, printed = finish(start(data, folder, "--jobs", 1))
    assert code == 0, printed
    return folder


def start(data: Path, folder: Path, *more: object) -> subprocess.Popen[str]:
    """The command, called in a folder from which nothing may be imported."""
    words = ("train", "--data", data, *SHORT, "--output", folder, *more)
    script, trap = data / "command.py", data / "trap"
    script.write_text(COMMAND, encoding="utf-8")
    trap.mkdir(exist_ok=True)
    (trap / "learned_resizer_cuda.py").write_text("raise SystemExit('imported from here')", encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, script, *map(str, words)],
        cwd=trap,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def same(folder: Path, other: Path) -> bool:
    """Whether two runs have the same figures and weights, to the bit."""
    weights = [path.relative_to(folder) for path in sorted(folder.rglob("*.safetensors"))]
    assert len(weights) == 5  # three networks, a resizer, and its copy
    equal = rows(folder) == rows(other)
    for path in weights:
        mine, its = load_file(folder / path), load_file(other / path)
        equal &= mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    return equal


def server_of(process: subprocess.Popen[str]) -> psutil.Process | None:
    """The process that has imported what workers need, and that they are forks of."""
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "forkserver" in " ".join(child.cmdline()):
                return child
    return None


def has_imported(process: psutil.Process) -> bool:
    """Whether a process has imported most of what workers need; False of one that has ended."""
    with contextlib.suppress(OSError):
        return IMPORTED_LATE in Path(f"/proc/{process.pid}/maps").read_text()
    return False


def wait_for_two(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Until both stages that start from the baseline have written so many more checkpoints."""
    paths = [folder / f"stages/{arm}-12-seed0/last.ckpt" for arm in ARMS]
    seen: list[set[int]] = [{_time(path)} for path in paths]
    latest = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < latest:
        for path, times in zip(paths, seen, strict=True):
            times.add(_time(path))
        if all(len(times) > count for times in seen):
            return
        time.sleep(0.001)
    process.kill()
    pytest.fail(f"never trained two stages at a time: {process.communicate()[0]}")


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_two_jobs_give_the_results_of_one(data: Path, alone: Path, tmp_path: Path) -> None:
    code, printed = finish(start(data, tmp_path / "run", "--jobs", 2))
    assert code == 0, printed
    assert same(tmp_path / "run", alone)
    lines = printed.splitlines()
    began, ended = (
        [next(n for n, line in enumerate(lines) if f"{arm} 12, seed 0: {what}" in line) for arm in ARMS]
        for what in ("starts", "ends")
    )
    assert max(began) < min(ended)
    # Counted once, though three stages meet it in two processes
    listed = (tmp_path / "run/unreadable.tsv").read_text().splitlines()
    assert len(listed) == 1 and "bee/2.png" in listed[0]


@pytest.mark.usefixtures("signals_count")
@needs_forks
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_server_ends_with_the_command_also_while_it_imports(
    sent: signal.Signals, data: Path, tmp_path: Path
) -> None:
    process = start(data, tmp_path / "run", "--jobs", 2)
    latest = time.monotonic() + 60
    while (parent := server_of(process)) is None:
        assert process.poll() is None and time.monotonic() < latest
        time.sleep(0.01)
    os.kill(process.pid, sent)
    while process.poll() is None and time.monotonic() < latest:
        assert not has_imported(parent)
        time.sleep(0.01)
    assert not parent.is_running()
    code, printed = finish(process)
    assert code == 128 + sent and "learned-resizer train: stopped by" in printed, printed


@pytest.mark.slow
@needs_forks
def test_two_stages_resume_together(data: Path, alone: Path, tmp_path: Path) -> None:
    """Ended three times in the middle of two stages, the run ends as an undisturbed one."""
    folder = tmp_path / "run"
    for victim in ("worker", "first", "interrupt"):
        process = start(data, folder, "--jobs", 2)
        wait_for_two(process, folder, 3)
        parent = server_of(process)
        assert parent is not None
        assert has_imported(parent)
        workers = parent.children()
        assert len(workers) == 2
        if victim == "worker":
            workers[0].kill()
        elif victim == "first":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
        code, printed = finish(process)
        assert not psutil.wait_procs([parent, *workers], timeout=10)[1]  # none goes on writing into the folder
        if victim == "worker":
            assert code == 1 and "its process ended (by SIGKILL)" in printed and "the same command resumes" in printed
        if victim == "interrupt":
            assert code == 130 and "stopped by Ctrl-C; the same command resumes from here" in printed
        assert not (folder / "summary.json").exists()
    code, printed = finish(start(data, folder, "--jobs", 2))
    assert code == 0 and "bilinear 12, seed 0: already complete" in printed, printed
    assert same(folder, alone)


def test_an_error_of_one_stage_ends_the_run_in_its_words(data: Path, tmp_path: Path) -> None:
    more = ("--resizer-learning-rate", 1e30, "--optimizer", "sgd", "--max-unreadable", 3)
    code, printed = command("train", "--data", data, *SHORT, "--output", tmp_path / "run", "--jobs", 2, *more)
    assert code == 1 and "learned-12-seed0: the training loss is" in printed and "Traceback" not in printed, printed
    assert (tmp_path / "run/stages/bilinear-12-seed0/result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False])
def test_unreadable_images_are_limited_in_all_stages_together(
    forks: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not forks:  # as on other systems
        monkeypatch.setattr(server, "FORKS", False)
    more = ("--jobs", 2, "--arms", "bilinear,bicubic", "--max-unreadable", 0)
    code, printed = command("train", "--data", data, *SHORT, "--output", tmp_path / "run", *more)
    assert code == 1 and "1 images could not be read, more than the limit of 0" in printed, printed
    assert "all are listed in" in printed and "Traceback" not in printed


def stages(**values: Any) -> list[Any]:
    return plan(RunConfig.make({"data": "digits", **values}), lambda _: 1.0)


def test_threads_follow_from_the_plan_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    main = stages()
    assert widest(main) == 5  # bicubic, and the four that start from bilinear
    assert widest(stages(seeds=2)) == 10 and widest(stages(arms=("bilinear",))) == 1 and widest([]) == 0
    assert widest([stage for stage in main if stage.arm != "bilinear"]) == 5
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("learned_resizer_cuda.train.limits.processors", lambda: 64)
    config = RunConfig.make({"accelerator": "cpu"})
    assert shares(config, main) == (5, 12)
    assert shares(RunConfig.make({"accelerator": "cpu", "jobs": 1}), main) == (1, 12)
    assert shares(config, stages(arms=("bilinear",))) == (1, 64)
    for cores, jobs in ((1, 1), (2, 3), (4, 5), (5, 5)):  # one more than the cores, if there are so many stages
        monkeypatch.setattr("learned_resizer_cuda.train.limits.processors", lambda cores=cores: cores)
        assert shares(config, main) == (jobs, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert shares(config, main)[1] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--jobs", 0), "jobs: got 0; expected at least 1"),
        (("--jobs", 2, "--devices", 2), "jobs: got 2; expected 1 with several devices or nodes"),
        (("--jobs", 10**6), f"jobs: got 1000000; expected at most {4 * processors()}, 4 for each of the"),
    ],
)
def test_bad_numbers_of_jobs(data: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    code, printed = command("train", "--data", data, *SHORT, "--output", tmp_path / "run", *words)
    assert code == 2 and message in printed, printed
