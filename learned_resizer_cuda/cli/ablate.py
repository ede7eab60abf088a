"""`learned-resizer ablate`: the learned resizer with several numbers of blocks and filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .options import with_options
from .training import run_command


def _ablate(values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool) -> None:
    """Train the learned resizer with every combination of --num-blocks and --num-filters, from the same baseline.

    Writes a table and a plot of accuracy against GFLOP and parameters, with the baseline and its control, trained on
    for as long.
    """
    run_command("ablate", values, config, output, overwrite)


ablate = with_options(_ablate, leave_out=("arms", "resizer"))
