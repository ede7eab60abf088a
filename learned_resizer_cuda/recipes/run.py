"""Runs every stage of a configuration, or what of it an interrupted call has left, and writes what came out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import cast

from torch import nn

from ..data.open import open_source
from ..data.source import Source
from ..data.unreadable import UnreadableLog
from ..reference import Resizer
from . import processes
from .build import build_front, build_models, learned_part
from .config import RunConfig
from .files import atomic_bytes, remove_leftovers
from .fit import CHECKPOINT, METRICS, Fitted, fit
from .folder import STAGES, TRANSFERRED
from .networks import network_name
from .record import read_rows
from .report import Summary
from .results import StageResult
from .stages import Stage, plan
from .watch import Watcher
from .weights import ResizerConfig, load_resizer, load_state, save_resizer

RESULT, NETWORK, RESIZER = "result.json", "network.safetensors", "resizer.safetensors"


class Run:
    """A configuration at work in its folder.

    A stage that has ended is told by its result.json, which is written last: it is not trained again. One that was
    killed goes on from its last checkpoint. So the same configuration in the same folder ends with the
    figures of a run that nothing disturbed, whenever it was killed and however often.

    Args:
        config: what to run.
        folder: made, and locked by the first process (``RunFolder``).
        watcher: told of progress, in the first process.

    Raises:
        DataError: the data cannot be trained on (see ``data.errors``).
        ModuleNotFoundError, FileNotFoundError: what the built-in data needs is not installed.
    """

    def __init__(self, config: RunConfig, folder: Path, watcher: Watcher | None = None) -> None:
        self.config, self.folder = config, folder
        self.first = processes.rank() == 0
        self.watcher = watcher if watcher is not None and self.first else Watcher()
        self.sources = {size: open_source(config, size) for size in config.input_size}
        for source in self.sources.values():
            for note in source.notes:
                self.watcher.say(note)
        self.unreadable = UnreadableLog(config.max_unreadable, folder / "unreadable.tsv" if self.first else None)
        if self.first and config.resizer is not None and not (folder / TRANSFERRED).exists():
            load_resizer(Path(config.resizer))  # raises where it is none
            atomic_bytes(folder / TRANSFERRED, Path(config.resizer).read_bytes())
        processes.wait_for_all()
        self.batch_sizes = self._batch_sizes()
        per_epoch = {size: source.train_size / self.batch_sizes[size] for size, source in self.sources.items()}
        self.stages = plan(config, per_epoch.__getitem__)
        network_name(config.model)
        for stage in self.stages:  # whatever cannot be built is said before anything is trained
            build_front(config, stage.front, self.source_of(stage).in_channels, folder)

    def work(self) -> list[StageResult]:
        """Trains what is left to train.

        Returns:
            Results of all stages, in their order.

        Raises:
            NonFiniteLossError, TooManyUnreadableError: a training cannot go on; what has ended is kept.
        """
        return [self._stage(stage) for stage in self.stages]

    def source_of(self, stage: Stage | StageResult) -> Source:
        return self.sources[stage.input_size]

    def stage_folder(self, key: str) -> Path:
        return self.folder / STAGES / key

    def _stage(self, stage: Stage) -> StageResult:
        folder = self.stage_folder(stage.key)
        source = self.source_of(stage)
        models = build_models(stage, self.config, source.in_channels, len(source.labels), self.folder)
        if (folder / RESULT).is_file():
            result = self._load(stage, folder, models)
            self.watcher.found(result)
            return result
        if stage.start_key is not None:
            load_weights(models[1], self.stage_folder(stage.start_key) / NETWORK)
        if self.first:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        self.watcher.start(stage)
        batch_size = self.batch_sizes[stage.input_size]
        fitted = fit(stage, self.config, source, batch_size, models, folder, self.unreadable, self.watcher)
        if self.first:
            self._keep(stage, folder, fitted)
        processes.wait_for_all()
        result = self._load(stage, folder, models)
        self.watcher.finish(result)
        return result

    def _keep(self, stage: Stage, folder: Path, fitted: Fitted) -> None:
        save_weights(fitted.network, folder / NETWORK)
        if stage.front.is_learned:
            resizer = learned_part(fitted.resizer)
            notes = {"data": str(self.config.data), "arm": stage.arm, "seed": str(stage.seed)}
            arguments = ResizerConfig.of(cast(Resizer, resizer))
            save_resizer(resizer, arguments, folder / RESIZER, notes | {"steps": str(stage.steps)})
        values = {
            "steps": stage.steps,
            "batch_size": self.batch_sizes[stage.input_size],
            "cpu_seconds": fitted.cpu_seconds,
            "wall_seconds": fitted.wall_seconds,
            "device": fitted.device,
        }
        atomic_bytes(folder / RESULT, (json.dumps(values, indent=2) + "\n").encode())
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _load(self, stage: Stage, folder: Path, models: tuple[nn.Module, nn.Module]) -> StageResult:
        resizer, network = models
        load_weights(network, folder / NETWORK)
        if stage.front.is_learned:
            load_weights(learned_part(resizer), folder / RESIZER)
        values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return StageResult(
            arm=stage.arm,
            seed=stage.seed,
            input_size=stage.input_size,
            rows=read_rows(folder / METRICS),
            resizer=resizer.eval(),
            network=network.eval(),
            resizer_parameters=sum(parameter.numel() for parameter in resizer.parameters()),
            **values,
        )

    def _batch_sizes(self) -> dict[int, int]:
        if isinstance(self.config.batch_size, int):
            return dict.fromkeys(self.config.input_size, self.config.batch_size)
        # Found once, and kept: a run that goes on, and the other processes, train with the same batches.
        path = self.folder / "batch-sizes.json"
        if self.first and not path.exists():
            from .auto_batch import fitted_batch_size

            found = {size: fitted_batch_size(self.config, source, self.folder) for size, source in self.sources.items()}
            atomic_bytes(path, json.dumps(found).encode())
        processes.wait_for_all()
        sizes = {int(size): batch for size, batch in json.loads(path.read_text(encoding="utf-8")).items()}
        for size, batch in sizes.items():
            self.watcher.say(f"batch size at {size}×{size}: {batch}")
        return sizes


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a state dict as safetensors, whole or not at all."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    atomic_bytes(path, save(state))


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads what ``save_weights`` wrote."""
    module.load_state_dict(load_state(path)[0])


def run(config: RunConfig, folder: Path, watcher: Watcher | None = None) -> Summary | None:
    """Runs a configuration in its folder, and writes tables, pictures and the report.

    Returns:
        The figures; None in all processes but the first.
    """
    from .present import present

    started = time.perf_counter()
    work = Run(config, folder, watcher)
    results = work.work()
    return present(work, results, time.perf_counter() - started) if work.first else None
