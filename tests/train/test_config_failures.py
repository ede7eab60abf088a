"""Hostile and impossible configurations: one-line errors before a process is started or memory is allocated."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import torch
import yaml

from learned_resizer_cuda.train import limits
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.config_file import LARGEST, read_yaml
from learned_resizer_cuda.train.jobs import train_stages
from learned_resizer_cuda.train.run import Run
from tests.helpers.failures import Case, Outcome, command, names
from tests.helpers.photo_folders import class_folder

MEMORY = 4 << 30
"""Bytes that a case may allocate before it fails, so that the machine does not."""


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Forbids new processes in the body, and limits its memory."""

    def start(*arguments: object, **options: object) -> None:
        raise AssertionError("a process was started")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    former = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, former[1]))
    try:
        with patch("multiprocessing.process.BaseProcess.start", start), patch("subprocess.Popen.__init__", start):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


def _run(folder: Path, text: str, name: str, *arguments: object) -> Outcome:
    (folder / "x.yaml").write_text(text)
    before = names(folder)
    with harmless():
        code, printed = command(name, "--config", folder / "x.yaml", "--output", folder / "run", *arguments)
    # At most what would run, and why it cannot
    assert len(printed) < 1000 and printed.count("\n") < 2, printed
    return Outcome(code, printed.splitlines()[-1], "nothing" if names(folder) == before else str(names(folder)))


def of_file(text: str, name: str = "train") -> Callable[[Path], Outcome]:
    """Runs the command on a configuration file of that text."""
    return lambda folder: _run(folder, text, name)


def of_data(values: dict[str, Any]) -> Callable[[Path], Outcome]:
    """Like ``of_file``, on 10 training images: 5 steps an epoch."""

    def act(folder: Path) -> Outcome:
        sizes = {"model": "small_cnn", "size": 8, "input_size": 16, "batch_size": 2, "schedule": "constant"}
        return _run(folder, yaml.safe_dump(sizes | values), "train", "--data", class_folder(folder / "data"))

    return act


def refused(what: str, act: Callable[[Path], Outcome], answer: str) -> Case:
    return Case(what, act, 2, f": {answer}", "nothing")


ALIASES = f"seed: [&a0 [x, x], {', '.join(f'&a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 24))}]"
MERGED = f"seed: [&a0 {{x: 1}}, {', '.join(f'&a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}' for i in range(1, 24))}]"

NOT_OPTIONS = "config: FOLDER/x.yaml is not a YAML file of options: "

