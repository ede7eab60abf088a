"""Writes what a finished run found: summary.json, pictures, the trained resizer and report.html."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .._version import __version__
from ..atomic import atomic_bytes
from ..reference import Resizer
from ..resize import resize
from ..train.batches import to_unit
from ..train.config import FIXED, RunConfig
from ..train.models import learned_part
from ..train.protocol import stage_key
from ..train.record import append_rows
from ..train.results import PRIMARY, StageResult
from ..train.run import RESIZER, Run
from ..train.run_folder import SUMMARY
from ..weights import ResizerConfig
from .cost import network_cost, resizer_cost
from .figures.ablation import AblationPoint, save_ablation
from .figures.curves import save_curves
from .figures.samples import save_samples
from .figures.spectrum import HIGH, band_gain, save_spectrum
from .figures.transfer import save_transfer
from .page import Folded, Heading, Picture, Section, Table, Text, save_report
from .summary import TRAIN_WINDOW, Summary, ablation_table, arms_table, as_dict, epochs_table, summarise

SPECTRUM_IMAGES = 64
SPECTRUM_SIZE = 8
"""Smaller outputs have no frequency in their lower half, but those around 0."""
LOW = (0.0, HIGH[0])


def write_report(run: Run, results: Sequence[StageResult], seconds: float) -> Summary:
    """Writes everything; summary.json last, so that a folder that has it is a finished run.

    Args:
        run: the run.
        results: of all its stages.
        seconds: wall time of this call.
    """
    config, folder = run.config, run.folder
    summary = summarise(
        config, results, {size: source.test_size for size, source in run.sources.items()}, costs(run, results)
    )
    (folder / "metrics.csv").unlink(missing_ok=True)
    for result in results:
        append_rows(folder / "metrics.csv", result.rows, config.task)
    tables = summary.tables
    tables.append(arms_table(summary))
    pictures = [(folder / "curves.png", "Training loss, and the test metric by step and by training time")]
    save_curves(results, folder / "curves.png", PRIMARY[config.task])
    if config.command == "ablate":
        tables.append(ablation_table(summary))
        pictures.insert(0, (folder / "ablation.png", "Test metric against cost and parameters"))
        _save_ablation(summary, folder / "ablation.png")
    if config.command == "transfer":
        tables.append(epochs_table(results))
        pictures.insert(0, (folder / "transfer.png", "Test metric by epoch of tuning"))
        save_transfer(results, folder / "transfer.png", PRIMARY[config.task])
    learned = next((result for result in results if _shows(result)), None)
    gains = _save_images(run, results, learned, pictures)
    if learned is not None:
        key = stage_key(learned.arm, learned.input_size, learned.seed)
        atomic_bytes(folder / RESIZER, (run.stage_folder(key) / RESIZER).read_bytes())
    values = {
        "config": config.as_dict(),
        "environment": environment(results[0].device),
        "wall_seconds": seconds,
        "train_accuracy_is": f"mean over the last {TRAIN_WINDOW} training batches, in training mode",
        **as_dict(summary),
        "gain_db": gains,
        "unreadable": len(run.unreadable),
        "tables": [
            {"caption": table.caption, "header": table.header, "rows": table.rows, "bold": table.bold}
            for table in tables
        ],
    }
    _save_html(config, summary, values, tables, pictures, folder)
    atomic_bytes(folder / SUMMARY, (json.dumps(values, indent=2) + "\n").encode())
    return summary


def costs(run: Run, results: Sequence[StageResult]) -> dict[tuple[int, str], float]:
    """GFLOP of one image through resizer and network, by input size and arm; a fixed filter counts as nothing."""
    config = run.config
    found: dict[tuple[int, str], float] = {}
    fronts = {(stage.input_size, stage.arm): stage.front for stage in run.stages}
    behind: float | None = None
    for result in results:
        where = result.input_size, result.arm
        if where in found:
            continue
        channels = run.source_of(result).in_channels
        if behind is None:
            behind = network_cost(result.network, channels, (config.size, config.size)).gflop
        found[where] = behind
        if fronts[where].is_learned:
            arguments = ResizerConfig.of(cast(Resizer, learned_part(result.resizer)))
            found[where] += resizer_cost(arguments, result.input_size).gflop
    return found


def _shows(result: StageResult) -> bool:
    return result.arm in ("learned", "transfer") or result.arm.startswith("r")


def environment(device: str) -> dict[str, Any]:
    """Where the figures were measured."""
    return {
        "learned_resizer_cuda": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }


@torch.no_grad()
def _save_images(
    run: Run, results: Sequence[StageResult], learned: StageResult | None, pictures: list[tuple[Path, str]]
) -> dict[str, dict[str, float]]:
    """samples.png and spectrum.png of the largest input size, with the first learned resizer."""
    config, folder = run.config, run.folder
    shown = learned or results[-1]
    mine = [result for result in results if result.input_size == shown.input_size]
    if learned is not None:
        mine = [learned, *(result for result in mine if result.arm in FIXED)]
    source = run.source_of(shown)
    # Spread over the test set: neighbours are often of one class.
    count = min(SPECTRUM_IMAGES, source.test_size)
    picked = [source.test_batch(slice(i, i + 1)) for i in range(0, source.test_size, source.test_size // count)]
    picked = [batch for batch in picked if len(batch.images)][:count]
    if not picked:
        return {}
    normalise, restore = _normalisation(config)
    images = normalise(to_unit(torch.cat([batch.images for batch in picked])))
    save_samples(
        mine,
        images,
        torch.cat([batch.targets for batch in picked]),
        folder / "samples.png",
        interpolation=config.interpolation,
        size=config.size,
        labels=source.labels,
        task=config.task,
        display=restore,
        arm="learned" if learned is None else learned.arm,
    )
    pictures.append((folder / "samples.png", "Test images as each resizer shows them to its network"))
    if config.size < SPECTRUM_SIZE:
        return {}
    outputs = {name: resize(images, config.size, interpolation=name) for name in FIXED}
    if learned is not None:
        outputs[learned.arm] = learned.resizer(images)
    save_spectrum(images, outputs, folder / "spectrum.png")
    pictures.append((folder / "spectrum.png", "Radial power spectra: what each resizer keeps or adds, by frequency"))
    low, high = band_gain(outputs, LOW), band_gain(outputs, HIGH)
    return {name: {"lower": low[name], "upper": high[name]} for name in outputs}


def _gain_table(gains: dict[str, dict[str, float]]) -> Table:
    """A resizer may scale all it puts out: what it boosts is what the upper half gains more than the lower."""
    rows = [
        (name, *(f"{value:+.1f}" for value in (gain["lower"], gain["upper"], gain["upper"] - gain["lower"])))
        for name, gain in gains.items()
    ]
    header = ("resizer", "lower half of frequencies, dB", "upper half, dB", "boost of the upper half, dB")
    return Table(header, rows, "Power against bilinear")


def _normalisation(config: RunConfig) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Images in [0, 1] as the resizers get them, and back."""
    if not config.normalize:
        return lambda images: images, lambda images: images
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return lambda images: (images - mean) / std, lambda images: images * std + mean


