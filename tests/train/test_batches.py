"""The data module: rounds, workers, processes, resuming, and what reaches the model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.photo_folders import class_folder

pytest.importorskip("lightning", reason="needs the [train] extra")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from learned_resizer_cuda.data.folder import ImageFolderSource
from learned_resizer_cuda.data.source import Batch
from learned_resizer_cuda.train.batches import RoundBatches, SourceData, TestBatches, size_of_test_batch

ROUNDS = [range(3), range(3, 4), range(4, 7)]
BATCH = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageFolderSource:
    root = class_folder(tmp_path_factory.mktemp("folder"))
    (root / "train" / "ant" / "0.png").write_bytes(b"")
    return ImageFolderSource(root, 8)


def same(first: Batch, second: Batch) -> bool:
    tensors = zip(first[:2], second[:2], strict=True)
    return all(torch.equal(a, b) for a, b in tensors) and first.unreadable == second.unreadable


def attached(data: SourceData, rank: int = 0, world: int = 1, epoch: int = 0) -> SourceData:
    """The module as a trainer of that place would have it."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank, world_size=world, current_epoch=epoch, strategy=strategy
    )
    return data


class Recorder(LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.trained: list[tuple[int, Batch]] = []
        self.tested: list[Batch] = []

    def training_step(self, batch: Batch, index: int) -> Tensor:
        self.trained.append((self.current_epoch, batch))
        return self.weight * batch.images.mean()

    def validation_step(self, batch: Batch, index: int) -> None:
        self.tested.append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path, epochs: int, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"enable_checkpointing": False} | options),
    )


def expect(source: ImageFolderSource, rounds: range) -> list[tuple[int, Batch]]:
    return [(number, source.train_batch(9, step, BATCH)) for number in rounds for step in ROUNDS[number]]


def unit(batch: Batch) -> Batch:
    return batch._replace(images=batch.images.float() / 255)


def check_trained(model: Recorder, wanted: list[tuple[int, Batch]]) -> None:
    assert [number for number, _ in model.trained] == [number for number, _ in wanted]
    assert all(same(got, unit(want)) for (_, got), (_, want) in zip(model.trained, wanted, strict=True))


def test_round_batches(source: ImageFolderSource) -> None:
    batches = RoundBatches(source, 9, BATCH, range(3, 6), slice(1, 3))
    assert len(batches) == 3
    assert [same(batches[n], source.train_batch(9, 3 + n, BATCH, slice(1, 3))) for n in range(3)] == [True] * 3
    with pytest.raises(IndexError):
        batches[3]


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_trains_in_rounds(source: ImageFolderSource, tmp_path: Path, workers: int) -> None:
    model, data = Recorder(), SourceData(source, 9, BATCH, ROUNDS, num_workers=workers)
    trainer(tmp_path, len(ROUNDS), log_every_n_steps=1).fit(model, datamodule=data)
    wanted = expect(source, range(3))
    check_trained(model, wanted)
    assert any(batch.unreadable for _, batch in wanted)
    assert all(type(batch) is Batch for _, batch in model.trained)
    assert len(model.tested) == 3 and all(same(got, unit(source.test_batch(slice(0, 4)))) for got in model.tested)


def test_resumed_training_goes_on_with_the_next_round(source: ImageFolderSource, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    trainer(tmp_path, 1, callbacks=[keep], enable_checkpointing=True).fit(
        Recorder(), datamodule=SourceData(source, 9, BATCH, ROUNDS)
    )
    model = Recorder()
    trainer(tmp_path, 3).fit(model, datamodule=SourceData(source, 9, BATCH, ROUNDS), ckpt_path=tmp_path / "last.ckpt")
    check_trained(model, expect(source, range(1, 3)))


@pytest.mark.parametrize("workers", [0, 1])
def test_drawing_batches_leaves_the_global_generator_alone(source: ImageFolderSource, workers: int) -> None:
    before = torch.get_rng_state()
    assert len(list(attached(SourceData(source, 9, BATCH, [range(2)], workers)).train_dataloader())) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_trainer_past_the_last_round_gets_nothing(source: ImageFolderSource) -> None:
    assert len(attached(SourceData(source, 9, BATCH, ROUNDS), epoch=3).train_dataloader()) == 0


def test_processes_share_each_batch(source: ImageFolderSource) -> None:
    loaders = [attached(SourceData(source, 9, BATCH, ROUNDS), rank, 2, epoch=2).train_dataloader() for rank in range(2)]
    for step, (first, second) in zip(ROUNDS[2], zip(*loaders, strict=True), strict=True):
        whole = source.train_batch(9, step, BATCH)
        assert len(first.images) == len(second.images) == 2
        joint = Batch(*(torch.cat(pair) for pair in zip(first[:2], second[:2], strict=True)))
        assert same(joint._replace(unreadable=first.unreadable + second.unreadable), whole)


def test_batch_that_cannot_be_shared(source: ImageFolderSource) -> None:
    data = attached(SourceData(source, 9, BATCH, ROUNDS), 0, 3)
    with pytest.raises(ValueError, match="batch_size: got 4 for 3 processes; expected a multiple of their number"):
        data.train_dataloader()


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
    data = SourceData(source, 9, BATCH, ROUNDS, normalize=(mean, std))
    batch = source.train_batch(9, 0, BATCH)
    images, targets, unreadable = data.on_after_batch_transfer(batch, 0)
    exact = (batch.images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert images.dtype == torch.float32 and targets is batch.targets and unreadable == batch.unreadable
    # three roundings to 2^-24 of numbers up to 1 and 2.7, divided by at least 0.22
    assert (images - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0; expected at least 1"),
        ({"num_workers": -1}, "num_workers: got -1; expected at least 0"),
        ({"normalize": ([0.5], [0.5])}, "normalize: got 1 means and 1 standard deviations; expected 3"),
        ({"normalize": ([0.5] * 3, [0.5, 0, 1])}, "normalize: got the standard deviations .*; expected positive ones"),
    ],
)
def test_options(source: ImageFolderSource, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceData(**({"source": source, "seed": 0, "batch_size": 4, "rounds": ROUNDS} | options))
