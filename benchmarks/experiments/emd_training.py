"""Recipes for training a small network on the earth mover's distance, and the rank correlation of each.

``python -m benchmarks.experiments.emd_training [--seeds 1] [--recipes NAME ...]`` prints a Markdown table.
Every recipe trains ``SmallCNN`` behind a bilinear resizer on the built-in photographs under graded distortions, on one
core, from the same weights and on the same images. It differs from the first recipe as its name says.
Columns:

- PLCC and SRCC between predicted and target mean grades on photographs that are not in the training set, and the SRCC
  within each kind of distortion;
- spread: standard deviation of the predicted mean grades, near 0 if the network predicts one histogram for all;
- loss: the distance, whatever was minimised, in the last twentieth of training and on the test images;
- gradient: norms at the first layer and at the head, means over the first and last twentieth of training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from learned_resizer_cuda import EMDLoss, resize
from learned_resizer_cuda.data.distortions import DISTORTIONS, LEVELS
from learned_resizer_cuda.data.quality import QualityPhotographs, grade_histogram
from learned_resizer_cuda.train.networks import SmallCNN

EMD = EMDLoss()


def squared(logits: Tensor, target: Tensor) -> Tensor:
    """The distance without its root."""
    return (logits.softmax(-1) - target).cumsum(-1).square().mean()


@dataclass(frozen=True)
class Recipe:
    """A training. ``bias``: the head's bias starts at the logarithm of the mean histogram, else at torch's default."""

    name: str
    loss: Callable[[Tensor, Tensor], Tensor] = EMD
    optimiser: str = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    steps: int = 800
    batch_size: int = 32
    bias: bool = True
    normalise: bool = False
    input_size: int = 48
    size: int = 24


BASE = Recipe("EMD, bias, AdamW 3e-3")
RECIPES = (
    BASE,
    replace(BASE, name="no bias", bias=False),
    replace(BASE, name="squared EMD", loss=squared),
    replace(BASE, name="cross-entropy", loss=F.cross_entropy),
    replace(BASE, name="rate 1e-3", learning_rate=1e-3),
    replace(BASE, name="rate 1e-2", learning_rate=1e-2),
    replace(BASE, name="SGD 0.3", optimiser="sgd", learning_rate=0.3),
    replace(BASE, name="weight decay 0.05", weight_decay=0.05),
    replace(BASE, name="normalised input", normalise=True),
    replace(BASE, name="200 steps", steps=200),
    replace(BASE, name="1600 steps", steps=1600),
    replace(BASE, name="batch 64", batch_size=64),
    replace(BASE, name="96 to 24", input_size=96),
    replace(BASE, name="no reduction, 24 to 24", input_size=24),
)
MEAN_HISTOGRAM = torch.stack([torch.from_numpy(grade_histogram(level)) for level in range(LEVELS)]).mean(0)


def prepare(images: Tensor, recipe: Recipe) -> Tensor:
    """Bytes (N, C, H, W) → images for the network."""
    unit = resize(images.float() / 255, recipe.size)
    return (unit - 0.45) / 0.25 if recipe.normalise else unit


def ranks(values: Tensor) -> Tensor:
    """Ranks of the values; ties share their mean rank."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[inverse]


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's coefficient."""
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def measure(recipe: Recipe, source: QualityPhotographs, seed: int) -> list[str]:
    """Train by the recipe and return its cells of the table."""
    torch.manual_seed(seed)
    network = SmallCNN(3, len(MEAN_HISTOGRAM))
    if recipe.bias:
        with torch.no_grad():
            network.head.bias.copy_(MEAN_HISTOGRAM.log())
    optimiser: torch.optim.Optimizer
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay)
    else:
        optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=recipe.steps)
    rows = []
    for step in range(recipe.steps):
        batch = source.train_batch(seed, step, recipe.batch_size)
        logits = network(prepare(batch.images, recipe))
        optimiser.zero_grad()
        recipe.loss(logits, batch.targets).backward()
        optimiser.step()
        schedule.step()
        named = dict(network.named_parameters())
        gradients = [torch.as_tensor(named[name].grad).norm() for name in ("features.0.weight", "head.weight")]
        rows.append(torch.stack([EMD(logits.detach(), batch.targets), *gradients]))
    trace, few = torch.stack(rows), max(1, recipe.steps // 20)
    first, last = trace[:few].mean(0), trace[-few:].mean(0)

    network.eval()
    test = source.test_batch(slice(0, source.test_size))
    kinds = torch.tensor([source.test_condition(number)[0] for number in range(source.test_size)])
    with torch.no_grad():
        logits = torch.cat([network(prepare(part, recipe)) for part in test.images.split(200)])
    grades = torch.arange(1.0, 1 + len(MEAN_HISTOGRAM))
    predicted, target = logits.softmax(-1) @ grades, test.targets @ grades
    within = [correlation(ranks(predicted[kinds == k]), ranks(target[kinds == k])) for k in range(len(DISTORTIONS))]
    return [
        f"{correlation(predicted, target):.2f}",
        f"{correlation(ranks(predicted), ranks(target)):.2f}",
        *(f"{value:.2f}" for value in within),
        f"{float(predicted.std()):.2f}",
        f"{float(last[0]):.3f}, {float(EMD(logits, test.targets)):.3f}",
        f"{float(first[1]):.3f} to {float(last[1]):.3f}",
        f"{float(first[2]):.3f} to {float(last[2]):.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipes", nargs="+", default=[recipe.name for recipe in RECIPES])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [distortion.name for distortion in DISTORTIONS]
    heads = ["recipe", "seed", "PLCC", "SRCC", *kinds, "spread", "loss train, test", "gradient first", "head"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for recipe in (recipe for recipe in RECIPES if recipe.name in arguments.recipes):
        source = QualityPhotographs(recipe.input_size)
        for seed in range(arguments.seeds):
            print(f"| {' | '.join([recipe.name, str(seed), *measure(recipe, source, seed)])} |", flush=True)


if __name__ == "__main__":
    main()
