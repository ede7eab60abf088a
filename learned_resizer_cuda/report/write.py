"""Files of a complete run: metrics.csv, pictures, trained resizer, report.html and summary.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .._version import __version__
from ..atomic import atomic_bytes
from ..data.source import NATIVE, InputSize, MixedImages, Source
from ..reference import Resizer
from ..resize_batch import resize_batch
from ..train.batches import to_unit
from ..train.config import FIXED, RunConfig
from ..train.models import learned_part
from ..train.record import append_rows
from ..train.results import StageResult, judged_by, metrics_of
from ..train.run import RESIZER, Run
from ..train.run_folder import SUMMARY
from ..weights import ResizerConfig
from .cost import network_cost, resizer_cost
from .figures.ablation import save_ablation
from .figures.curves import save_curves, save_transfer
from .figures.samples import ROWS, Asked, pick_images, save_samples
from .figures.spectrum import HIGH, LOW, band_gain, save_spectrum
from .page import Picture, save_page
from .summary import TRAIN_WINDOW, Summary, summarise
from .tables import Table, gain_table, run_tables

SHOWN_IMAGES = 64
"""Test images that samples.png picks from and spectrum.png averages over."""
SPECTRUM_SIZE = 8
"""Smaller outputs have no frequencies in their lower half but those around 0."""


def write_report(run: Run, results: Sequence[StageResult], seconds: float) -> tuple[Summary, list[Table]]:
    """Write every file, summary.json last, so that it marks a complete run.

    Args:
        run: the run.
        results: of all its stages.
        seconds: wall time of this call.
    """
    config, folder = run.config, run.folder
    test_sizes = {size: source.test_size for size, source in run.sources.items()}
    learned = next((result for result in results if result.stage.front.kind in ("learned", "file")), None)
    pictured = (learned or results[-1]).stage.input_size
    images = {size: _test_images(run.sources[size]) for size in run.sources.keys() & {NATIVE, pictured}}
    native = [image.shape[1] * image.shape[2] for image in images[NATIVE][0]] if NATIVE in images else []
    pixels = round(sum(native) / len(native)) if native else 0
    summary = summarise(config, results, test_sizes, gflops(run, results, pixels))
    if native:
        summary.notes.append(
            f"native: gflop is the mean over {len(native)} test images, whose regions have {pixels:,} pixels on average"
        )
    tables = run_tables(config.command, summary, results)
    (folder / "metrics.csv").unlink(missing_ok=True)
    for result in results:
        append_rows(folder / "metrics.csv", result.rows, [metric.name for metric in metrics_of(config)])
    pictures = _draw_curves(config, summary, results, folder)
    image_pictures, gains = _draw_images(run, results, learned, *images[pictured])
    if learned is not None:
        atomic_bytes(folder / RESIZER, (run.stage_folder(learned.stage.key) / RESIZER).read_bytes())
    where = environment(results[0].device, run.threads)
    notes = summary.notes
    if len(run.unreadable):
        notes = [*notes, f"{len(run.unreadable)} unreadable images were skipped: unreadable.tsv names them."]
    save_page(
        folder,
        f"{config.command}: {config.title}",
        [*tables, gain_table(gains)] if gains else tables,
        verdicts=summary.verdicts(),
        notes=notes,
        pictures=[*pictures, *image_pictures],
        environment=", ".join(f"{name} {value}" for name, value in where.items()),
        configuration="\n".join(f"{name}: {value}" for name, value in config.as_dict().items()),
    )
    values = {
        "config": config.as_dict(),
        "environment": where,
        "wall_seconds": seconds,
        "train_accuracy_is": f"mean over the last {TRAIN_WINDOW} training batches, in training mode",
        **summary.as_dict(),
        "gain_db": gains,
        "unreadable": len(run.unreadable),
        "tables": [asdict(table) for table in tables],
    }
    atomic_bytes(folder / SUMMARY, (json.dumps(values, indent=2) + "\n").encode())
    return summary, tables


def gflops(run: Run, results: Sequence[StageResult], native_pixels: int) -> dict[tuple[InputSize, str], float]:
    """GFLOP per image by input size and arm: network plus learned resizer.

    Args:
        run, results: see ``write_report``.
        native_pixels: of a native image.
    """
    size = run.config.size
    network = network_cost(results[0].network, run.source_of(results[0].stage).in_channels, (size, size)).gflop
    found: dict[tuple[InputSize, str], float] = {}
    for (input_size, arm), result in {(one.stage.input_size, one.stage.arm): one for one in results}.items():
        found[input_size, arm] = network
        if result.stage.front.is_learned:
            resizer = ResizerConfig.of(cast(Resizer, learned_part(result.resizer)))
            # The cost is that of the pixels, whatever the shape, and affine in them: of the mean, it is the mean.
            sides = (1, max(1, native_pixels)) if input_size == NATIVE else (input_size, input_size)
            found[input_size, arm] += resizer_cost(resizer, sides).gflop
    return found


def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions and hardware that the results were measured with.

    ``threads`` are those of each training.
    """
    return {
        "learned_resizer_cuda": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device,
        "threads": threads,
        "date": date.today().isoformat(),
    }


