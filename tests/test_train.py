"""The comparison's parts: configuration, arms and training."""

from __future__ import annotations

import csv
import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda import Resize, resize
from learned_resizer_cuda.data.digits import DigitsOnPhotographs
from learned_resizer_cuda.recipes import compare as compare_module
from learned_resizer_cuda.recipes.arms import BlindResizer, build_arm, long_steps
from learned_resizer_cuda.recipes.compare import ArmResult, Watcher, compare, train_arm
from learned_resizer_cuda.recipes.config import ARMS, RunConfig
from learned_resizer_cuda.recipes.joint import JointTraining, adamw_one_cycle, classification_loss
from learned_resizer_cuda.recipes.networks import SmallCNN
from learned_resizer_cuda.recipes.record import Row


@pytest.fixture(scope="module")
def source() -> DigitsOnPhotographs:
    return DigitsOnPhotographs()


def small(source: DigitsOnPhotographs) -> DigitsOnPhotographs:
    """The same data with a tenth of the test digits: what a test of the machinery needs."""
    copy = DigitsOnPhotographs()
    copy.test_index = source.test_index[::10]
    return copy


# configuration


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 1, "steps: got 1; expected at least 2"),
        ("steps", 2.0, "steps: got 2.0; expected an integer"),
        ("seeds", 0, "seeds: got 0; expected at least 1"),
        ("seed", -1, "seed: got -1; expected at least 0"),
        ("seed", True, "seed: got True; expected an integer"),
        ("batch_size", 0, "batch_size: got 0"),
        ("long_steps", 1, "long_steps: got 1; expected at least 2"),
        ("num_filters", 0, "num_filters: got 0"),
        ("num_blocks", -1, "num_blocks: got -1"),
        ("arms", ("bilinear", "cubic"), "arms: got bilinear, cubic; expected some of bilinear, bicubic"),
        ("arms", ("bilinear", "bilinear"), "each once"),
        ("arms", (), "arms: got none"),
        ("interpolation", "nearest", "interpolation: got 'nearest'; expected one of bilinear, bicubic, lanczos"),
        ("loss", "hinge", "loss: got 'hinge'; expected one of softmax, sigmoid"),
        ("label_smoothing", 1.0, "label_smoothing: got 1.0"),
        ("label_smoothing", float("nan"), "label_smoothing: got nan"),
        ("learning_rate", 0.0, "learning_rate: got 0.0"),
        ("learning_rate", float("inf"), "learning_rate: got inf"),
        ("weight_decay", -1.0, "weight_decay: got -1.0"),
    ],
)
def test_bad_configuration(name: str, value: object, expected: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        RunConfig(**{name: value})  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_configuration_survives_its_file(tmp_path: Path) -> None:
    config = RunConfig(arms=("learned", "bicubic"), seeds=3, long_steps=77, weight_decay=0.25, loss="sigmoid")
    config.save(tmp_path / "config.yaml")
    assert RunConfig.load(tmp_path / "config.yaml") == config
    with pytest.raises(ValueError, match="config: got unknown stepz; expected"):
        RunConfig.from_dict({"stepz": 3})


def test_default_is_the_protocol() -> None:
    config = RunConfig()
    assert (config.steps, config.batch_size, config.canvas, config.size) == (400, 64, 96, 16)
    assert (config.learning_rate, config.weight_decay) == (3e-3, 1e-4)
    assert config.ordered_arms == ARMS and ARMS[-1] == "bicubic-long"


# arms


def test_network_and_resizer_start_alike_in_every_arm() -> None:
    config = RunConfig()
    built = {arm: build_arm(arm, config, 3, 1, 10) for arm in ARMS}
    reference_network = built["bilinear"][1].state_dict()
    for _, network in built.values():
        assert all(torch.equal(value, reference_network[name]) for name, value in network.state_dict().items())
    learned, blind = built["learned"][0], built["blind"][0]
    assert isinstance(blind, BlindResizer)
    for name, value in learned.state_dict().items():
        assert torch.equal(value, blind.resizer.state_dict()[name])
    other = build_arm("bilinear", config, 4, 1, 10)[1].state_dict()
    assert not torch.equal(other["head.weight"], reference_network["head.weight"])


def test_building_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build_arm("learned", RunConfig(), 0, 1, 10)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fixed_arms_are_the_filters() -> None:
    image = torch.rand(2, 1, 96, 96)
    for arm, interpolation in (("bilinear", "bilinear"), ("bicubic", "bicubic"), ("bicubic-long", "bicubic")):
        resizer, _ = build_arm(arm, RunConfig(), 0, 1, 10)
        assert torch.equal(resizer(image), resize(image, 16, interpolation=interpolation))


def test_blind_arm_sees_only_what_bilinear_left() -> None:
    """Two images whose bilinear resize is equal are one image to the blind arm, and two to the learned one."""
    config = RunConfig()
    torch.manual_seed(0)
    # The 16 x 96 matrix of the filter, and of any detail the part that it maps to zero.
    matrix = resize(torch.eye(96, dtype=torch.float64)[None], (96, 16))[0].T
    detail = torch.randn(96, 96, dtype=torch.float64)
    detail -= matrix.T @ torch.linalg.solve(matrix @ matrix.T, matrix @ detail)
    assert resize(detail[None], 16).abs().max() < 1e-12  # a few hundred float64 roundings of values near 1
    plain = torch.rand(1, 1, 96, 96, dtype=torch.float64)
    detailed = plain + detail
    outputs = {}
    for arm in ("blind", "learned"):
        resizer = build_arm(arm, config, 0, 1, 10)[0].double().eval()
        outputs[arm] = (resizer(detailed) - resizer(plain)).abs().max().item()
    assert outputs["blind"] < 1e-10
    assert outputs["learned"] > 1e-2


def test_parameters() -> None:
    assert sum(p.numel() for p in SmallCNN(1, 10).parameters()) == 9 * (32 + 32 * 64 + 64 * 128) + 2 * 224 + 1290
    resizer, _ = build_arm("learned", RunConfig(), 0, 3, 10)
    assert sum(p.numel() for p in resizer.parameters()) == 12035  # the paper's, n = 16, r = 1, three channels


@pytest.mark.parametrize(
    ("learned", "per_step", "expected"),
    [
        (None, None, 2000),
        (None, 0.03, 2000),
        (50.0, None, 2000),
        (30.0, 0.03, 2000),  # 1,000 steps would do
        (60.0, 0.03, 2000),  # exactly as long
        (60.1, 0.03, 4000),  # 2,003 and a tenth to spare, in whole multiples of 2,000
        (109.0, 0.03, 4000),  # 3,633: 3,997 with the tenth
        (110.0, 0.03, 6000),
    ],
)
def test_length_of_the_long_arm(learned: float | None, per_step: float | None, expected: int) -> None:
    assert long_steps(RunConfig(), learned, per_step) == expected
    assert long_steps(RunConfig(long_steps=123), learned, per_step) == 123


# training


def test_gradient_reaches_the_resizer() -> None:
    resizer, network = build_arm("learned", RunConfig(), 0, 1, 10)
    module = JointTraining(resizer, network, classification_loss("softmax", 0.0), adamw_one_cycle(1e-3, 0, 10))
    step = module.training_step((torch.rand(4, 1, 96, 96), torch.arange(4)), 0)
    step["loss"].backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert resizer.conv1.weight.grad.abs().max() > 0
    assert 0 <= int(step["correct"]) <= 4


def test_losses() -> None:
    logits, labels = torch.randn(6, 10, dtype=torch.float64), torch.arange(6)
    softmax = classification_loss("softmax", 0.1)(logits, labels)
    smooth = torch.full((6, 10), 0.01, dtype=torch.float64)
    smooth[torch.arange(6), labels] += 0.9
    assert torch.allclose(softmax, -(smooth * logits.log_softmax(1)).sum(1).mean())
    sigmoid = classification_loss("sigmoid", 0.1)(logits, labels)
    p = logits.sigmoid()
    assert torch.allclose(sigmoid, -(smooth * p.log() + (1 - smooth) * (1 - p).log()).sum(1).mean())


def test_one_cycle_ends_at_the_last_step() -> None:
    parts = adamw_one_cycle(1e-2, 1e-4, 10)([torch.nn.Parameter(torch.zeros(1))])
    optimiser, schedule = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(9):
        optimiser.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) == pytest.approx(1e-2, rel=1e-6) and rates[-1] < 1e-6


