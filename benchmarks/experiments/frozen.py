"""Recipes for training the resizer before a frozen network: one factor changed at a time.

``python -m benchmarks.experiments.frozen FOLDER`` trains the learned resizer, 224 to 96, before the frozen
EfficientNet-Lite0 of the extra [pretrained], to answer as the network does at 224. FOLDER has ``train`` and ``val``
with photographs. benchmarks/results/recipes.json gets a record of each training: recipe, seed, and agreement with the
network's own answer and Kullback-Leibler divergence on the photographs of ``val``, of the average of the weights and of
the last ones. Trainings that are there are kept.

So that many recipes fit into an hour, images and the network's answers are computed once. ``--compare RUN`` reads a run
of `learned-resizer train --task distill` and compares its arms photograph by photograph, in frozen.json for one with
``--freeze network``, else in joint.json.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.experiments.paper import RESULTS
from learned_resizer_cuda import FusedResizer, Resize
from learned_resizer_cuda.data.image_view import fixed_view, read_view
from learned_resizer_cuda.data.listing import images_under
from learned_resizer_cuda.train.batches import Batches
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.frequencies import FrequencyAdamW
from learned_resizer_cuda.train.memory import keep_freed_memory
from learned_resizer_cuda.train.networks import build_network
from learned_resizer_cuda.train.recalibrate import norms_of, recalibrate
from learned_resizer_cuda.train.results import StageResult
from learned_resizer_cuda.train.run import Run
from learned_resizer_cuda.train.tasks import CosineDistance, Divergence, WithFeatures, build_task

INPUT, SIZE, CLASSES, BATCH, CALIBRATION, WARM_UP, EMA = 224, 96, 1000, 16, 8, 6, 0.98
MODEL, WEIGHTS = "tf_efficientnet_lite0", "efficientnet-lite0"


@dataclass(frozen=True)
class Recipe:
    """The recipe that the others differ from in one factor."""

    basis: str = "frequencies"
    learning_rate: float = 1e-4
    norms: str = "fixed"
    loss: str = "cosine"
    temperature: float = 1.0
    zero_init: bool = True
    interpolation: str = "bilinear"


RECIPES = {
    "recipe": Recipe(),
    "taps": Recipe(basis="taps"),
    "taps, rate 3e-4": Recipe(basis="taps", learning_rate=3e-4),
    "taps, rate 1e-3": Recipe(basis="taps", learning_rate=1e-3),
    "norms of each batch": Recipe(norms="batch"),
    "taps, norms of each batch, rate 3e-4": Recipe(basis="taps", learning_rate=3e-4, norms="batch"),
    "outputs": Recipe(loss="kl"),
    "outputs, taps, norms of each batch, rate 1e-3": Recipe("taps", 1e-3, "batch", "kl"),
    "outputs, temperature 4": Recipe(loss="kl", temperature=4.0),
    "hard labels": Recipe(loss="hard"),
    "random weights": Recipe(zero_init=False),
    "lanczos inside": Recipe(interpolation="lanczos"),
}


class Study:
    """The network, photographs and the network's own answers."""

    def __init__(self, folder: Path) -> None:
        network = build_network(MODEL, 3, CLASSES, weights=WEIGHTS).eval().requires_grad_(False)
        self.network = WithFeatures(network)
        kept = folder / "views.pt"
        if not kept.exists():
            torch.save(self._views(folder), kept)
        self.data: dict[str, Tensor] = torch.load(kept, weights_only=True)

    def _views(self, folder: Path) -> dict[str, Tensor]:
        fixed = partial(fixed_view, "crop")
        train = []
        for name in images_under(folder / "train"):
            image = read_view(folder / "train" / name, fixed, INPUT, 3)
            train += [image, image.flip(-1)]
        test = [read_view(folder / "val" / name, fixed, INPUT, 3) for name in images_under(folder / "val")]
        found = {"train": torch.stack(train), "test": torch.stack(test)}
        with torch.inference_mode():
            for split in ("train", "test"):
                found[f"{split} targets"] = torch.cat([self.network(unit(part)) for part in found[split].split(50)])
        return found

    @torch.inference_mode()
    def test(self, front: nn.Module) -> dict[str, float]:
        """Agreement and divergence of the network behind ``front``."""
        front.eval()
        mine = torch.cat([self.network(front(unit(part))) for part in self.data["test"].split(50)])
        logits, teacher = mine[:, -CLASSES:], self.data["test targets"][:, -CLASSES:]
        return {
            "agreement": float((logits.argmax(1) == teacher.argmax(1)).double().mean()),
            "divergence": float(Divergence(1.0)(logits, teacher)),
        }

    def train(self, recipe: Recipe, seed: int, steps: int) -> dict[str, Any]:
        """Trains a resizer by a recipe and tests it."""
        torch.manual_seed(seed)
        resizer = FusedResizer(SIZE, interpolation=recipe.interpolation, zero_init=recipe.zero_init)
        count = len(self.data["train"])
        order = torch.cat([torch.randperm(count) for _ in range(max(steps, CALIBRATION) * BATCH // count + 1)])
        first = [unit(self.data["train"][order[i * BATCH : (i + 1) * BATCH]]) for i in range(CALIBRATION)]
        if recipe.norms == "fixed":
            recalibrate(resizer, first)
            for norm in norms_of(resizer):
                norm.eval()
        group = {"params": [*resizer.parameters()], "frequencies": recipe.basis == "frequencies"}
        optimiser = FrequencyAdamW([group], 0.0)
        average = AveragedModel(resizer, multi_avg_fn=get_ema_multi_avg_fn(EMA))
        for step in range(steps):
            rate = min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * rate
            index = order[step * BATCH : (step + 1) * BATCH]
            outputs = self.network(resizer(unit(self.data["train"][index])))
            optimiser.zero_grad()
            _loss(recipe, outputs, self.data["train targets"][index]).backward()
            optimiser.step()
            average.update_parameters(resizer)
        found = {}
        for name, trained in (("average", average.module), ("last", resizer)):
            if recipe.norms == "batch":
                recalibrate(trained, first)
            found |= {f"{metric} of the {name}": value for metric, value in self.test(trained).items()}
        return found


def _loss(recipe: Recipe, outputs: Tensor, targets: Tensor) -> Tensor:
    if recipe.loss == "cosine":
        return CosineDistance(CLASSES)(outputs, targets)
    logits, teacher = outputs[:, -CLASSES:], targets[:, -CLASSES:]
    if recipe.loss == "hard":
        return functional.cross_entropy(logits, teacher.argmax(1))
    return Divergence(recipe.temperature)(logits, teacher)


def unit(images: Tensor) -> Tensor:
    """uint8 images as the network wants them, in [-1, 1]."""
    return images.float() / 127.5 - 1


def compare(folder: Path) -> dict[str, Any]:
    """The learned arm of a run against each other one, on the same photographs.

    A margin is what chance may make at about 95 %: ``2 sqrt(v / N + s² / n)``, with v the variance over the N
    photographs of the difference's mean over the n seeds, and s its standard deviation over the seeds, 0 of one seed.
    """
    run = Run(RunConfig.load(folder / "config.yaml"), folder)
    source, config = next(iter(run.sources.values())), run.config
    task, classes = build_task(config, run.outputs, run.teacher), run.outputs[0]
    batches = [*Batches(source, 0, BATCH, normalize=(config.mean, config.std)).test()]
    found: dict[str, list[Tensor]] = {}
    results: dict[str, list[StageResult]] = {}
    with torch.inference_mode():
        teacher = torch.cat([task.targets(batch.images, batch.targets) for batch in batches])
        for stage in run.stages:
            result = run.load_stage(stage)
            results.setdefault(stage.arm, []).append(result)
            student = task.student(result.network)
            mine = torch.cat([student(result.resizer(batch.images)) for batch in batches])
            logs = [values[:, -classes:].log_softmax(1) for values in (mine, teacher)]
            divergence = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(1)
            agreement = (logs[0].argmax(1) == logs[1].argmax(1)).float()
            cosine = functional.cosine_similarity(mine[:, :-classes], teacher[:, :-classes])
            found.setdefault(stage.arm, []).append(torch.stack([agreement, cosine, divergence]).double())
    arms = {arm: torch.stack(values) for arm, values in found.items()}  # (seeds, 3, photographs)
    rows = []
    for arm, values in arms.items():
        gaps = (arms["learned"] - values).transpose(0, 1)  # (3, seeds, photographs)
        of_seeds = gaps.mean(2).var(1) if config.seeds > 1 else 0
        margins = 2 * (gaps.mean(1).var(1) / gaps.shape[2] + of_seeds / gaps.shape[1]).sqrt()
        seconds = [result.cpu_seconds for result in results[arm]]
        row: dict[str, Any] = {"arm": arm, "steps": results[arm][0].final.step, "cpu_s": fmean(seconds)}
        for name, value, gap, margin in zip(
            ("agreement", "cosine", "divergence"), values.mean((0, 2)), gaps.mean((1, 2)), margins, strict=True
        ):
            row |= {name: float(value), f"{name} gap": float(gap), f"{name} margin": float(margin)}
        rows.append(row)
    sizes = {"train": source.train_size, "test": len(teacher)}
    kept = {name: getattr(config, name) for name in ("freeze", "seeds", "interpolation", "loss")}
    return {"pairs": rows, "photographs": sizes, "torch": torch.__version__} | kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if options.compare is not None:
        found = compare(options.compare)
        write(options.out / ("frozen.json" if found["freeze"] else "joint.json"), found)
    if options.folder is None:
        return
    study, path = Study(options.folder), options.out / "recipes.json"
    records = json.loads(path.read_text())["recipes"] if path.exists() else []
    work = [(name, 0) for name in ("bilinear", "bicubic", "lanczos")]
    work += [(name, seed) for seed in range(options.seeds) for name in RECIPES]
    for name, seed in work:
        if any((record["recipe"], record["seed"]) == (name, seed) for record in records):
            continue
        if name in RECIPES:
            found = study.train(RECIPES[name], seed, options.steps) | asdict(RECIPES[name]) | {"steps": options.steps}
        else:
            tested = study.test(Resize(SIZE, interpolation=name))
            found = {f"{metric} of the average": value for metric, value in tested.items()}
        records.append({"recipe": name, "seed": seed, **found})
        write(path, {"recipes": records, "photographs": len(study.data["test"]), "torch": torch.__version__})


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
