"""Resizers before an unseen, untuned network, with its batch norm statistics recomputed and not.

    python -m benchmarks.experiments.unseen runs/experiments/unseen

Reads a complete run of `learned-resizer transfer`. A trained resizer's output has another scale than the filter that
the network was trained behind. The statistics are recomputed, without labels or steps, from the first ten training
batches of the run, in the whole model, as `--recalibrate-bn` does before later tests. Writes
benchmarks/results/unseen-statistics.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from benchmarks.experiments.paper import RESULTS
from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.loop import measure, open_batches, open_fabric
from learned_resizer_cuda.train.models import build_models
from learned_resizer_cuda.train.network_file import load_weights
from learned_resizer_cuda.train.protocol import Stage
from learned_resizer_cuda.train.recalibrate import recalibrate
from learned_resizer_cuda.train.results import judged_by
from learned_resizer_cuda.train.run import NETWORK, Run
from learned_resizer_cuda.train.tasks import build_task
from learned_resizer_cuda.weights import load_resizer


class Unseen:
    """A run's baseline networks behind its transferred resizers."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(RunConfig.load(folder / "config.yaml"), folder)
        self.config = self.run.config
        self.fabric = open_fabric(self.config)
        self.task = build_task(self.config, self.run.outputs)
        self.metric = judged_by(self.config)[0].name

    def test(self, front: nn.Module, stage: Stage) -> tuple[float, float]:
        """The metric with the statistics as they came and as recomputed."""
        source = self.run.source_of(stage)
        _, network = build_models(stage, self.config, source.in_channels, self.run.outputs)
        load_weights(network, self.run.stage_folder(str(stage.start_key)) / NETWORK)
        batches = open_batches(self.fabric, self.config, source, stage.seed, self.run.batch_sizes[stage.input_size])
        model = nn.Sequential(copy.deepcopy(front), network)
        found = []
        for steps in (range(0), range(self.config.recalibration_batches)):
            if steps:
                with torch.inference_mode():
                    recalibrate(model, (batch.images for batch in batches.train(steps)))
            _, metrics = measure(self.fabric, model, self.task, batches.test())
            found.append(metrics[self.metric])
        return found[0], found[1]

    def rows(self) -> list[dict[str, object]]:
        """Both by seed, for each arm but fresh."""
        arms: dict[str, list[tuple[float, float]]] = {}
        for stage in self.run.stages:
            if stage.start is None or stage.arm == "fresh":
                continue
            front = build_models(stage, self.config, self.run.source_of(stage).in_channels, self.run.outputs)[0]
            if stage.front.kind == "file":
                # The run's own copy has been tuned, so its file from before
                front, _ = load_resizer(FusedResizer, Path(self.config.resizers[stage.arm]))
                front.size = (self.config.size, self.config.size)
            arms.setdefault(stage.arm, []).append(self.test(front, stage))
        names = {"control": self.config.baseline}
        return [
            {"arm": names.get(arm, arm), "as they came": [a for a, _ in values], "recomputed": [b for _, b in values]}
            for arm, values in arms.items()
        ]


def main() -> None:
    """Test and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a complete `learned-resizer transfer`")
    unseen = Unseen(parser.parse_args().run)
    rows = unseen.rows()
    found = {"metric": unseen.metric, "statistics": rows, "torch": torch.__version__}
    (RESULTS / "unseen-statistics.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        came, recomputed = (fmean(row[name]) for name in ("as they came", "recomputed"))  # type: ignore[call-overload]
        print(f"{row['arm']}: {came:.3f}, recomputed {recomputed:.3f}")


if __name__ == "__main__":
    main()
