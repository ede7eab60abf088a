"""Contents of a run's figures, read back from matplotlib's objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("matplotlib", reason="figures need the [train] extra")

from matplotlib.colors import to_hex

from learned_resizer_cuda import Resize, resize
from learned_resizer_cuda.report.figures import ablation, curves, samples
from learned_resizer_cuda.report.figures.ablation import save_ablation
from learned_resizer_cuda.report.figures.samples import Asked
from learned_resizer_cuda.report.figures.style import COLOURS, arm_colours
from learned_resizer_cuda.report.summary import ArmSummary, MeanStd
from learned_resizer_cuda.train.protocol import Front, Stage
from learned_resizer_cuda.train.results import ACCURACY, PLCC, SRCC, Row, StageResult

ARMS = ("bilinear", "bicubic", "learned", "blind", "control", "control-long", "transfer", "fresh")


class Constant(nn.Module):
    """A network with a constant answer, which keeps its inputs."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        return self.answer.expand(len(images), -1)


def stage(
    arm: str = "learned",
    seed: int = 0,
    *,
    steps: int = 40,
    input_size: int = 8,
    metric: str = "accuracy",
    device: str = "cpu",
    resizer: nn.Module | None = None,
    network: nn.Module | None = None,
) -> StageResult:
    """A result with a metric of (step + seed) / 1000 every 10 steps from 0, and 2 CPU and 1 wall seconds a step."""
    rows = [
        Row(arm, seed, input_size, step, step / 10, "test", 1.0, 0.0, 2.0 * step, step, {metric: (step + seed) / 1000})
        for step in range(0, steps + 1, 10)
    ]
    rows += [
        Row(arm, seed, input_size, s, s / 10, "train", 3 - s / steps, 0.1, 2.0 * s, s) for s in range(1, steps + 1)
    ]
    rows.sort(key=lambda row: row.step)
    default = nn.Identity()
    made = Stage(arm, seed, input_size, steps, 0.1, Front("learned", "bilinear"))
    return StageResult(made, 4, 2.0 * steps, steps, 0, device, rows, resizer or default, network or default)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures, instead of their files."""
    figures: list[Any] = []
    for module in (curves, samples, ablation):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


# colours


def test_colours_are_distinct_and_steady() -> None:
    assert arm_colours(ARMS)["learned"] == COLOURS["learned"] == arm_colours(["learned"])["learned"]
    unknown = [f"r{r}-n{n}" for r in range(1, 7) for n in (4, 8, 16, 32, 64)]
    colours = arm_colours([*unknown, *ARMS])
    assert list(colours) == [*unknown, *ARMS] and len(set(colours.values())) == len(colours)
    assert all(colours[arm] == COLOURS[arm] for arm in ARMS)
    assert len(set(COLOURS.values())) == len(COLOURS)


# curves


def test_curves(drawn: list[Any]) -> None:
    curves.save_curves([stage(seed=0), stage(seed=20), stage("bicubic")], Path("curves.png"), [ACCURACY])
    loss, by_step, by_time = drawn[0].axes
    assert list(lines(by_step)) == ["learned", "bicubic"] == list(lines(loss)) == list(lines(by_time))
    assert lines(by_step)["learned"].get_xdata() == pytest.approx([0, 10, 20, 30, 40])
    assert lines(by_step)["learned"].get_ydata() == pytest.approx([1, 2, 3, 4, 5])  # %, mean of 0 and 20 thousandths
    assert lines(by_time)["learned"].get_xdata() == pytest.approx([0, 20, 40, 60, 80])
    # A band for the two seeds of the learned arm, none for one seed.
    (band,) = by_step.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0) and corners[:, 1].max() == pytest.approx(6)
    assert by_step.get_ylabel() == "test accuracy, %" and by_time.get_xlabel() == "CPU seconds of training"
    assert by_step.get_xscale() == loss.get_xscale() == "linear"
    # The loss falls by 1/40 a step: a running mean over two steps lags by at most half a step.
    mean = lines(loss)["bicubic"].get_ydata()
    assert np.abs(mean - (3 - np.arange(1, 41) / 40)).max() <= 0.5 / 40 + 1e-12


def test_curves_of_different_lengths_keep_step_0(drawn: list[Any]) -> None:
    curves.save_curves([stage(), stage("control-long", steps=400)], Path("curves.png"), [ACCURACY])
    _, by_step, _ = drawn[0].axes
    drawn[0].draw_without_rendering()
    pixels = by_step.transData.transform([(step, 0) for step in (0, 10, 100, 400)])[:, 0]
    assert np.isfinite(pixels).all() and (np.diff(pixels) > 10).all()
    # All decades are about equally wide.
    assert pixels[2] - pixels[1] > pixels[3] - pixels[2] > (pixels[2] - pixels[1]) / 3


def test_curves_of_several_sizes(drawn: list[Any]) -> None:
    results = [stage(arm, input_size=size, metric="srcc") for arm in ("bilinear", "learned") for size in (8, 16)]
    curves.save_curves(results, Path("curves.png"), [SRCC])
    found = lines(drawn[0].axes[1])
    assert list(found) == ["bilinear, 8 px", "bilinear, 16 px", "learned, 8 px", "learned, 16 px"]
    styles = [line.get_linestyle() for line in found.values()]
    colours = [line.get_color() for line in found.values()]
    assert styles[0] == styles[2] != styles[1] == styles[3]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert drawn[0].axes[1].get_ylabel() == "test SRCC"
    assert found["learned, 8 px"].get_ydata()[-1] == pytest.approx(0.04)  # not per cent


def test_curves_of_a_gpu_go_by_the_clock(drawn: list[Any]) -> None:
    curves.save_curves([stage(device="cuda")], Path("curves.png"), [ACCURACY])
    by_time = drawn[0].axes[2]
    assert by_time.get_xlabel() == "wall seconds of training"
    assert lines(by_time)["learned"].get_xdata()[-1] == pytest.approx(40)


def test_bad_curves() -> None:
    with pytest.raises(ValueError, match="results: got none"):
        curves.save_curves([], Path("curves.png"), [ACCURACY])
    with pytest.raises(ValueError, match="metric: got 'plcc'; expected one of accuracy"):
        curves.save_curves([stage()], Path("curves.png"), [PLCC])


def test_transfer(drawn: list[Any]) -> None:
    results = [stage(arm, seed) for arm in ("transfer", "fresh", "control") for seed in (0, 20)]
    curves.save_transfer(results, Path("transfer.png"), ACCURACY)
    (axes,) = drawn[0].axes
    assert list(lines(axes)) == ["transfer: 5.0", "fresh: 5.0", "control: 5.0"]
    assert lines(axes)["fresh: 5.0"].get_xdata() == pytest.approx([0, 1, 2, 3, 4])
    assert len(axes.collections) == 3


# samples


def test_picked_images() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    chosen = samples.pick_images(labels, 5)
    assert labels[chosen].tolist() == [0, 2, 4, 7, 9]
    assert len(samples.pick_images(torch.tensor([3, 3, 1]), 5)) == 2  # fewer classes than rows
    histograms = torch.eye(10)[[4, 9, 0, 2, 7]]
    assert samples.pick_images(histograms, 3) == [2, 0, 1]  # lowest, middle and highest grade
    assert samples.mean_score(histograms).tolist() == [5, 10, 1, 3, 8]


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def answers(figure: Any) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]


def shown(figure: Any, title: str) -> np.ndarray:
    """The first image under a title, as matplotlib stores it."""
    (axes,) = [axes for axes in figure.axes if axes.get_title().startswith(title)]
    return np.asarray(axes.images[0].get_array())


def test_samples_of_classes(drawn: list[Any]) -> None:
    images = torch.rand(4, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    learned = nn.Sequential(Resize((4, 6)), nn.Upsample(scale_factor=1))
    network = Constant(torch.tensor([0.0, 1.0]))
    results = [
        stage("bicubic", network=Constant(torch.tensor([1.0, 0.0])), input_size=12),
        stage("learned", resizer=nn.Identity(), network=nn.Identity(), input_size=24),
        stage("learned", resizer=learned, network=network, input_size=12),
    ]
    samples.save_samples(
        results,
        images,
        [Asked("", "classification", ["a $very$ long name of a class", "cat"], torch.tensor([0, 1, 0, 1]))],
        Path("samples.png"),
        interpolation="bicubic",
        size=(4, 6),
    )
    figure = drawn[0]
    heads = [title.splitlines()[0] for title in titles(figure)]
    assert heads == ["input", "bilinear", "bicubic", "lanczos", "learned 4×6", "difference"]
    # The result at the images' size answers.
    (given,) = network.shown
    assert answers(figure) == ["a $very$ long n… ✓", "cat ✗", "a $very$ long n… ✗", "cat ✓"]
    index = samples.pick_images(torch.tensor([0, 1, 0, 1]), 5)
    assert torch.equal(given, learned(images[index]))
    assert shown(figure, "input") == pytest.approx(images[index[0], 0].numpy())
    gap = resize(images[index], (4, 6)) - resize(images[index], (4, 6), interpolation="bicubic")
    assert shown(figure, "difference") == pytest.approx(gap[0, 0].numpy())
    image = next(axes for axes in figure.axes if axes.get_title().startswith("difference")).images[0]
    assert image.get_clim() == pytest.approx((-float(gap.abs().max()), float(gap.abs().max())))  # 0 is white


def test_samples_in_colour_with_grades(drawn: list[Any]) -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    histograms = torch.eye(4)[[0, 1, 3]]

    class Brighten(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return 3 * resize(values, 4)

    logits = torch.tensor([-1e4, -1e4, 0.0, 0.0])  # grades 3 and 4, equally likely
    samples.save_samples(
        [stage("transfer", resizer=Brighten(), network=Constant(logits))],
        2 * images - 1,
        [Asked("", "iqa", ["1", "2", "3", "4"], histograms)],
        Path("samples.png"),
        interpolation="bilinear",
        size=4,
        display=lambda values: (values + 1) / 2,
        arm="transfer",
    )
    figure = drawn[0]
    assert answers(figure) == ["3.50 (+2.50)", "3.50 (+1.50)", "3.50 (−0.50)"]
    assert shown(figure, "input") == pytest.approx(images[0].permute(1, 2, 0).numpy(), abs=1e-6)  # float32
    base = resize(images, 4)
    values = (3 * (2 * base - 1) + 1) / 2
    # The 1st and 99th percentile of 144 values: the second from either end.
    ends = values.flatten().sort().values[[1, -2]]
    assert titles(figure)[4] == f"transfer 4×4\nshown: {ends[0]:.2f} to {ends[1]:.2f}".replace("-", "−")
    expected = ((values - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)[0].permute(1, 2, 0)
    assert shown(figure, "transfer") == pytest.approx(expected.numpy(), abs=1e-5)  # float32, a range near 1
    assert shown(figure, "difference") == pytest.approx((values - base).mean(1)[0].numpy(), abs=1e-5)


def test_samples_without_a_learned_arm(tmp_path: Path) -> None:
    path = tmp_path / "samples.png"
    arguments: dict[str, Any] = {"interpolation": "bilinear", "size": 4}

    def asked(targets: list[int], task: str = "classification") -> list[Asked]:
        return [Asked("", task, ["a", "b"], torch.tensor(targets))]

    samples.save_samples([], torch.rand(2, 1, 8, 8), asked([0, 1]), path, **arguments)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="images: got"):
        samples.save_samples([], torch.rand(2, 2, 8, 8), asked([0, 1]), path, **arguments)
    with pytest.raises(ValueError, match=r"targets: got shape \(3,\); expected \(2,\)"):
        samples.save_samples([], torch.rand(2, 1, 8, 8), asked([0, 1, 1]), path, **arguments)
    with pytest.raises(ValueError, match=r"targets: got shape \(2,\); expected \(2, H, W\)"):
        samples.save_samples([], torch.rand(2, 1, 8, 8), asked([0, 1], "segmentation"), path, **arguments)
    with pytest.raises(ValueError, match="task: got 'x'"):
        samples.save_samples([], torch.rand(2, 1, 8, 8), asked([0, 1], "x"), path, **arguments)


def test_samples_with_masks_of_one_network_and_classes_of_another(drawn: list[Any]) -> None:
    """A mask lies over the whole panel, whatever its size; class 0 and unlabelled pixels are clear."""
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[0, :4, :4], masks[0, 4:, 4:] = 1, 255
    masks[1, :, :4] = 2
    logits = torch.zeros(3, 4, 4)
    logits[1, :, :2], logits[1, :, 2:] = 1.0, -1.0  # the left half, also after enlarging

    class Two(nn.Module):
        def forward(self, small: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tensor([[0.0, 1.0]]).expand(len(small), -1), logits.expand(len(small), -1, -1, -1)

    samples.save_samples(
        [stage("bilinear", network=Two(), input_size=8)],
        images,
        [
            Asked("sorter", "classification", ["ant", "bee"], torch.tensor([1, 0])),
            Asked("painter", "segmentation", ["nothing", "leaf", "stone"], masks),
        ],
        Path("samples.png"),
        interpolation="bilinear",
        size=4,
    )
    # The second image is drawn first, as its class is 0: of classes 0, 1 and 2 only 0 has an intersection, all of it.
    # In the first image both 0 and 1 have intersections of 16 and unions of 32 pixels, the unlabelled ones left out.
    assert answers(drawn[0]) == ["sorter: bee ✗\npainter: mIoU 33%", "sorter: bee ✓\npainter: mIoU 50%"]
    bilinear = next(axes for axes in drawn[0].axes if axes.get_title().startswith("bilinear"))
    assert bilinear.images[1].get_extent() == [-0.5, 3.5, 3.5, -0.5]
    truth = next(axes for axes in drawn[0].axes if axes.get_title().startswith("input"))
    alpha = np.asarray(truth.images[1].get_array())[..., 3]
    assert (alpha > 0).sum() == 32  # of the second mask, which is drawn first


# ablation


def summary_of(front: Front, arm: str, accuracy: float, std: float | None, gflop: float, parameters: int) -> ArmSummary:
    one = MeanStd.of([0.0])
    metrics = {metric: MeanStd(accuracy, std, ()) for metric in ("accuracy", "srcc")}
    return ArmSummary(arm, 8, front, 40, 4, metrics, one, one, None, one, one, parameters, gflop)


def grid(std: float | None) -> list[ArmSummary]:
    return [
        summary_of(
            Front("learned", "bilinear", n, r),
            f"r{r}-n{n}",
            0.5 + 0.01 * r + 0.0005 * n,
            std,
            0.01 * r * n,
            500 + 18 * r * n * n,
        )
        for r in (1, 2, 3, 4)
        for n in (4, 8, 16, 32)
    ]


def baseline(arm: str, accuracy: float) -> ArmSummary:
    return summary_of(Front("fixed", "bilinear"), arm, accuracy, None, 0.0, 0)


def test_ablation(drawn: list[Any]) -> None:
    arms = [baseline("bilinear", 0.42), *grid(0.01), baseline("control", 0.5)]
    save_ablation(arms, Path("ablation.png"), ACCURACY)
    for axes in drawn[0].axes:
        found = lines(axes)
        assert set(found["bilinear"].get_ydata()) == {42.0} and set(found["control"].get_ydata()) == {50.0}
        labels = axes.get_legend_handles_labels()[1]
        sizes = {f"n = {n}" for n in (4, 8, 16, 32)} | {f"r = {r}" for r in (1, 2, 3, 4)}
        assert set(labels) == {"bilinear", "control"} | sizes
        rows = [bars.lines[0].get_color() for bars in axes.containers]
        colours = [*rows, found["bilinear"].get_color(), found["control"].get_color()]
        assert len({to_hex(colour) for colour in colours}) == 6
        # Each point in the colour of its r, with the marker of its n.
        points = [line for line in axes.lines if line.get_label().startswith("_") and len(line.get_xdata()) == 1]
        markers = [found[f"n = {n}"].get_marker() for n in (4, 8, 16, 32)]
        assert len(set(markers)) == 4
        assert [(to_hex(point.get_color()), point.get_marker()) for point in points] == [
            (to_hex(row), marker) for row in rows for marker in markers
        ]
    cost, parameters = (axes.containers[0].lines[0].get_xdata() for axes in drawn[0].axes)
    assert cost == pytest.approx([0.04, 0.08, 0.16, 0.32])
    assert parameters == pytest.approx([0.788, 1.652, 5.108, 18.932])


@pytest.mark.parametrize("count", [1, 2])
def test_small_ablation(drawn: list[Any], count: int) -> None:
    save_ablation(grid(None)[:count], Path("ablation.png"), SRCC)
    for axes in drawn[0].axes:
        left, right = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
        assert 3 <= len(ticks) <= 8
        # Not per cent.
        assert axes.containers[0].lines[0].get_ydata()[0] == pytest.approx(0.512)


def test_no_ablation() -> None:
    with pytest.raises(ValueError, match="arms: got none with a learned resizer"):
        save_ablation([baseline("control", 0.5)], Path("ablation.png"), ACCURACY)


def test_figures_reach_their_files(tmp_path: Path) -> None:
    save_ablation([*grid(None)[:2], baseline("control", 0.5)], tmp_path / "a.png", ACCURACY)
    curves.save_curves([stage()], tmp_path / "b.png", [ACCURACY])
    curves.save_transfer([stage("transfer")], tmp_path / "c.png", ACCURACY)
    for name in "abc":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
