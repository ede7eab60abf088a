"""Lightning checkpoints that a run killed while saving leaves whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..atomic import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves checkpoints by ``atomic_write``; a plugin for ``lightning.Trainer(plugins=...)``.

    Lightning's own goes through the system's temporary folder. Where that is another file system, its last step is a
    copy, and a process killed in it leaves half a checkpoint in the place of the former one.

    Loading and removing are Lightning's, and so is saving to an address (``s3://...``), which is not a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves a checkpoint with ``torch.save``, in a folder that is made where it does not exist.

        Raises:
            OSError: where the file cannot be written; a checkpoint of that name stays as it was.
            TypeError: ``storage_options`` was given, which Lightning's own does not take either.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda file: torch.save(checkpoint, file))