class Log(Watcher):
    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def start(self, arm: str, seed: int, steps: int) -> None:
        self.told.append(("start", (arm, seed, steps)))

    def step(self, step: int) -> None:
        self.told.append(("step", step))

    def evaluated(self, row: Row) -> None:
        self.told.append(("evaluated", row.step))

    def finish(self, result: ArmResult) -> None:
        self.told.append(("finish", result.arm))


def test_same_seed_same_numbers(source: DigitsOnPhotographs, tmp_path: Path) -> None:
    config = RunConfig(arms=("bicubic", "learned"), steps=6, batch_size=8, evaluations=4, accelerator="cpu")
    runs = [compare(config, small(source), tmp_path / f"{number}.csv") for number in range(2)]
    lines = [list(csv.DictReader((tmp_path / f"{number}.csv").open())) for number in range(2)]
    for row in lines[0] + lines[1]:
        assert float(row.pop("cpu_seconds")) > 0 and float(row.pop("wall_seconds")) > 0
    assert lines[0] == lines[1]
    # 6 steps in evaluations every 2: three passes over the test set an arm
    assert [row["split"] for row in lines[0]].count("test") == 6 and len(lines[0]) == 18
    for first, second in zip(*runs, strict=True):
        assert first.test_loss == second.test_loss and first.train_accuracy == second.train_accuracy
        for a, b in zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_rows_and_progress(source: DigitsOnPhotographs) -> None:
    """Seven steps tested every two: the last step is tested too, and testing does not count as training time."""
    config = RunConfig(arms=("bilinear",), steps=7, batch_size=8, evaluations=4, accelerator="cpu")
    log = Log()
    (result,) = compare(config, small(source), watcher=log)
    train, test = ([row for row in result.rows if row.split == split] for split in ("train", "test"))
    assert [row.step for row in train] == [1, 2, 3, 4, 5, 6, 7]
    assert [row.step for row in test] == [2, 4, 6, 7]
    assert all(a.cpu_seconds < b.cpu_seconds for a, b in itertools.pairwise(train))
    assert all(row.cpu_seconds <= result.cpu_seconds for row in result.rows)
    assert test[-1].cpu_seconds == result.cpu_seconds >= train[-1].cpu_seconds
    assert log.told[0] == ("start", ("bilinear", 0, 7)) and log.told[-1] == ("finish", "bilinear")
    assert [what for what in log.told if what[0] == "step"] == [("step", n) for n in range(1, 8)]
    assert [number for what, number in log.told if what == "evaluated"] == [2, 4, 6, 7]


