"""The experiments of docs/experiments.md: valid commands, and results that the pages show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from benchmarks.experiments import paper
from learned_resizer_cuda.cli import training
from learned_resizer_cuda.cli.main import main
from learned_resizer_cuda.cli.options import configuration
from learned_resizer_cuda.train.config import RunConfig


def settings(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The configuration of a command line, without running it."""
    found = []

    def collect(
        command: str, values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool
    ) -> None:
        found.append(configuration(command, values, config))

    monkeypatch.setattr(training, "run_command", collect)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code
    return found[0]


@pytest.mark.parametrize("name", paper.EXPERIMENTS)
def test_results_are_of_the_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept results have the settings of the command that the file names."""
    arguments = [argument.format(runs=Path("runs")) for argument in paper.EXPERIMENTS[name].arguments]
    config = paper.without_folders(settings((*arguments, "--accelerator", "cpu"), monkeypatch).as_dict())
    kept = json.loads((paper.RESULTS / f"{name}.json").read_text(encoding="utf-8"))["config"]
    assert RunConfig.make(kept).as_dict() == config  # options that are newer than the results have their defaults


def test_falls() -> None:
    assert paper.falls([(0, 50.0), (1, 60.0), (2, 45.0), (3, 58.0), (4, 61.0)]) == [0, 0, 15, 2, 0]
