"""Learning rates, warm-up, the moving average, and AdamW by frequency."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.frequencies import FrequencyAdamW, to_frequencies, to_taps
from learned_resizer_cuda.train.optimiser import build_optimiser, build_schedule
from tests.helpers.failures import command
from tests.helpers.photo_folders import class_folder


def rates(steps: int, per_epoch: float, **values: Any) -> list[list[float]]:
    """Learning rates of the resizer and the network by step."""
    config = RunConfig.make({"optimizer": "sgd", "resizer_learning_rate": 0.3, **values})
    optimiser = build_optimiser(config, nn.Linear(2, 2), nn.Linear(2, 2), 0.1)
    schedule = build_schedule(config, optimiser, steps, per_epoch)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    return found


def test_resizer_and_network_have_rates_of_their_own_and_warm_up_together() -> None:
    for resizer, network in rates(8, 4, schedule="constant"):
        assert (resizer, network) == (0.3, 0.1)
    warm = rates(8, 4, schedule="constant", warmup_steps=4)
    np.testing.assert_allclose([row[0] for row in warm], [0.3 * min(1, (n + 1) / 4) for n in range(8)], rtol=1e-12)
    cosine = rates(8, 4, schedule="cosine", warmup_steps=2)
    expected = [0.1 * min(1, (n + 1) / 2) * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    np.testing.assert_allclose([row[1] for row in cosine], expected, rtol=1e-12)
    decay = rates(8, 2, schedule="decay", warmup_steps=2)
    np.testing.assert_allclose(
        [row[1] for row in decay], [0.1 * min(1, (n + 1) / 2) * 0.94 ** (n // 4) for n in range(8)], rtol=1e-12
    )
    for row in rates(8, 4, schedule="one-cycle"):
        assert row[0] == pytest.approx(3 * row[1], rel=1e-12)


def test_a_frozen_module_has_no_group() -> None:
    config = RunConfig.make({"optimizer": "adamw"})
    network = nn.Linear(2, 2).requires_grad_(False)
    (group,) = build_optimiser(config, nn.Linear(2, 2), network, 0.1).param_groups
    assert len(group["params"]) == 2


def test_frequencies_are_scipys_cosine_transform() -> None:
    kernels = torch.randn(3, 2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = scipy.fft.dctn(kernels.numpy(), axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(to_frequencies(kernels).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(to_taps(to_frequencies(kernels)), kernels, atol=1e-12, rtol=0)


@pytest.mark.parametrize("transformed", [True, False])
def test_a_step_is_adamws_on_the_transform(transformed: bool) -> None:
    """The same problem posed in frequencies, for torch's AdamW; 1×1 kernels and vectors are taken as they are."""
    generator = torch.Generator().manual_seed(1)
    start = [
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((4, 3, 7, 7), (4, 4, 1, 1), (4,))
    ]
    goals = [torch.randn(value.shape, dtype=torch.float64, generator=generator) for value in start]
    mine = [nn.Parameter(value.clone()) for value in start]
    posed = [nn.Parameter(to_frequencies(start[0]) if transformed else start[0].clone()), *map(nn.Parameter, start[1:])]
    group: dict[str, Any] = {"params": mine, "lr": 0.01} | ({"frequencies": True} if transformed else {})
    first, second = FrequencyAdamW([group], 0.1), torch.optim.AdamW(posed, 0.01, weight_decay=0.1)
    for _ in range(5):
        taps = [to_taps(posed[0]) if transformed else posed[0], *posed[1:]]
        for optimiser, values in ((first, mine), (second, taps)):
            optimiser.zero_grad()
            sum(((a - b) ** 4).sum() for a, b in zip(values, goals, strict=True)).backward()  # type: ignore[union-attr]
            optimiser.step()
    for value, other in zip(mine, [to_taps(posed[0]) if transformed else posed[0], *posed[1:]], strict=True):
        torch.testing.assert_close(value, other, atol=1e-12, rtol=1e-12)


def test_a_killed_training_with_all_of_it_resumes_to_the_bit(tmp_path: Path) -> None:
    """The average and the moments of the transforms are in the checkpoint."""
    data = class_folder(tmp_path / "data", train=6, val=3)
    words = (
        *("train", "--data", data, "--model", "small_cnn", "--size", 8, "--input-size", 16, "--arms", "learned"),
        *("--steps", 6, "--batch-size", 4, "--evaluations", 3, "--accelerator", "cpu", "--optimizer", "adamw"),
        *("--kernel-basis", "frequencies", "--ema", 0.8, "--warmup-steps", 2, "--schedule", "cosine"),
        *("--resizer-learning-rate", 0.01, "--learning-rate", 0.001),
    )
    assert command(*words, "--output", tmp_path / "whole")[0] == 0
    from learned_resizer_cuda.train import loop

    rounds, saved = [], loop.save_checkpoint

    def stop(*arguments: Any, **values: Any) -> None:
        saved(*arguments, **values)
        rounds.append(values["rounds"])
        if len(rounds) == 5:  # in the middle of the second stage
            raise OSError(28, "No space left on device", "disk")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", stop)
        assert command(*words, "--output", tmp_path / "cut")[0] == 1
    assert command(*words, "--output", tmp_path / "cut")[0] == 0
    for name in ("resizer.safetensors", "network.safetensors"):
        whole, cut = (load_file(tmp_path / run / "stages/learned-16-seed0" / name) for run in ("whole", "cut"))
        assert all(torch.equal(value, cut[key]) for key, value in whole.items()), name


def test_the_average_is_what_is_tested_and_saved(tmp_path: Path) -> None:
    """By its formula, from the weights after every step."""
    data = class_folder(tmp_path / "data", train=6, val=3)
    update, seen = AveragedModel.update_parameters, []

    def watched(average: AveragedModel, model: nn.Module) -> None:
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        update(average, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AveragedModel, "update_parameters", watched)
        code, printed = command(
            *("train", "--data", data, "--model", "small_cnn", "--size", 8, "--input-size", 16, "--arms", "learned"),
            *("--steps", 4, "--batch-size", 4, "--evaluations", 1, "--accelerator", "cpu", "--ema", 0.9, "--jobs", 1),
            *("--num-filters", 4, "--output", tmp_path / "run"),
        )
    assert code == 0 and len(seen) == 4, printed
    saved = load_file(tmp_path / "run/stages/learned-16-seed0/resizer.safetensors")
    for name, value in seen[0].items():
        for after in seen[1:]:
            value = 0.9 * value + 0.1 * after[name]
        # float32, and another order of the sum; the last weights are much further away
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(saved["conv1.weight"], seen[-1]["conv1.weight"], rtol=1e-5, atol=1e-6)
