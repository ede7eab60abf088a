"""The stages of each protocol, and the rounds of a training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("yaml", reason="the training recipe needs the [train] extra")

from hypothesis import given
from hypothesis import strategies as st

from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.protocol import Front, Stage, evenly, plan, rounds


def stages(per_epoch: float = 62.5, **values: Any) -> list[Stage]:
    return plan(RunConfig.make(values), lambda _: per_epoch)


def test_the_papers_protocol() -> None:
    """A baseline; the resizer joins its network; the control trains the baseline for as many steps more."""
    made = {stage.arm: stage for stage in stages(baseline_epochs=6.4, epochs=8.0)}
    assert list(made) == ["bilinear", "bicubic", "learned", "blind", "control", "control-long"]
    assert made["bilinear"].start is None and made["bicubic"].start is None
    assert made["bilinear"].steps == 400
    for arm in ("learned", "blind", "control", "control-long"):
        assert made[arm].start == "bilinear" and made[arm].start_key == "bilinear-96-seed0"
    assert made["learned"].steps == made["blind"].steps == made["control"].steps == 500
    assert made["control-long"].steps == 5000
    assert made["control"].front == Front("fixed", "bilinear") == made["bilinear"].front
    assert made["learned"].front == Front("learned", "bilinear", 16, 1)


def test_fine_tuning_has_its_own_rate() -> None:
    made = stages(learning_rate=0.5, fine_tune_learning_rate=0.25)
    assert {stage.learning_rate for stage in made if stage.start is None} == {0.5}
    assert {stage.learning_rate for stage in made if stage.start} == {0.25}


def test_the_baseline_is_added_where_others_start_from_it() -> None:
    assert [stage.arm for stage in stages(arms=("learned",), baseline="bicubic")] == ["bicubic", "learned"]
    assert [stage.arm for stage in stages(arms=("bilinear",))] == ["bilinear"]


def test_sweep_and_seeds() -> None:
    made = stages(arms=("learned",), input_size=(96, 128), seeds=2, seed=5)
    assert len({stage.key for stage in made}) == len(made) == 8
    assert {(stage.input_size, stage.seed) for stage in made} == {(96, 5), (96, 6), (128, 5), (128, 6)}
    assert made[0].name == "bilinear 96, seed 5" and made[0].key == "bilinear-96-seed5"
    for stage in made:
        if stage.start_key:  # comes after the stage that it starts from
            assert stage.start_key in [earlier.key for earlier in made[: made.index(stage)]]


def test_transfer() -> None:
    made = {stage.arm: stage for stage in stages(command="transfer", resizer="a.safetensors", per_epoch=10)}
    assert list(made) == ["bilinear", "transfer", "fresh", "control"]
    assert made["transfer"].front.kind == "file" and made["transfer"].front.file == "a.safetensors"
    assert {stage.steps for stage in made.values() if stage.start} == {40}  # the paper's four epochs


def test_ablation() -> None:
    made = {stage.arm: stage for stage in stages(command="ablate", num_blocks=(1, 2), num_filters=(8, 16))}
    assert list(made) == ["bilinear", "r1-n8", "r1-n16", "r2-n8", "r2-n16", "control"]
    assert (made["r2-n8"].front.num_blocks, made["r2-n8"].front.num_filters) == (2, 8)


def test_steps_instead_of_epochs() -> None:
    assert {stage.steps for stage in stages(steps=20) if stage.arm != "control-long"} == {20}


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 100))
def test_rounds(steps: int, evaluations: int, longest: int) -> None:
    """Each step once and in order; no round too long; as many tests as asked, the last after the last step; equally
    many rounds between tests."""
    cut = rounds(evenly(steps, evaluations), longest)
    assert [step for part in cut for step in part.steps] == list(range(steps))
    assert all(len(part.steps) for part in cut)
    tests = [index for index, part in enumerate(cut) if part.tested]
    assert len(tests) == min(evaluations, steps) and tests[-1] == len(cut) - 1
    assert {b - a for a, b in pairwise([-1, *tests])} == {len(cut) // len(tests)}
    # Intervals differ by one step: with rounds of one step, the longer ones would need another round.
    assert max(len(part.steps) for part in cut) <= max(longest, 2)