def test_testing_is_not_training_time(source: DigitsOnPhotographs, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves by one at each pass over a test batch, and not else, training takes no time."""
    now = [0.0]
    monkeypatch.setattr("learned_resizer_cuda.recipes.record.time.process_time", lambda: now[0])
    original = JointTraining.validation_step

    def slow(self: JointTraining, *args: object) -> object:
        now[0] += 1
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(JointTraining, "validation_step", slow)
    config = RunConfig(steps=4, batch_size=4, evaluations=2, accelerator="cpu")
    result = train_arm(config, small(source), "bilinear", 0, 4)
    assert now[0] == 2 and result.cpu_seconds == 0


def test_long_arm_follows_the_learned_arm(source: DigitsOnPhotographs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long arm's length is settled once, from the first seed's times, and is at least the learned arm's."""
    asked: list[tuple[str, int, int]] = []

    def fake(config: RunConfig, source: object, arm: str, seed: int, steps: int, *rest: object) -> ArmResult:
        asked.append((arm, seed, steps))
        seconds = {"bicubic": 2.0, "learned": 30.0 + seed}.get(arm, 0.1)
        none = torch.nn.Identity()
        return ArmResult(arm, seed, steps, 0.5, 0.5, 1.0, seconds, seconds, 0, "cpu", [], none, none)

    monkeypatch.setattr(compare_module, "train_arm", fake)
    compare_module.compare(RunConfig(arms=("bicubic", "learned", "bicubic-long"), steps=10, seeds=2), source)
    # 30 s at 0.2 s a step is 150 steps; with a tenth to spare 165, in whole fifties 200
    assert [steps for arm, _, steps in asked if arm == "bicubic-long"] == [200, 200]
    assert [seed for arm, seed, _ in asked if arm == "learned"] == [0, 1]


# memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    """Filling 8 tensors of 5 MiB costs 10,240 page faults where malloc has returned their memory, else none."""
    code = """
import resource, torch
from learned_resizer_cuda.recipes.memory import keep_freed_memory
assert keep_freed_memory()
def faults():
    for _ in range(10):
        [torch.ones(5 << 18) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000


def test_fixed_arm_has_nothing_to_train() -> None:
    resizer, _ = build_arm("bilinear", RunConfig(), 0, 1, 10)
    assert isinstance(resizer, Resize) and not list(resizer.parameters())
