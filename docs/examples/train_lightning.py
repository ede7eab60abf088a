"""A learned resizer as part of a LightningModule, trained together with its network by Lightning's Trainer.

Nothing is special about it: the resizer is a submodule, and precision, devices and several processes are the Trainer's.

    python docs/examples/train_lightning.py --epochs 6 --output resizer/
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from stand_ins import small_network, write_images  # in place of your network and, without --data, of your images
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from learned_resizer_cuda import FusedResizer

SIZE, INPUT_SIZE = 24, 96  # what the network sees, and what the resizer sees


class ResizedClassifier(L.LightningModule):
    """A learned resizer and a classifier."""

    def __init__(self, network: nn.Module, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.resizer, self.network, self.learning_rate = FusedResizer(SIZE), network, learning_rate

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) → logits."""
        return self.network(self.resizer(images))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Compute the loss, the task's alone: no other says what a good small image is."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Measure the accuracy, over the images of all processes."""
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW for both parts, with a one-cycle schedule."""
        optimiser = torch.optim.AdamW(self.parameters(), self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.learning_rate, total_steps=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train and save the resizer."""
    parser = argparse.ArgumentParser(description="Train a learned resizer with Lightning.")
    parser.add_argument("--data", type=Path, help="folder of train/CLASS and val/CLASS; default: synthetic images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("resizer"), help="folder for the trained resizer")
    args = parser.parse_args()
    L.seed_everything(0)
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or write_images(Path(temporary))
        to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
        transform = v2.Compose([v2.Resize(INPUT_SIZE), v2.CenterCrop(INPUT_SIZE), *to_float])
        train_set, val_set = (ImageFolder(data / split, transform) for split in ("train", "val"))
        model = ResizedClassifier(small_network(len(train_set.classes)))
        # sync_batchnorm: on several GPUs the resizer's norms, and the network's, see the joint batch.
        trainer = L.Trainer(
            max_epochs=args.epochs, sync_batchnorm=True, logger=False, enable_checkpointing=False, log_every_n_steps=1
        )
        train_loader = DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True)
        trainer.fit(model, train_loader, DataLoader(val_set, args.batch_size))
        accuracy = float(trainer.callback_metrics["val_accuracy"])
    if trainer.is_global_zero:
        model.resizer.save_pretrained(args.output)
        print(f"validation accuracy {accuracy:.1%}, chance {1 / len(train_set.classes):.1%}; resizer in {args.output}")


if __name__ == "__main__":
    main()
