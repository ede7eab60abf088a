"""Progress bars, progress lines and tables in every width."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")


from learned_resizer_cuda.cli.progress import ProgressBars, ProgressLines, progress
from learned_resizer_cuda.report.tables import Table, ablation_table, arms_table, epochs_table, evaluation_table
from learned_resizer_cuda.report.terminal import open_console, print_summary, print_table
from learned_resizer_cuda.substitutes import printable
from learned_resizer_cuda.train.evaluate import Evaluation
from learned_resizer_cuda.train.protocol import Front, Stage
from learned_resizer_cuda.train.results import ACCURACY, Row, StageResult
from tests.helpers.terminals import Terminal, console, stream
from tests.report.test_summary import result, summary_of

WIDTHS = (20, 30, 40, 60, 80, 120, 200)


def stage(arm: str, input_size: int = 224, steps: int = 4000, seed: int = 0) -> Stage:
    return Stage(arm, seed, input_size, steps, 0.1, Front("fixed", "bilinear"))


def row_of(arm: str, value: float) -> Row:
    return Row(arm, 0, 224, 2000, 1.0, "test", 1.0, 0.1, 1.0, 1.0, {"accuracy": value})


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("width", WIDTHS)
def test_bars_fit(width: int, encoding: str) -> None:
    for one in (stage("bilinear"), stage("control-long", 1024, 100_000, 12)):
        screen, lines = console(width, encoding)
        with ProgressBars(screen) as bars:
            bars.start(one)
            bars.step(one, one.steps // 2)
            bars.tested(one, row_of(one.arm, 1.0))
            screen.print(bars._bars.make_tasks_table(bars._bars.tasks))
            screen.print("-- end")
            screen.file.flush()
        # The last one: a busy machine draws earlier ones, before the test or of another second.
        line = [line.rstrip() for line in lines() if f"{one.steps // 2}/{one.steps}" in line][-1]
        assert all(len(line) <= width for line in lines())
        assert line.startswith(one.arm[:2]) and (width < 30 or f"{one.seed} " in line)
        whole = f"{one.arm} {one.input_size}, seed {one.seed}"
        assert whole in line or printable("…", encoding) in line
        if width >= 40:
            assert line.count("-" if encoding == "ascii" else "━") >= 2  # a half of at least five
        if width >= 60:
            assert whole in line and "test 100.0%" in line


def test_a_finished_stage_keeps_its_line() -> None:
    """It stays above the moving bar: bars of thirty stages would not fit the screen and would hide the last one."""
    for width in (40, 100):
        screen, lines = console(width)
        with ProgressBars(screen) as bars:
            bars.found(result("bilinear", 0.25, seed=99))
            for seed in range(30):
                ended = result("learned", 0.5, seed)
                bars.start(ended.stage)
                bars.testing(ended.stage)
                bars.finish(ended)
                assert not bars._bars.tasks
            bars.doing("writing the report")
        text = "\n".join(lines())
        for seed in range(30):
            assert re.search(rf"learned 96, seed {seed} .*400/400 +test 50\.0%", text)
        assert re.search(r"bilinear 96, seed 99 .*400/400 +test 25\.0%", text)


def tables() -> list[Table]:
    """All printed tables, with several seeds and input sizes."""
    results = []
    for size in (96, 128):
        for arm in ("bilinear", "r2-n32", "learned", "control-long"):
            results += [result(arm, 0.5 + 0.1 * seed, seed, 1234.0, 4000, input_size=size) for seed in (0, 1)]
    summary = summary_of(results, input_size=(96, 128), seeds=2)
    tuned = [result("transfer", (0.1, 0.5, 0.8), steps=125), result("control", (0.4, 0.5, 0.6), steps=125)]
    found = [Evaluation("learned", seed, 96, 96, 1.5 + seed, {"plcc": 0.9, "srcc": 0.8 - seed / 10}) for seed in (0, 1)]
    return [arms_table(summary), ablation_table(summary), epochs_table(tuned, ACCURACY), evaluation_table(found)]


def whole(cells: Sequence[str], lines: Sequence[str], encoding: str) -> bool:
    return all(any(printable(cell, encoding) in line for line in lines) for cell in cells)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("width", WIDTHS)
def test_tables_are_whole(width: int, encoding: str) -> None:
    for table in tables():
        for terminal in (True, False):
            screen, lines = console(width, encoding, terminal)
            print_table(screen, table)
            assert whole([*table.header, *(cell for row in table.rows for cell in row)], lines(), encoding)
            assert " ".join(lines()).replace(" ", "").count(table.caption.replace(" ", "")) == 1
            if terminal:
                assert width < 40 or all(len(line) <= width for line in lines())
                # A table if it fits, otherwise each figure beside or below its heading
                if any(line.startswith(("+", "┏")) for line in lines()):
                    assert any(whole(table.header, [line], encoding) for line in lines())
                else:
                    assert sum(line.startswith(f"{table.header[0]}:") for line in lines()) == len(table.rows)
            else:  # whatever width rich takes a pipe to have
                for row in table.rows:
                    assert any(whole(row, [line], encoding) for line in lines())


def test_sentences() -> None:
    """They are wrapped between words on a terminal, and on one line each in a pipe."""
    summary = summary_of([result("bilinear", 0.5), result("learned", 0.5)])
    (gap,) = summary.gaps
    screen, lines = console(40)
    print_summary(screen, summary, [])
    assert all(len(line) <= 40 for line in lines()) and " ".join(gap.sentence().split()) in " ".join(
        " ".join(lines()).split()
    )
    screen, lines = console(40, terminal=False)
    print_summary(screen, summary, [])
    assert lines() == [gap.sentence()]


def test_forced_colours_move_no_bars_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stream(io.BytesIO()))
    assert isinstance(progress(open_console()), ProgressLines)
    monkeypatch.setattr(sys, "stdout", stream(Terminal()))
    assert isinstance(progress(open_console()), ProgressBars)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress(open_console()), ProgressLines)


def test_lines() -> None:
    screen, lines = console(20, terminal=False)
    told = ProgressLines(screen)
    told.doing("reading the data")
    assert told.state() == "reading the data (0:00:00)"
    told._since -= 3725
    assert told.state() == "reading the data (1:02:05)"
    ended: StageResult = result("control-long", 0.5, steps=4000)
    told.start(ended.stage)
    assert told.state() == "control-long 96, seed 0: step 0 of 4000 (0:00:00)"
    told.testing(ended.stage)
    assert told.state() == "control-long 96, seed 0: testing after step 0 (0:00:00)"
    told.tested(ended.stage, row_of("control-long", 0.25))
    told.step(ended.stage, 120)
    assert told.state() == "control-long 96, seed 0: step 120 of 4000, test 25.0% (0:00:00)"
    told.finish(ended)
    told.doing("writing the report")
    assert told.state() == "writing the report (0:00:00)"
    told.found(ended)
    assert lines() == [
        "control-long 96, seed 0: starts, 4000 steps",
        "control-long 96, seed 0: ends, 4000 steps, test 50.0% (0:00:00)",
        "control-long 96, seed 0: already complete, 4000 steps, test 50.0%",
    ]


def test_stages_side_by_side() -> None:
    """A line names all that run; each has a bar, and a complete one's stays above the others'."""
    screen, lines = console(100, terminal=False)
    first, second = result("learned", 0.5, steps=400), result("control-long", 0.25, steps=4000)
    told = ProgressLines(screen)
    told.start(first.stage)
    told.start(second.stage)
    told.step(second.stage, 7)
    told._running[first.stage].since -= 61
    both = "learned 96, seed 0: step 0 of 400 (0:01:01); control-long 96, seed 0: step 7 of 4000 (0:00:00)"
    assert told.state() == both
    told.finish(first)
    assert told.state() == "control-long 96, seed 0: step 7 of 4000 (0:00:00)"
    assert lines()[-1] == "learned 96, seed 0: ends, 400 steps, test 50.0% (0:01:01)"
    screen, lines = console(100)
    with ProgressBars(screen) as bars:
        bars.start(first.stage)
        bars.start(second.stage)
        bars.step(second.stage, 7)
        bars.finish(first)
        assert [task.description for task in bars._bars.tasks] == ["control-long 96, seed 0"]
        bars.step(second.stage, 11)
    text = lines()
    assert any(re.search(r"learned 96, seed 0 .*400/400 +test 50\.0%", line) for line in text)
    assert any(re.search(r"control-long 96, seed 0 .* 11/4000", line) for line in text)