def _save_ablation(summary: Summary, path: Path) -> None:
    metric = PRIMARY[summary.task]
    points, lines = [], {}
    for arm in summary.arms:
        figure = arm.metrics[metric]
        if arm.arm in (*FIXED, "control"):
            lines[arm.arm] = figure.mean
        else:
            blocks, filters = (int(part[1:]) for part in arm.arm.split("-"))
            assert arm.gflop is not None
            points.append(AblationPoint(blocks, filters, arm.gflop, arm.resizer_parameters, figure.mean, figure.std))
    save_ablation(points, lines, path, metric)


def _save_html(
    config: RunConfig,
    summary: Summary,
    values: dict[str, Any],
    tables: Sequence[Table],
    pictures: Sequence[tuple[Path, str]],
    folder: Path,
) -> None:
    sections: list[Section] = [Heading("Result"), tables[0]]
    sections += [Text(gap.sentence(), strong=True) for gap in summary.gaps]
    sections += [Text(note) for note in summary.notes]
    if values["unreadable"]:
        sections.append(Text(f"{values['unreadable']} unreadable images were skipped: unreadable.tsv names them."))
    sections += tables[1:]
    if values["gain_db"]:
        sections.append(_gain_table(values["gain_db"]))
    sections.append(Heading("Pictures"))
    sections += [Picture(path, caption) for path, caption in pictures]
    where = values["environment"]
    title = f"{config.command}: {config.model} on {config.data}"
    sections.append(Heading("How"))
    sections.append(Text(", ".join(f"{name} {value}" for name, value in where.items())))
    settings = "\n".join(f"{name}: {value}" for name, value in config.as_dict().items())
    sections.append(Folded("Configuration", settings))
    save_report(folder, title, sections)
