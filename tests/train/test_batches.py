"""Batches for training and testing: steps, workers, processes, normalisation."""

from typing import Any

import pytest
import torch

from tests.helpers.photo_folders import class_folder

pytest.importorskip("torchvision", reason="image folders need the [train] extra")

from learned_resizer_cuda.data.folder import ImageFolderSource
from learned_resizer_cuda.data.source import Batch
from learned_resizer_cuda.train.batches import Batches, TestBatches, TrainBatches, size_of_test_batch

STEPS = range(3, 7)
BATCH = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageFolderSource:
    root = class_folder(tmp_path_factory.mktemp("folder"))
    (root / "train" / "ant" / "0.png").write_bytes(b"")
    return ImageFolderSource(root, 8)


def same(first: Batch, second: Batch) -> bool:
    tensors = zip(first[:2], second[:2], strict=True)
    return all(torch.equal(a, b) for a, b in tensors) and first.unreadable == second.unreadable


def unit(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.float() / 255)


def test_train_batches(source: ImageFolderSource) -> None:
    batches = TrainBatches(source, 9, BATCH, range(3, 6), slice(1, 3))
    assert len(batches) == 3
    assert [same(batches[n], source.train_batch(9, 3 + n, BATCH, slice(1, 3))) for n in range(3)] == [True] * 3
    with pytest.raises(IndexError):
        batches[3]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_steps_and_of_the_test_set(source: ImageFolderSource, workers: int) -> None:
    batches = Batches(source, 9, BATCH, workers)
    trained, tested = list(batches.train(STEPS)), list(batches.test())
    wanted = [source.train_batch(9, step, BATCH) for step in STEPS]
    assert all(same(got, unit(want)) for got, want in zip(trained, wanted, strict=True))
    assert any(batch.unreadable for batch in wanted)
    assert all(type(batch) is Batch for batch in trained)
    assert len(tested) == 1 and same(tested[0], unit(source.test_batch(slice(0, 4))))
    assert not list(batches.train(range(0)))


@pytest.mark.parametrize("workers", [0, 1])
def test_drawing_batches_leaves_the_global_generator_alone(source: ImageFolderSource, workers: int) -> None:
    before = torch.get_rng_state()
    assert len(list(Batches(source, 9, BATCH, workers).train(range(2)))) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_each_batch(source: ImageFolderSource) -> None:
    shares = [Batches(source, 9, BATCH, rank=rank, world=2).train(STEPS) for rank in range(2)]
    for step, (first, second) in zip(STEPS, zip(*shares, strict=True), strict=True):
        whole = source.train_batch(9, step, BATCH)
        assert len(first.images) == len(second.images) == 2
        joint = Batch(*(torch.cat(pair) for pair in zip(first[:2], second[:2], strict=True)))
        assert same(joint._replace(unreadable=first.unreadable + second.unreadable), unit(whole))


@pytest.mark.parametrize(("size", "world"), [(1, 1), (3, 1), (4, 1), (1, 3), (2, 3), (1, 9)])
def test_processes_test_everything_once_and_equally_often(source: ImageFolderSource, size: int, world: int) -> None:
    shares = [list(TestBatches(source, size, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    in_order = [batch for turn in zip(*shares, strict=True) for batch in turn]
    assert all(len(batch.images) <= size for batch in in_order)
    assert torch.equal(torch.cat([batch.images for batch in in_order]), source.test_batch(slice(0, 4)).images)
    assert torch.equal(torch.cat([batch.targets for batch in in_order]), source.test_batch(slice(0, 4)).targets)


def test_test_batches_of_large_images_are_smaller() -> None:
    assert [size_of_test_batch(size) for size in (32, 256, 512, 10_000)] == [100, 100, 25, 1]


def test_images_are_normalised_by_channel(source: ImageFolderSource) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    batch = source.train_batch(9, 0, BATCH)
    images, targets, unreadable = Batches(source, 9, BATCH, normalize=(mean, std)).prepare(batch)
    exact = (batch.images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert images.dtype == torch.float32 and targets is batch.targets and unreadable == batch.unreadable
    # three roundings to 2^-24 of numbers up to 1 and 2.7, divided by at least 0.22
    assert (images - exact).abs().max() < 1e-6
    wide = Batches(source, 9, BATCH, normalize=(mean, std), dtype=torch.float64).prepare(batch).images
    assert wide.dtype == torch.float64 and torch.equal(wide, images.double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0; expected at least 1"),
        ({"world": 3}, "batch_size: got 4 for 3 processes; expected a multiple of their number"),
        ({"num_workers": -1}, "num_workers: got -1; expected at least 0"),
        ({"normalize": ([0.5], [0.5])}, "normalize: got 1 means and 1 standard deviations; expected 3"),
        ({"normalize": ([0.5] * 3, [0.5, 0, 1])}, "normalize: got the standard deviations .*; expected positive ones"),
    ],
)
def test_options(source: ImageFolderSource, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(**({"source": source, "seed": 0, "batch_size": 4} | options))
