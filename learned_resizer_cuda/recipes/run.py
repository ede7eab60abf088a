"""One run of `learned-resizer train`: a folder with everything that tells what was done and what came out."""

from __future__ import annotations

import time
from pathlib import Path

from ..data.digits import DigitsOnPhotographs
from .compare import Watcher, compare
from .config import RunConfig
from .report import Summary, as_dict, save, summarise

FILES = ("config.yaml", "metrics.csv", "summary.json", "curves.png", "samples.png", "resizer.safetensors")


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Makes the run's folder; with ``overwrite``, removes a former run's files (and only those) from it.

    Raises:
        FileExistsError: the folder holds something and ``overwrite`` is not set.
        NotADirectoryError: the path is a file.
        OSError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output: {folder} is a file; expected a folder, or a path where none is yet")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise FileExistsError(f"output: {folder} is not empty; choose another folder or pass --overwrite")
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def run(config: RunConfig, folder: Path, watcher: Watcher | None = None) -> Summary:
    """Runs the comparison and writes ``FILES`` into ``folder``, which ``prepare_folder`` has made.

    config.yaml is there from the start and metrics.csv grows arm by arm, so that an interrupted run still
    tells what it did. Without the learned arm there is no resizer.safetensors.

    Returns:
        The figures that summary.json holds.
    """
    from .pictures import save_curves, save_samples

    started = time.perf_counter()
    source = DigitsOnPhotographs(config.canvas)
    config.save(folder / "config.yaml")
    results = compare(config, source, folder / "metrics.csv", watcher)
    images, labels = source.test_set()
    summary = summarise(config, results, len(labels))
    learned = next((result for result in results if result.arm == "learned"), None)
    if learned is not None:
        from .arms import resizer_config
        from .weights import save_resizer

        notes = {
            "data": "digits on photographs",
            "seed": str(learned.seed),
            "steps": str(learned.steps),
            "test_accuracy": f"{learned.test_accuracy:.4f}",
        }
        save_resizer(learned.resizer, resizer_config(config, source.in_channels), folder / "resizer.safetensors", notes)
    save_curves(results, folder / "curves.png")
    save_samples(results, images, labels, config.interpolation, config.size, folder / "samples.png")
    # Last, so that a folder with a summary is a finished run.
    save(as_dict(config, summary, time.perf_counter() - started, results[0].device), folder / "summary.json")
    return summary
