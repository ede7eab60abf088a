"""Tests the resizers and networks of a run's finished stages, on the run's own test images or on other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..damaged import reading
from ..data.source import Source
from ..data.unreadable import UnreadableLog
from ..weights import StateMismatchError
from .batches import SourceData
from .config import RunConfig
from .limits import check_batch, check_weights, most_workers
from .loop import make_trainer, quiet_lightning
from .models import build_kept, learned_part
from .module import JointTraining, optimisers
from .progress import Watcher
from .protocol import Stage, plan
from .record import UnreadableCount
from .run import NETWORK, RESIZER, RESULT, load_weights
from .run_folder import CONFIG, STAGES
from .tasks import build_task


@dataclass(frozen=True)
class Evaluation:
    """One stage's figures on the test images."""

    arm: str
    seed: int
    input_size: int
    loss: float
    metrics: dict[str, float]


def evaluate(
    folder: Path,
    data: str | None = None,
    arms: Sequence[str] = (),
    accelerator: str = "auto",
    watcher: Watcher | None = None,
) -> list[Evaluation]:
    """Tests what a run trained.

    Args:
        folder: of the run; stages that have not ended are left out.
        data: other data than the run's; its classes or bins must be the run's. A score file must be in the folder.
        arms: those to test, default all.
        accelerator: where.
        watcher: told of progress.

    Raises:
        FileNotFoundError: the folder holds no run, or no stage that has ended.
        DamagedFileError: a file of the run cannot be read.
        ValueError: an arm that the run has not; data whose classes are others; images or weights larger than memory.
        DataError: the data cannot be used (see ``data.errors``).
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"run: got {folder}; expected the folder of a run, with a {CONFIG}")
    with reading(folder / CONFIG, "write it again, with the options of that run"):
        trained = RunConfig.load(folder / CONFIG)
    workers = min(trained.num_workers, most_workers(1))  # the run may be a larger machine's
    config = replace(trained, accelerator=accelerator, devices=1, nodes=1, num_workers=workers)
    check_batch(config, 1)
    if data is not None:
        config = replace(config, data=data, scores=None, extra_photographs=None)  # those are of the run's own data
    stages = [stage for stage in plan(trained, lambda _: 1.0) if (folder / STAGES / stage.key / RESULT).is_file()]
    if not stages:
        raise FileNotFoundError(f"run: got {folder}; expected at least one stage that has ended")
    known = list(dict.fromkeys(stage.arm for stage in stages))
    if unknown := [arm for arm in arms if arm not in known]:
        raise ValueError(f"arms: got {', '.join(unknown)}; expected some of {', '.join(known)}")
    chosen = [stage for stage in stages if not arms or stage.arm in arms]
    if any(stage.front.kind == "blind" for stage in chosen):  # the others are as large as their files
        check_weights(config, 1)
    unreadable = UnreadableLog(config.max_unreadable, None)
    watcher = watcher or Watcher()
    watcher.say(f"evaluate: {folder} on {config.data}")
    watcher.doing("reading the data")
    sources = {size: config.open_source(size) for size in dict.fromkeys(stage.input_size for stage in chosen)}
    found = []
    for number, stage in enumerate(chosen, 1):
        watcher.doing(f"testing {stage.name}, {number} of {len(chosen)}")
        found.append(_test(stage, trained, config, folder, sources[stage.input_size], unreadable))
    return found


def _test(
    stage: Stage, trained: RunConfig, config: RunConfig, folder: Path, source: Source, unreadable: UnreadableLog
) -> Evaluation:
    place = folder / STAGES / stage.key
    resizer, network = build_kept(stage, trained, source.in_channels, len(source.labels), place / RESIZER)
    try:
        load_weights(network, place / NETWORK, source.labels)
        if stage.front.is_learned:
            load_weights(learned_part(resizer), place / RESIZER)
    except StateMismatchError as error:
        raise ValueError(
            f"data: got {config.data}, of {len(source.labels)} classes or bins and {source.in_channels} channels, "
            f"which do not fit what was trained on {trained.data}"
        ) from error
    task = build_task(config.task, len(source.labels), config.loss, config.label_smoothing)
    module = JointTraining(resizer, network, task, optimisers(config, 1.0, 2, 1.0))
    normalisation = (config.mean, config.std) if config.normalize else None
    data = SourceData(source, stage.seed, 2, [], config.num_workers, normalisation)
    with quiet_lightning():
        make_trainer(config, [UnreadableCount(unreadable)]).validate(module, data, verbose=False)
    loss, metrics = task.results()
    return Evaluation(stage.arm, stage.seed, stage.input_size, loss, metrics)
