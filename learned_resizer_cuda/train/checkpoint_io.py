"""Lightning checkpoints that a run killed while saving leaves whole."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..atomic import atomic_write
from ..damaged import reading


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves checkpoints by ``atomic_write``; a plugin for ``lightning.Trainer(plugins=...)``.

    Lightning's own goes through the system's temporary folder. Where that is another file system, its last step is a
    copy, and a process killed in it leaves half a checkpoint in the place of the former one.

    Removing is Lightning's, and so are saving to and loading from an address (``s3://...``), which is not a file.
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

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Loads a checkpoint as Lightning does.

        Raises:
            FileNotFoundError: there is none.
            DamagedFileError: it is not what was saved, to the bit.
        """
        if "://" in str(path) or not Path(path).exists():
            return super().load_checkpoint(path, *arguments, **options)
        with reading(Path(path), "delete it, then the same command trains that stage from its start"):
            # torch does not compare the checksums: a weight that has changed on the disk would be trained on with
            with zipfile.ZipFile(path) as file:
                if (name := file.testzip()) is not None:
                    raise ValueError(f"{name} has another checksum")
            return super().load_checkpoint(path, *arguments, **options)
