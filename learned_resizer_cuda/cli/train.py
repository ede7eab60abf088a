"""`learned-resizer train`: fixed filters and the learned resizer in front of the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .options import with_options
from .training import run_command


def _train(values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool) -> None:
    """Train the learned resizer in front of a network, beside fixed filters, as in the paper.

    First a baseline behind each fixed filter; then, from the baseline's network, the resizer and the network
    together (learned), the same with a resizer that sees only what the filter left (blind), and
    the baseline trained on for as long (control) and ten times as long (control-long): together they tell a gain
    that comes from the image's detail from one that comes from more parameters or more training.

    Without --data the images are real and come with the installed packages, no network needed: handwritten
    digits on photographs, 96×96, resized to 16×16; with --task iqa, photographs with graded distortions. The
    built-in data has settings of its own where the defaults, the paper's, do not suit it.

    The same command in the same folder goes on where it was killed. Writes config.yaml, metrics.csv,
    summary.json, report.html with its pictures, and resizer.safetensors.
    """
    run_command("train", values, config, output, overwrite)


train = with_options(_train)