CASES: Sequence[Case] = [
    refused("100,000 workers", of_file("num_workers: 100000"), "num_workers: got 100000 for each of 1 devices"),
    refused(
        "100,000 processes",
        of_file("devices: 100000\nbatch_size: 100000\naccelerator: cpu"),
        "devices: got 100000; expected at most",
    ),
    refused("a seed of 65 bits", of_file(f"seed: {2**64}"), f"seed: got {2**64}; expected at most {2**64 - 1}"),
    refused(
        "a last seed of 65 bits",
        of_file(f"seed: {2**64 - 1}\nseeds: 2"),
        "seeds: got 2; expected the last seed, from seed 1844674407",
    ),
    refused("10¹² seeds", of_file("seeds: 1000000000000"), "seeds: got 1000000000000, which make"),
    refused(
        "160,000 resizers",
        of_file(f"num_filters: {[*range(1, 401)]}\nnum_blocks: {[*range(400)]}", "ablate"),
        "num_filters: got 400, which make 160,000 trainings",
    ),
    refused(
        "101 input sizes",
        of_file(f"input_size: {[*range(96, 197)]}"),
        "input_size: got 96, 97, 98, 99, 100, 101, 102, 103 and 93 more; expected at most 100 sizes",
    ),
    refused("10¹² steps", of_file("steps: 1000000000000"), "steps: got 1000000000000; expected at most 1000000000"),
    refused(
        "10³⁰⁰ epochs", of_data({"epochs": 1e300}), "epochs: got 1e+300, which makes 5e+300 steps; expected at most"
    ),
    refused(
        "10³⁰⁰ epochs of a baseline", of_data({"baseline_epochs": 1e300}), "baseline_epochs: got 1e+300, which makes"
    ),
    refused(
        "a control that is 10⁹ times as long",
        of_data({"long_factor": 10**9, "arms": ["control-long"]}),
        "long_factor: got 1000000000, which makes 1.5e+11 steps",
    ),
    refused(
        "10⁸ tests",
        of_data({"evaluations": 10**8, "steps": 10**9}),
        "evaluations: got 100000000, which makes 100,000,000 passes",
    ),
    refused("10⁸ epochs, each tested", of_data({"epochs": 1e8}), "epochs: got 100000000.0, which makes 100,000,000 p"),
    refused(
        "10⁹ checkpoints",
        of_data({"checkpoint_steps": 1, "evaluations": 1, "steps": 10**9}),
        "checkpoint_steps: got 1 for 1,000,000,000 steps; expected at least 10000",
    ),
    refused(
        "a learning rate that overflows",
        of_data({"schedule": "decay", "decay": 2.0, "decay_epochs": 0.001}),
        "decay_epochs: got 0.001 with the factor 2.0, to the power 3e+04",
    ),
    refused("images of 10⁶×10⁶", of_file("input_size: 1000000"), "input_size: got 1000000; 64 images of 1000000×"),
    refused("a batch of 10¹² images", of_file("batch_size: 1000000000000"), "batch_size: got 1000000000000; 10000000"),
    refused(
        "4,096 filters in 4,096 blocks",
        of_file("num_filters: 4096\nnum_blocks: 4096"),
        "num_filters: got 4096 with 4096 blocks, whose weights take 18,",
    ),
    refused("4,097 filters", of_file("num_filters: 4097"), "num_filters: got 4097; expected at most 4096"),
    refused("aliases that stand for 2²⁴ values", of_file(ALIASES), NOT_OPTIONS),
    refused("aliases that are merged", of_file(MERGED), NOT_OPTIONS),
    refused("a file of 2 MiB", of_file("#" * 2**21), "config: FOLDER/x.yaml has more than 65,536 bytes"),
    refused("60,000 levels", of_file("seed: " + "[" * 60_000), NOT_OPTIONS),
    refused("a number of 60,000 digits", of_file("seed: " + "9" * 60_000), NOT_OPTIONS),
    refused("the same in hexadecimal", of_file("seed: 0x" + "f" * 60_000), "seed: got an integer of more than 4,300 d"),
    refused("5,000 unknown names", of_file("".join(f"k{i}: 1\n" for i in range(5000))), "config: got unknown k0, k1,"),
    refused("a value of 60,000 letters", of_file(f"loss: {'x' * 60_000}"), "loss: got 'xxxx"),
    refused("names that are not text", of_file("1: 2\nnull: 3\nb: 4"), "config: got unknown 1, None, b; expected"),
    refused("what Python would execute", of_file("seed: !!python/object/apply:os.getpid []"), "config: FOLDER/x"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


HOSTILE = [
    -1, 2**64, 16**60_000, -(16**60_000), 1e308, float("nan"), True, "", "x" * 10**6, "\x1b]0;x\x07", b"x", None,
    ["x"] * 10**5, [[]] * 3, {"a": {}}, [16**60_000], {1, 2}, [None], 10**400, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", [entry.name for entry in fields(RunConfig)])
def test_errors_are_short_and_name_the_field(name: str) -> None:
    wrong = 0
    for value in HOSTILE:
        for task in ("classification", "iqa"):
            try:
                RunConfig.make({"task": task} | {name: value})
            except (TypeError, ValueError) as error:
                wrong += 1
                told = str(error)
                assert ": got " in told and len(told) < 500, told
                assert told.isprintable(), told
    assert wrong > len(HOSTILE)


def test_a_large_machine_may_do_what_it_can() -> None:
    """ImageNet at 448 pixels on 64 GPUs of 8 nodes, which a laptop refuses."""
    values = {"batch_size": 4096, "devices": 8, "nodes": 8, "epochs": 90.0, "baseline_epochs": 90.0, "seeds": 100}
    values |= {"data": "imagenet", "num_workers": 16, "arms": ("learned", "blind", "control-long"), "seed": 20261126}
    config = RunConfig.make(values)
    assert (config.model, config.input_size, config.size) == ("resnet50", (448,), 224)

    def check(cores: int, gpus: int, gib: int) -> None:
        with (
            patch.object(os, "sched_getaffinity", lambda _: range(cores)),
            patch.object(torch.cuda, "is_available", lambda: gpus > 0),
            patch.object(torch.cuda, "device_count", lambda: gpus),
            patch.object(limits, "usable_memory", lambda: gib << 30),
        ):
            limits.check_machine(config)
        limits.check_length(config, {448: 1_281_167 / 4096})

    check(64, 8, 256)
    for machine, words in (
        ((64, 4, 256), "devices: got 8; expected at most 4, the GPUs of this machine"),
        ((2, 0, 256), "num_workers: got 16 for each of 8 devices; expected at most 2"),
        ((1, 0, 256), "devices: got 8; expected at most 4, 4 for each of the 1 proc"),
        ((64, 8, 1), "batch_size: got 4096; 512 images of 448×448 take 1.1 GiB"),
    ):
        with pytest.raises(ValueError, match=words):
            check(*machine)
    # The smallest machines: what tests do on two cores
    config = RunConfig.make({"num_workers": 8, "accelerator": "cpu"})
    check(2, 0, 2)
    config = RunConfig.make({"devices": 2, "accelerator": "cpu"})
    check(1, 0, 2)


def test_the_largest_seed_trains(tmp_path: Path) -> None:
    values = {"model": "small_cnn", "size": 8, "input_size": 16, "batch_size": 2, "steps": 2, "arms": ["learned"]}
    values |= {"data": str(class_folder(tmp_path / "data")), "seed": 2**64 - 1, "accelerator": "cpu"}
    results = train_stages(Run(RunConfig.make(values), tmp_path))
    assert [(result.stage.arm, result.stage.seed) for result in results] == [
        ("bilinear", 2**64 - 1),
        ("learned", 2**64 - 1),
    ]


def test_a_file_is_read_in_time(tmp_path: Path) -> None:
    """Many keys, and a number in base 60, each as long as a file may be."""
    for text in (
        "seed: " + "1:" * 32_000 + "1",
        "".join(f"k{i}: 1\n" for i in range(7000)),
    ):
        assert len(text) < LARGEST
        (tmp_path / "x.yaml").write_text(text)
        start = os.times()
        with pytest.raises(ValueError):
            RunConfig.make(read_yaml(tmp_path / "x.yaml"))
        assert os.times().user - start.user < 5  # 0.6 s; hours without the limit of the size


def test_evaluate_takes_fewer_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a larger machine is tested with the processors of this one."""
    from learned_resizer_cuda.train import evaluate

    seen = []
    monkeypatch.setattr(RunConfig, "open_source", lambda config, size: seen.append(config) or SimpleNamespace())
    monkeypatch.setattr(evaluate, "_test", lambda *arguments: None)
    RunConfig.make({"num_workers": 1000, "devices": 64, "batch_size": 64}).save(tmp_path / "config.yaml")
    result = tmp_path / "stages/bilinear-96-seed0/result.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    evaluate.evaluate(tmp_path)
    assert 1 <= seen[0].num_workers == limits.most_workers(1) < 1000
    monkeypatch.setattr(limits, "usable_memory", lambda: 1000)
    with pytest.raises(ValueError, match="input_size: got 96; 1 images of 96×96 take"):
        evaluate.evaluate(tmp_path)
