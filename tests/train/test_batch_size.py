"""`--batch-size auto`: the search on a pretended GPU, the step that it tries, and its refusal on a CPU."""

import json
import weakref
from unittest import mock

import pytest
import torch

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.train import batch_size
from learned_resizer_cuda.train.batch_size import fitted_batch_size, largest_batch_size
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.progress import Watcher
from learned_resizer_cuda.train.run import Run
from tests.helpers.failures import command, names
from tests.helpers.photo_folders import class_folder


def test_other_errors_pass_through():
    def step(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        batch_size._runs(step, 2)


@pytest.mark.parametrize("limit", [-3, 0, 1])
def test_limit_below_the_least(limit):
    with pytest.raises(ValueError, match=f"limit: got {limit}; expected at least one power of two from 2"):
        largest_batch_size(lambda size: None, torch.device("cuda"), limit)


class Gpu:
    """A GPU of ``total`` bytes whose allocator holds freed memory until its cache is emptied."""

    def __init__(self, monkeypatch, total):
        self.total, self.held, self.emptied = total, 0, 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.total - self.held, self.total))
        monkeypatch.setattr(torch.cuda, "empty_cache", self.empty)

    def empty(self):
        self.held, self.emptied = 0, self.emptied + 1

    def step(self, each, error=torch.OutOfMemoryError):
        def run(size):
            if size * each > self.total:
                self.held = self.total
                raise error("CUDA out of memory. Tried to allocate")
            self.held = max(self.held, size * each)

        return run


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(
    ("each", "limit", "expected"),
    [
        (10, 1024, 64),  # 640 of 1000; 1280 runs out
        (15, 1024, 32),  # 64 take 960: they run, but leave less than the tenth
        (14, 1024, 64),  # 896: just above it
        (1, 100, 64),  # the limit
    ],
)
def test_gpu_takes_the_largest_that_leaves_a_tenth(monkeypatch, error, each, limit, expected):
    gpu = Gpu(monkeypatch, 1000)
    assert largest_batch_size(gpu.step(each, error), torch.device("cuda"), limit) == expected
    assert gpu.held == 0


def test_gpu_names_the_memory_where_nothing_fits(monkeypatch):
    gpu = Gpu(monkeypatch, 8 << 30)
    with pytest.raises(RuntimeError, match=r"step of 4 images does not fit cuda:0 with 8\.00 GiB of memory, 8\.00 GiB"):
        largest_batch_size(gpu.step(3 << 30), torch.device("cuda:0"), 64, least=4)


def test_gpu_releases_what_the_failed_step_held(monkeypatch):
    gpu = Gpu(monkeypatch, 1000)
    alive = []

    class Held:
        pass

    def step(size):
        held = Held()
        step.held = weakref.ref(held)
        gpu.step(300)(size)

    step.held = lambda: None
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(step.held()))
    assert largest_batch_size(step, torch.device("cuda"), 64) == 2
    assert alive == [None] * 3  # before the first step, after 2 and after the failed 4


@pytest.fixture
def values(tmp_path):
    data = class_folder(tmp_path / "data", train=6, val=3)
    return {"model": "small_cnn", "size": 8, "input_size": 16, "batch_size": "auto", "data": str(data)}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_costliest_stage_is_tried(monkeypatch, values, precision):
    """One real step, on the CPU, of the stage whose batch is searched; nothing is measured."""
    config = RunConfig.make(values | {"arms": ("bilinear", "learned"), "precision": precision, "num_blocks": 2})
    tried, built = [], []

    def largest(step, device, limit):
        step(2)
        return limit

    def build(stage, *arguments):
        built.append((stage.arm, build_models(stage, *arguments)))
        return built[-1][1]

    build_models = batch_size.build_models
    monkeypatch.setattr(batch_size, "build_models", build)
    monkeypatch.setattr(batch_size, "largest_batch_size", largest)
    watcher = Watcher()
    monkeypatch.setattr(watcher, "doing", tried.append)
    source = config.open_source(16)
    state = torch.random.get_rng_state()
    assert fitted_batch_size(config, source, watcher, torch.device("cpu")) == source.train_size
    assert tried == ["finding the batch size: trying 2 images"]
    ((arm, (resizer, network)),) = built
    assert arm == "learned" and torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.isfinite().all() for module in (resizer, network) for parameter in module.parameters())


def test_each_process_needs_two_images(values):
    config = RunConfig.make(values | {"devices": 64})
    with pytest.raises(ValueError, match="batch_size: got auto for 12 training images; expected at least 2 for each"):
        fitted_batch_size(config, config.open_source(16), Watcher(), torch.device("cpu"))


def test_a_run_finds_its_batch_size_once(monkeypatch, tmp_path, values):
    """A run that is resumed, and the other processes, train with the same batches."""
    found = []
    monkeypatch.setattr(batch_size, "fitted_batch_size", lambda *arguments: found.append(arguments) or 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = RunConfig.make(values | {"input_size": (16, 24)})
    for _ in range(2):
        assert Run(config, tmp_path).batch_sizes == {16: 4, 24: 4}
        assert [source.input_size for _, source, _ in found] == [16, 24]
    assert json.loads((tmp_path / "batch-sizes.json").read_text()) == {"16": 4, "24": 4}


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_auto_is_refused_on_a_cpu(tmp_path, values, accelerator):
    """Before anything runs, with exit code 2 and nothing left behind."""
    before = names(tmp_path)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    with mock.patch.object(torch.cuda, "is_available", lambda: accelerator == "cpu"):
        code, printed = command("train", *options, "--accelerator", accelerator, "--output", tmp_path / "run")
    assert code == 2 and names(tmp_path) == before and not (tmp_path / "run").exists()
    assert printed.startswith("learned-resizer train: batch_size: got auto on a CPU; expected a number of images.")
