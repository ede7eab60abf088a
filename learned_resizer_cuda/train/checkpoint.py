"""Checkpoints of a stage: everything that a killed training needs to go on as if nothing had happened.

A round, one of Lightning's epochs, is the unit. At its start the random state is set from its number, so that
dropout needs no saved generator; its batches are a function of their step numbers (``data.source``); at its end
the checkpoint is replaced, atomically.
"""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

_PRIME = 1_000_003


class RoundCheckpoint(Checkpoint):
    """Seeds each round, and saves the state at its end. Last of the callbacks, as Lightning does with its base class.

    Args:
        path: the file; all processes take part, the first one writes.
        seed: of the stage.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Each process draws its own dropout masks, as it does for its own images.
        seed = (self.seed * _PRIME + trainer.current_epoch) * _PRIME + trainer.global_rank
        torch.manual_seed(seed % 2**63)  # torch takes no more bits

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)