def _draw_curves(config: RunConfig, summary: Summary, results: Sequence[StageResult], folder: Path) -> list[Picture]:
    """Draw curves.png and the figure of the run's command."""
    metrics = judged_by(config)
    pictures = []
    if config.command == "ablate":
        pictures.append(Picture(folder / "ablation.png", "Test metric against cost and parameters"))
        save_ablation(summary.arms, pictures[0].path, metrics[0])
    if config.command == "transfer":
        pictures.append(Picture(folder / "transfer.png", "Test metric by epoch of tuning"))
        save_transfer(results, pictures[0].path, metrics[0])
    curves = Picture(folder / "curves.png", "Training loss, and the test metric by step and by training time")
    save_curves(results, curves.path, metrics)
    return [*pictures, curves]


@torch.no_grad()
def _draw_images(
    run: Run,
    results: Sequence[StageResult],
    learned: StageResult | None,
    images: Tensor | list[Tensor],
    targets: Tensor | dict[str, Tensor],
) -> tuple[list[Picture], dict[str, dict[str, float]]]:
    """Draw samples.png and spectrum.png of ``learned``; returns gains over bilinear in dB."""
    config = run.config
    if not len(images):
        return [], {}
    normalise, restore = _normalisation(config)

    def prepared(index: int) -> Tensor:
        return normalise(to_unit(images[index]))

    if run.teacher is not None:
        answers = torch.cat([run.teacher(prepared(index)[None]) for index in range(len(images))])
        targets = answers.argmax(1) if run.labels[0] else torch.arange(len(images))
    networks = [
        Asked(
            member.name if config.models else "",
            config.objective if member.task == config.task else member.task,
            labels,
            targets[member.task] if isinstance(targets, dict) else targets,
        )
        for member, labels in zip(config.members, run.labels, strict=True)
    ]
    chosen = pick_images(networks[0].targets, ROWS)
    shown = [prepared(index) for index in chosen]
    samples = Picture(run.folder / "samples.png", "Test images as each resizer shows them to its network")
    save_samples(
        results,
        torch.stack(shown) if isinstance(images, Tensor) else shown,
        [asked._replace(targets=asked.targets[chosen]) for asked in networks],
        samples.path,
        interpolation=config.interpolation,
        size=config.size,
        display=restore,
        arm="learned" if learned is None else learned.stage.arm,
    )
    if config.size < SPECTRUM_SIZE:
        return [samples], {}
    resizers: dict[str, Callable[[list[Tensor]], Tensor]] = {
        name: partial(resize_batch, size=config.size, interpolation=name) for name in FIXED
    }
    if learned is not None:
        resizers[learned.stage.arm] = learned_part(learned.resizer)
    # One image at a time: at native sizes all of them in floating point may not fit in memory.
    outputs = {
        name: torch.cat([resizer([prepared(index)]) for index in range(len(images))])
        for name, resizer in resizers.items()
    }
    caption = "Radial power spectra: what each resizer keeps or adds, by frequency"
    spectrum = Picture(run.folder / "spectrum.png", caption)
    save_spectrum(normalise(to_unit(images)) if isinstance(images, Tensor) else None, outputs, spectrum.path)
    low, high = band_gain(outputs, LOW), band_gain(outputs, HIGH)
    return [samples, spectrum], {name: {"lower": low[name], "upper": high[name]} for name in outputs}


def _test_images(source: Source) -> tuple[Tensor | list[Tensor], Tensor | dict[str, Tensor]]:
    """At most ``SHOWN_IMAGES`` uint8 images or regions, and their targets."""
    # Spread over the test set: neighbours are often of one class.
    count = min(SHOWN_IMAGES, source.test_size)
    batches = [source.test_batch(slice(i, i + 1)) for i in range(0, source.test_size, source.test_size // count)]
    batches = [batch for batch in batches if len(batch.images)][:count]
    targets: Tensor | dict[str, Tensor] = torch.empty(0)
    if batches and isinstance(batches[0].targets, dict):
        targets = {task: torch.cat([batch.targets[task] for batch in batches]) for task in batches[0].targets}  # type: ignore[index, call-overload]
    elif batches:
        targets = torch.cat([batch.targets for batch in batches])  # type: ignore[arg-type, misc]
    found: list[Tensor] = []
    for batch in batches:
        if isinstance(batch.images, MixedImages):
            found += [crop.clone() for crop in batch.images.crops()]  # a copy frees the rest of the image
        else:
            found += batch.images.unbind()
    return (found if source.input_size == NATIVE or not found else torch.stack(found)), targets


def _normalisation(config: RunConfig) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Images in [0, 1] as the resizers get them, and back."""
    if not config.normalize:
        return lambda images: images, lambda images: images
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.mean, config.std))
    return lambda images: (images - mean) / std, lambda images: images * std + mean
