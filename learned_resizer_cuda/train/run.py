"""A run: all its configuration's stages, trained or resumed in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from ..atomic import atomic_bytes, remove_leftovers
from ..damaged import DamagedFileError, reading
from ..data.same_images import labels_of
from ..data.source import NATIVE, InputSize, Source, parse_input_size
from ..data.unreadable import UnreadableLog
from ..reference import Resizer
from ..substitutes import printable
from ..weights import ResizerConfig, StateMismatchError, save_resizer
from . import distributed
from .config import RunConfig
from .limits import check_length, check_machine, shares
from .loop import CHECKPOINT, METRICS_FILE, Fitted, fit
from .models import build_front, build_kept, build_models, check_normalisation, learned_part
from .network_file import load_weights, save_weights
from .networks import network_name, trained_outputs
from .progress import Watcher
from .protocol import Stage, plan
from .record import read_rows
from .results import StageResult
from .run_folder import STAGES, remedy
from .tasks import build_task
from .teacher import from_teacher, keep_teacher, load_teacher

RESULT, NETWORK, RESIZER = "result.json", "network.safetensors", "resizer.safetensors"
_RESULT_TYPES = {"steps": int, "batch_size": int, "cpu_seconds": float, "wall_seconds": float, "device": str}


class Run:
    """The stages of a configuration, trained in a folder.

    result.json is written last and marks a stage complete; a complete stage is not trained again. A killed stage
    resumes from its last checkpoint. So the same configuration in the same folder ends with the numbers of an
    undisturbed run, whenever it was killed and however often.

    Args:
        config: what to run.
        folder: exists, and is locked by the first process (``RunFolder``).
        watcher: notified of progress, in the first process.

    Raises:
        DataError: the data cannot be trained on (see ``data.errors``).
        ModuleNotFoundError, FileNotFoundError: packages or files of the built-in data are not installed.
        FileNotFoundError, ValueError: the resizer to be transferred cannot be read, does not fit the images, or was
            trained with another normalisation.
        DamagedFileError: a file of an earlier call cannot be read.
        ValueError: this machine cannot train the configuration (see ``limits``).
    """

    def __init__(self, config: RunConfig, folder: Path, watcher: Watcher | None = None) -> None:
        check_machine(config)
        self.config, self.folder = config, folder
        self.first = distributed.is_first_process()
        self.watcher = watcher if watcher is not None and self.first else Watcher()
        self.watcher.doing("reading the data")
        self.sources = {size: config.open_source(size) for size in config.input_size}
        for source in self.sources.values():
            for note in source.notes:
                self.watcher.say(note)
        source = next(iter(self.sources.values()))
        # Names of each network's K outputs
        self.labels = tuple(labels_of(source, member.task) for member in config.members)
        self.teacher: nn.Module | None = None
        self._origin = config  # what the networks are built from
        for member in config.members:
            network_name(member.model, member.task == "segmentation")
        if config.task == "distill":
            if self.first:
                keep_teacher(config, folder, source.in_channels)
            distributed.wait_for_all()
            self.teacher, names = load_teacher(config, folder, source.in_channels)
            self.labels = (names,)
            self._origin = from_teacher(config, folder)
        elif config.freeze:
            self._check_frozen()
        self.unreadable = UnreadableLog(config.max_unreadable, folder / "unreadable.tsv" if self.first else None)
        self.batch_sizes = self._batch_sizes()
        per_epoch = {size: source.train_size / self.batch_sizes[size] for size, source in self.sources.items()}
        check_length(config, per_epoch)
        self.stages = plan(config, per_epoch.__getitem__)
        self.jobs, self.threads = shares(config, self.stages)
        for stage in self.stages:
            if stage.front.kind == "file" and not (self.stage_folder(stage.key) / RESULT).is_file():
                # Errors must come now, not after hours of training the baseline.
                resizer = build_front(config, stage.front, self.source_of(stage).in_channels)
                check_normalisation(config, ResizerConfig.of(cast(Resizer, resizer)), str(stage.front.file))

    def _check_frozen(self) -> None:
        for member, labels in zip(self.config.members, self.labels, strict=True):
            count = trained_outputs(member.model, self.config.weights)
            if count != len(labels):
                raise ValueError(
                    f"freeze: got network, whose weights have {count} outputs; expected {len(labels)}, the classes or "
                    "bins of the data: new last layers would not be trained"
                )

    @property
    def outputs(self) -> list[int]:
        """Number of each network's outputs."""
        return [len(labels) for labels in self.labels]

    @property
    def output_names(self) -> list[str]:
        """Names of all outputs, as the file of the networks has them."""
        return [label for labels in self.labels for label in labels]

    def source_of(self, stage: Stage) -> Source:
        return self.sources[stage.input_size]

    def stage_folder(self, key: str) -> Path:
        return self.folder / STAGES / key

    def is_complete(self, stage: Stage) -> bool:
        return (self.stage_folder(stage.key) / RESULT).is_file()

    def load_stage(self, stage: Stage) -> StageResult:
        """The result of a complete stage."""
        folder, source = self.stage_folder(stage.key), self.source_of(stage)
        if self.first:
            (folder / CHECKPOINT).unlink(missing_ok=True)  # of a call that was killed just before this
        kept = build_kept(stage, self._origin, source.in_channels, self.outputs, folder / RESIZER)
        return self._load(stage, folder, kept)

    def train_stage(self, stage: Stage) -> StageResult:
        """Trains a stage, or finds it complete.

        Raises:
            Exception: as ``jobs.train_stages``.
        """
        folder = self.stage_folder(stage.key)
        source = self.source_of(stage)
        if self.is_complete(stage):
            result = self.load_stage(stage)
            self.watcher.found(result)
            return result
        fetched = self.config.pretrained and stage.start is None
        self.watcher.doing(f"{'fetching the weights of' if fetched else 'building'} {self.config.title}")
        models = build_models(stage, self._origin, source.in_channels, self.outputs)
        if stage.start_key is not None:
            self._load_weights(models[1], self.stage_folder(stage.start_key) / NETWORK, self.output_names)
        if self.first:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        self.watcher.start(stage)
        batch_size = self.batch_sizes[stage.input_size]
        task = build_task(self.config, self.outputs, self.teacher)
        fitted = fit(stage, self.config, source, batch_size, models, task, folder, self.unreadable, self.watcher)
        if self.first:
            self._keep(stage, folder, fitted)
        distributed.wait_for_all()
        result = self._load(stage, folder, models)
        self.watcher.finish(result)
        return result

    def _keep(self, stage: Stage, folder: Path, fitted: Fitted) -> None:
        save_weights(fitted.network, folder / NETWORK, self.output_names)
        if stage.front.is_learned:
            resizer = learned_part(fitted.resizer)
            notes = {"data": printable(str(self.config.data), "utf-8"), "input_size": str(stage.input_size)}
            notes |= {"arm": stage.arm, "seed": str(stage.seed), "steps": str(stage.steps)}
            # Where the run normalises images before the resizer, users of the file need the resizer to do it. At native
            # sizes the resizer in the run has a mean and std in any case
            mean, std = (self.config.mean, self.config.std) if self.config.normalize else (None, None)
            arguments = replace(ResizerConfig.of(cast(Resizer, resizer)), mean=mean, std=std)
            save_resizer(resizer, arguments, folder / RESIZER, notes)
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
        self._load_weights(network, folder / NETWORK, self.output_names)
        if stage.front.is_learned:
            self._load_weights(learned_part(resizer), folder / RESIZER)
        with reading(folder / RESULT, remedy(folder)):
            values = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            if {name: type(value) for name, value in values.items()} != _RESULT_TYPES:
                raise ValueError(f"expected {', '.join(_RESULT_TYPES)}")
        with reading(folder / METRICS_FILE, remedy(folder)):
            rows = read_rows(folder / METRICS_FILE)
            if not rows or (rows[-1].split, rows[-1].step) != ("test", stage.steps):
                raise ValueError("its last test is missing")
        del values["steps"]  # the stage has them
        return StageResult(
            stage=stage,
            rows=rows,
            resizer=resizer.eval(),
            network=network.eval(),
            resizer_parameters=sum(parameter.numel() for parameter in resizer.parameters()),
            **values,
        )

    def _load_weights(self, module: nn.Module, path: Path, labels: Sequence[str] | None = None) -> None:
        try:
            load_weights(module, path, labels)
        except StateMismatchError:
            raise DamagedFileError(f"{path} belongs to another configuration; {remedy(path.parent)}") from None

    def _batch_sizes(self) -> dict[InputSize, int]:
        if isinstance(self.config.batch_size, int):
            return dict.fromkeys(self.config.input_size, self.config.batch_size)
        # Measured once and kept, so that all processes, and a resumed run, train with the same batches.
        path = self.folder / "batch-sizes.json"
        if self.first and not path.exists():
            from .batch_size import fitted_batch_size

            found = {
                size: fitted_batch_size(self.config, source, self.watcher) for size, source in self.sources.items()
            }
            atomic_bytes(path, json.dumps(found).encode())
        distributed.wait_for_all()
        with reading(path, "delete it, then the same command tries batch sizes again"):
            found = json.loads(path.read_text(encoding="utf-8"))
            sizes = {parse_input_size(size): int(batch) for size, batch in found.items()}
            world = self.config.devices * self.config.nodes
            if sizes.keys() != {*self.config.input_size} or any(b < 2 or b % world for b in sizes.values()):
                raise ValueError("expected a batch size for each input size")
        for size, batch in sizes.items():
            self.watcher.say(f"batch size at {size if size == NATIVE else f'{size}×{size}'}: {batch}")
        return sizes
