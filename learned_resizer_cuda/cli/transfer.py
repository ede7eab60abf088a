"""`learned-resizer transfer`: another network behind a resizer that is trained already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .options import with_options
from .training import run_command


def _transfer(values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool) -> None:
    """Put a trained resizer in front of another network and tune both: the article's test of generality.

    The network is first trained behind the fixed filter of --baseline. Then, from there: transfer, behind the
    resizer of --resizer; fresh, behind one like it from random weights; control, behind the fixed filter still. Each
    is tested before any tuning (epoch 0) and after each epoch.
    """
    run_command("transfer", values, config, output, overwrite)


transfer = with_options(_transfer, leave_out=("arms", "interpolation", "num_filters", "num_blocks", "zero_init"))
