"""FusedResizer and reference.Resizer of images of any sizes, with boxes and flips."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learned_resizer_cuda import FusedResizer, composition, reference, use_backend
from learned_resizer_cuda.export import decompositions
from learned_resizer_cuda.ops import stem
from learned_resizer_cuda.sync_batch_norm import synchronise
from tests.helpers.calls import Calls
from tests.helpers.gloo_processes import needs_gloo, run_processes
from tests.helpers.module_changes import COMPOSED
from tests.helpers.module_changes import N as CHANGED_FILTERS

OPS = torch.ops.learned_resizer
SIZE = (6, 5)
SIDES = [(14, 9), (8, 17), (3, 4), (25, 2)]
# Sub-pixel, the whole image, less than a pixel wide, whole pixels.
BOXES = [(1.25, 0.5, 9.0, 7.75), (0.0, 0.0, 8.0, 17.0), (0.5, 2.25, 2.5, 0.5), (3.0, 1.0, 20.0, 1.0)]
FLIP = [True, False, True, False]
REGIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "boxes": {"boxes": BOXES},
    "flip": {"flip": FLIP},
    "boxes and flip": {"boxes": torch.tensor(BOXES), "flip": torch.tensor(FLIP)},
}
MODULES = (FusedResizer, reference.Resizer)


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="FusedResizer")
        yield


def _resizer(kind: type[Any] = FusedResizer, dtype: torch.dtype = torch.float64, **arguments: Any) -> Any:
    torch.manual_seed(0)
    module = kind(arguments.pop("size", SIZE), **({"num_filters": 4} | arguments))
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            # Nothing that zeros and ones would hide.
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.5)
    return module.to(dtype)


def _images(
    sides: Sequence[tuple[int, int]] = SIDES, dtype: torch.dtype = torch.float64, channels: int = 3
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(channels, *side, generator=generator, dtype=torch.float64).to(dtype) for side in sides]


def _levels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *side), generator=generator, dtype=torch.uint8) for side in SIDES]


def _step(module: nn.Module, images: Any, **regions: Any) -> dict[str, Tensor]:
    """Result, gradients and buffers of a training or evaluation step."""
    tensors = images if isinstance(images, list) else [images]
    tensors = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in tensors]
    out = module(tensors if isinstance(images, list) else tensors[0], **regions)
    along = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(out.dtype)
    wanted = {f"images[{index}]": t for index, t in enumerate(tensors) if t.requires_grad}
    wanted |= {name: p for name, p in module.named_parameters() if p.requires_grad}
    grads = dict(zip(wanted, torch.autograd.grad(out, [*wanted.values()], along), strict=True))
    return {"out": out.detach(), **grads, **{name: b.clone() for name, b in module.named_buffers()}}


def _assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-11) -> None:
    """By default as in test_composition: float64, hundreds of roundings of 1e-16 in sums of hundreds of terms."""
    assert got.keys() == expected.keys()
    largest = max(float(value.double().norm()) for value in expected.values())
    for name, value in expected.items():
        # Of the largest where sums cancel: a bias before a norm.
        error = float((got[name] - value).double().norm())
        assert error <= tolerance * (float(value.double().norm()) + largest), (name, error)


# An oracle of its own: each image cropped, mirrored and resampled by formula, statistics over the crops' pixels.


def _filter(name: str, x: float, a: float) -> float:
    x = abs(x)
    if name == "bilinear":
        return max(1 - x, 0.0)
    if name == "bicubic":
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0
    if x == 0:
        return 1.0
    t = math.pi * x
    return 3 * math.sin(t) * math.sin(t / 3) / t**2 if x < 3 else 0.0


def _matrix(pixels: int, out: int, begin: float, extent: float, name: str, antialias: bool) -> Tensor:
    """``(out, pixels)``: an axis of a region ``begin … begin + extent`` of a crop."""
    reach = {"bilinear": 1, "bicubic": 2, "lanczos": 3}[name]
    rows = []
    for o in range(out):
        center = begin + (o + 0.5) * extent / out - 0.5
        row = [0.0] * pixels
        if antialias:
            stretch = max(extent / out, 1.0)
            for i in range(pixels):
                row[i] = _filter(name, (i - center) / stretch, -0.5)
        else:
            for tap in range(math.floor(center) + 1 - reach, math.floor(center) + reach + 1):
                row[min(max(tap, 0), pixels - 1)] += _filter(name, tap - center, -0.75)
        rows.append([weight / sum(row) for weight in row])
    return torch.tensor(rows, dtype=torch.float64)


class _Oracle(nn.Module):
    """A resizer's function of a list, from its parameters alone."""

    def __init__(self, of: reference.Resizer) -> None:
        super().__init__()
        self.of = reference.Resizer(SIZE, num_filters=of.num_filters, num_blocks=of.num_blocks).double()
        self.of.load_state_dict(of.state_dict())
        self.arguments = of.interpolation, of.antialias
        self.train(of.training)

    def forward(self, images: list[Tensor], boxes: Any = None, flip: Any = None) -> Tensor:
        of, crops, axes = self.of, [], []
        for index, image in enumerate(images):
            top, left, height, width = (0, 0, *image.shape[1:]) if boxes is None else map(float, boxes[index])
            rows = slice(math.floor(top), math.ceil(top + height))
            columns = slice(math.floor(left), math.ceil(left + width))
            crop, begin = image[:, rows, columns], left - columns.start
            if flip is not None and flip[index]:
                crop, begin = crop.flip(2), columns.stop - left - width
            crops.append(crop)
            sizes = zip(crop.shape[1:], SIZE, (top - rows.start, begin), (height, width), strict=True)
            axes.append([_matrix(*size, *self.arguments) for size in sizes])
        features = []
        for crop in crops:
            a = F.leaky_relu(F.conv2d(crop[None], of.conv1.weight, of.conv1.bias, padding=3), 0.2)
            features.append(F.leaky_relu(F.conv2d(a, of.conv2.weight, of.conv2.bias), 0.2)[0])
        scale, shift = self._norm(of.norm1, torch.cat([x.flatten(1) for x in features], 1))
        f = torch.stack([m @ (x * scale + shift) @ n.T for x, (m, n) in zip(features, axes, strict=True)])
        z = f
        for block in of.blocks:
            z = z + self._apply(block.norm2, block.conv2(F.leaky_relu(self._apply(block.norm1, block.conv1(z)), 0.2)))
        z = self._apply(of.norm2, of.conv3(z)) + f
        return of.conv4(z) + torch.stack([m @ x @ n.T for x, (m, n) in zip(crops, axes, strict=True)])

    def _apply(self, norm: Any, x: Tensor) -> Tensor:
        scale, shift = self._norm(norm, x.transpose(0, 1).flatten(1))
        return x * scale + shift

    @staticmethod
    def _norm(norm: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift ``(n, 1, 1)``, of values ``(n, M)``."""
        mean, var = norm.running_mean, norm.running_var
        if norm.training:
            mean, var = values.mean(1), values.var(1, correction=0)
            with torch.no_grad():
                norm.num_batches_tracked += 1
                weight = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
                norm.running_mean.lerp_(mean, weight)
                norm.running_var.lerp_(values.var(1), weight)
        scale = norm.weight / (var + norm.eps).sqrt()
        return scale[:, None, None], (norm.bias - mean * scale)[:, None, None]


def _of_oracle(step: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("of."): value for name, value in step.items()}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("regions", REGIONS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_blocks": 2},
        {"num_blocks": 0, "interpolation": "lanczos"},
        {"antialias": False, "interpolation": "bicubic"},
    ],
    ids=str,
)
def test_is_the_oracle_of_each_image_with_joint_statistics(
    kind: type[Any], training: bool, regions: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tiles of rows in the larger images.
    monkeypatch.setattr(stem, "_TILE_ELEMENTS", 4 * 9 * 10)
    monkeypatch.setattr(stem, "_LEAST_TILE_ROWS", 4)
    module = _resizer(kind, **arguments).train(training)
    oracle, images = _Oracle(module), _images()
    got, expected = _step(module, images, **REGIONS[regions]), _step(oracle, images, **REGIONS[regions])
    _assert_same(got, _of_oracle(expected))
    for index in range(len(images)):
        # Zero outside, not only small.
        assert torch.equal(got[f"images[{index}]"] == 0, expected[f"images[{index}]"] == 0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("num_blocks", [0, 2])
def test_images_of_one_size_are_the_stacked_batch(num_blocks: int, training: bool) -> None:
    modules = [_resizer(kind, num_blocks=num_blocks).train(training) for kind in (FusedResizer, *MODULES)]
    images = _images([(13, 11)] * 3)
    composed = _step(modules[2], torch.stack(images))
    grads = {f"images[{index}]": grad for index, grad in enumerate(composed.pop("images[0]"))}
    _assert_same(_step(modules[0], images), composed | grads)
    _assert_same(_step(modules[1], images), composed | grads)


@pytest.mark.parametrize("kind", MODULES)
def test_a_batch_with_boxes_is_the_list_of_its_images(kind: type[Any]) -> None:
    images, regions = _images([(13, 11)] * 4), {"boxes": [(0.5, 1, 9.25, 7.5)] * 4, "flip": FLIP}
    listed = _step(_resizer(kind), images, **regions)
    grads = torch.stack([listed.pop(f"images[{index}]") for index in range(4)])
    batch = _step(_resizer(kind), torch.stack(images), **regions)
    assert all(map(torch.equal, batch.values(), [listed["out"], grads, *itertools.islice(listed.values(), 1, None)]))
    empty = torch.empty(0, 3, 13, 11, dtype=torch.float64)
    assert _resizer(kind).eval()(empty, boxes=torch.empty(0, 4), flip=[]).shape == (0, 3, *SIZE)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bits_are_those_of_each_image_alone(dtype: torch.dtype) -> None:
    """Of the stem and the image skip, whatever else is in the list; and of a list of one image.

    At output resolution the convolutions are torch's of a batch, whose order of sums depends on its size. One thread:
    the bits of torch's float64 convolution depend on their number, and images of a list have one each.
    """
    module, images = _resizer(dtype=dtype, num_filters=16).eval(), _images([(40, 61), (90, 33), (5, 5)], dtype)

    def stem_and_skip(images: list[Tensor], **regions: Any) -> tuple[Tensor, Tensor]:
        with Calls(keep_arguments=True) as calls:
            module(images, **regions)
        ((_, arguments),) = [call for call in calls.ours if call[0]._opname == "resizer"]
        with torch.no_grad():
            _, features, _ = OPS.resizer(*arguments[:-1], True)
        return features[: len(images) * 16 * SIZE[0] * SIZE[1]], arguments[3]

    for regions in ({}, {"flip": [True, False, True]}):
        whole = stem_and_skip(images, **regions)
        alone = [
            stem_and_skip([image], **{name: [value[index]] for name, value in regions.items()})
            for index, image in enumerate(images)
        ]
        assert all(torch.equal(x, torch.cat(parts)) for x, parts in zip(whole, zip(*alone, strict=True), strict=True))
    for image in images:
        assert torch.equal(module([image]), module(image[None]))


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_whole_pixels_and_flips_are_the_crop_in_every_bit(kind: type[Any], training: bool) -> None:
    images, boxes = _images(dtype=torch.float32), [(2, 1, 9, 7), (0, 3, 8, 12), (1, 0, 2, 4), (0, 0, 25, 2)]
    got = _step(_resizer(kind, torch.float32).train(training), images, boxes=boxes, flip=FLIP)
    crops = [x[:, t : t + h, left : left + w] for x, (t, left, h, w) in zip(images, boxes, strict=True)]
    crops = [crop.flip(2) if flip else crop for crop, flip in zip(crops, FLIP, strict=True)]
    expected = _step(_resizer(kind, torch.float32).train(training), crops)
    for index, (t, left, h, w) in enumerate(boxes):
        grad = got[f"images[{index}]"][:, t : t + h, left : left + w]
        got[f"images[{index}]"] = grad.flip(2) if FLIP[index] else grad
    assert all(torch.equal(got[name], value) for name, value in expected.items())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_by_the_joint_count(momentum: float | None) -> None:
    module = _resizer()
    oracle = _Oracle(module)
    for norm in (*module.modules(), *oracle.modules()):
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = momentum
            norm.num_batches_tracked.zero_()
    module.norm2.eval()
    oracle.of.norm2.eval()
    for regions in REGIONS.values():
        _assert_same(_step(module, _images(), **regions), _of_oracle(_step(oracle, _images(), **regions)))


def test_gradcheck() -> None:
    module = _resizer(num_filters=2, in_channels=1, size=(3, 2))
    images = [image.requires_grad_() for image in _images([(5, 4), (3, 6)], channels=1)]
    names = [name for name, _ in module.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in module.parameters()]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def run(*tensors: Tensor) -> Tensor:
        state = dict(zip(names, tensors[2:], strict=True)) | {k: b.clone() for k, b in buffers.items()}
        regions = {"boxes": [(0.5, 0, 4.25, 3.5), (0, 1.5, 3, 2)], "flip": [False, True]}
        return torch.func.functional_call(module, state, (list(tensors[:2]),), regions)

    assert torch.autograd.gradcheck(run, (*images, *parameters), fast_mode=True)


def test_gradients_of_the_images_that_want_them() -> None:
    module, images = _resizer(), _images()
    for image in images[1::2]:
        image.requires_grad_()
    with Calls(keep_arguments=True) as calls:
        module(images, boxes=BOXES).square().sum().backward()
    ((_, arguments),) = [call for call in calls.ours if call[0]._opname == "resizer_backward"]
    assert arguments[-1] == [0, 1, 0, 1]
    every = [image.detach().clone().requires_grad_() for image in images]
    _resizer()(every, boxes=BOXES).square().sum().backward()
    for image, other in zip(images, every, strict=True):
        assert image.grad is None if not image.requires_grad else torch.equal(image.grad, other.grad)


NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("regions", REGIONS)
def test_uint8_images(kind: type[Any], regions: str) -> None:
    module, images = _resizer(kind, **NORMALISATION), _levels()
    mean, std = (torch.tensor(v).double().view(-1, 1, 1) for v in NORMALISATION.values())
    got = _step(module, images, **REGIONS[regions])
    plain = _step(_resizer(kind), [(image.double() / 255 - mean) / std for image in images], **REGIONS[regions])
    # Without gradients of bytes, and without the buffers of mean and std.
    _assert_same({name: got[name] for name in plain if name in got}, {n: v for n, v in plain.items() if n in got})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [False, True], ids=["float", "uint8"])
def test_narrower_types(dtype: torch.dtype, levels: bool) -> None:
    module, regions = _resizer(dtype=dtype, **NORMALISATION), REGIONS["boxes and flip"]
    images = _levels() if levels else _images(dtype=dtype)
    out = module(images, **regions)
    out.sum().backward()
    exact = _resizer(**NORMALISATION)([image if levels else image.double() for image in images], **regions)
    # The bars of test_half_precision, twice for bfloat16: small images, whose sums have fewer terms to average over.
    bar = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}[dtype]
    assert out.dtype == dtype and float((out - exact).detach().norm() / exact.detach().norm()) <= bar
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_autocast_and_checkpointing() -> None:
    module, images = _resizer(dtype=torch.float32), [i.requires_grad_() for i in _images(dtype=torch.float32)]
    with torch.autocast("cpu", torch.bfloat16):
        out = module(images, boxes=BOXES)
        expected = _resizer(reference.Resizer, torch.float32)(images, boxes=BOXES)
    out.sum().backward()
    # As in test_autocast.
    assert out.dtype == torch.float32 and float((out - expected).detach().norm() / expected.detach().norm()) <= 2e-2
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (*images, *module.parameters()))
    module.eval()
    plain = module(images, flip=FLIP)
    again = checkpoint(module, images, flip=FLIP, use_reentrant=False)
    tensors = [*images, *module.parameters()]
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), tensors) for y in (plain, again)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiles(training: bool) -> None:
    module, images = _resizer(dtype=torch.float32).train(training), _images(dtype=torch.float32)
    boxes, flip = torch.tensor(BOXES, dtype=torch.float64), torch.tensor(FLIP)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    for regions in ({}, {"boxes": boxes, "flip": flip}):
        got, expected = _step(compiled, images, **regions), _step(module, images, **regions)
        # The same ops on the same numbers; running statistics are updated by compiled arithmetic.
        _assert_same({name.removeprefix("_orig_mod."): value for name, value in got.items()}, expected, 1e-6)
        assert torch.equal(got["out"], expected["out"])
    torch._dynamo.reset()


def test_exports() -> None:
    module, images = _resizer(dtype=torch.float32).eval(), _images(dtype=torch.float32)
    program = torch.export.export(module, (images,))
    with torch.no_grad():
        assert torch.equal(program.module()(images), module(images))
        plain = program.run_decompositions(decompositions())
        assert not any("learned_resizer" in str(node.target) for node in plain.graph.nodes)
        torch.testing.assert_close(plain.module()(images), module(images), rtol=1e-5, atol=1e-5)
        boxes = torch.tensor(BOXES, dtype=torch.float64)
        program = torch.export.export(module, (images,), {"boxes": boxes})
        assert torch.equal(program.module()(images, boxes=boxes), module(images, boxes=boxes))


def _arguments(module: FusedResizer, images: list[Tensor]) -> tuple[Any, ...]:
    """Of the op, as the module gives them."""
    layers = composition.structure(module)
    base = torch.randn(len(images), 3, *SIZE, dtype=images[0].dtype)
    return (
        images, torch.tensor(BOXES, dtype=torch.float64), torch.tensor(FLIP), base, layers.parameters, layers.running,
        layers.slopes, layers.eps, layers.batch_statistics, "", "bilinear", True, images[0].dtype, True,
    )  # fmt: skip


def test_opcheck() -> None:
    module, images = _resizer(dtype=torch.float32), [i.requires_grad_() for i in _images(dtype=torch.float32)]
    torch.library.opcheck(OPS.resizer.default, _arguments(module, images))


def test_memory_format() -> None:
    interleaved = [i.permute(1, 2, 0).contiguous().permute(2, 0, 1) for i in _images()]
    module = _resizer().eval()
    planes, pixels = module(_images()), module(interleaved)
    assert planes.is_contiguous() and pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(planes, pixels, rtol=1e-12, atol=1e-12)


def test_no_second_derivative() -> None:
    images = [i.requires_grad_() for i in _images()]
    grads = torch.autograd.grad(_resizer()(images).square().sum(), images, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second derivatives.*reference\.Resizer"):
        grads[2].sum().backward()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [name for name in COMPOSED if name != "spectral_norm"])
def test_changed_layers_run_themselves(name: str, training: bool) -> None:
    """A list of equal sizes gives what the batch gives, whatever the layer computes.

    Not with spectral normalisation, whose weight changes with every call of a layer: a list calls one per image.
    """
    steps = []
    for images in (_images([(9, 8)] * 2), torch.stack(_images([(9, 8)] * 2))):
        module = _resizer(num_filters=CHANGED_FILTERS, num_blocks=2, size=(5, 4)).train(training)
        torch.manual_seed(2)
        torch.set_default_dtype(torch.float64)
        try:
            COMPOSED[name][0](module)
        finally:
            torch.set_default_dtype(torch.float32)
        module.train(training)
        try:
            with pytest.warns(UserWarning, match="FusedResizer runs as the composition"):
                steps.append(_step(module, images))
        except (RuntimeError, TypeError, ValueError) as error:
            steps.append(type(error))
    listed, batch = steps
    if isinstance(batch, type):
        assert listed is batch
        return
    grads = {f"images[{index}]": grad for index, grad in enumerate(batch.pop("images[0]"))}
    _assert_same(listed, batch | grads)


def test_hooks_fire() -> None:
    seen: dict[str, list[tuple[int, ...]]] = {}
    module, images = _resizer(), _images()
    for name in ("conv1", "norm1", "conv3"):
        seen[name] = []
        module.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen[name].append(tuple(o.shape)))
    with pytest.warns(UserWarning, match="conv1 has a forward hook"):
        out = module(images, flip=FLIP)
    pixels = sum(h * w for h, w in SIDES)
    assert seen == {
        "conv1": [(1, 4, *side) for side in SIDES],
        "norm1": [(1, 4, 1, pixels)],
        "conv3": [(len(SIDES), 4, *SIZE)],
    }
    torch.testing.assert_close(out, _resizer()(images, flip=FLIP), rtol=1e-11, atol=1e-11)
    with use_backend("native"), pytest.raises(RuntimeError, match="conv1 has a forward hook"):
        module(images)


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(2, 4), lambda: nn.InstanceNorm2d(4, affine=True)])
def test_other_norms_see_one_image_at_a_time(norm: Callable[[], nn.Module]) -> None:
    module = _resizer().eval()
    module.norm1 = norm().double()
    with pytest.warns(UserWarning, match="norm1 is an? "):
        out = module(_images(), boxes=BOXES)
    each = [module([image], boxes=[box]) for image, box in zip(_images(), BOXES, strict=True)]
    torch.testing.assert_close(out, torch.cat(each), rtol=1e-12, atol=1e-12)


def test_transforms() -> None:
    """Forward mode and torch.func run the composition."""
    module, images = _resizer().eval(), _images()
    tangents = _images()[::-1]
    tangents = [torch.randn_like(image) for image in images]

    def run(images: list[Tensor]) -> Tensor:
        return module(images, boxes=BOXES, flip=FLIP)

    out, tangent = torch.func.jvp(run, (images,), (tangents,))
    inputs = [image.clone().requires_grad_() for image in images]
    along = torch.randn_like(out)
    grads = torch.autograd.grad(run(inputs), inputs, along)
    torch.testing.assert_close(out, run(images), rtol=1e-11, atol=1e-11)
    # ⟨J t, y⟩ = ⟨t, Jᵀ y⟩
    sums = (tangent * along).sum(), sum((g * t).sum() for g, t in zip(grads, tangents, strict=True))
    torch.testing.assert_close(*sums, rtol=1e-10, atol=1e-10)


def test_fx_traces_a_batch_only() -> None:
    traced = torch.fx.symbolic_trace(_resizer(reference.Resizer))
    batch = torch.stack(_images([(9, 8)] * 2))
    torch.testing.assert_close(traced(batch), _resizer(reference.Resizer)(batch), rtol=1e-12, atol=1e-12)
    for arguments in ((_images(), None), (batch, None, BOXES[:2]), (batch, None, None, FLIP[:2])):
        with pytest.raises(TypeError, match=r"images, boxes, flip: got them in a graph of torch.fx"):
            traced(*arguments)


def _lists() -> list[tuple[list[Tensor], dict[str, Any]]]:
    """Of each process: another number of images, of other sizes."""
    images = _images()
    return [
        (images[:1], {"boxes": BOXES[:1], "flip": FLIP[:1]}),
        (images[1:], {"boxes": BOXES[1:], "flip": FLIP[1:]}),
    ]


def _work(rank: int) -> list[dict[str, Tensor]]:
    """Of the fused module, in DistributedDataParallel, and of the composition."""
    images, regions = _lists()[rank]
    found = []
    for kind in MODULES:
        module = synchronise(_resizer(kind, num_blocks=2), torch.device("cpu"))
        found.append(_step(module, images, **regions))
    module = nn.parallel.DistributedDataParallel(_resizer(num_blocks=2).eval())
    module(images, **regions).square().sum().backward()
    grads = {name: p.grad for name, p in module.module.named_parameters()}
    for step in found:
        for name, _ in module.module.named_parameters():
            dist.all_reduce(step[name])
    return [*found, grads]


@needs_gloo
def test_processes_share_their_statistics(tmp_path: Path) -> None:
    """Two processes with lists of their own are one with all images."""
    processes = run_processes(_work, tmp_path)
    (a, b), joint = _lists(), _images()
    module = _resizer(num_blocks=2)
    along = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    # As _step takes them of one image, and of three.
    first = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = [image.requires_grad_() for image in joint]
    oracle = _Oracle(module)
    out = oracle(inputs, BOXES, FLIP)
    names = [name for name, _ in oracle.of.named_parameters()]
    grads = torch.autograd.grad(out, [*inputs, *oracle.of.parameters()], torch.cat([first, along]))
    shared = dict(zip(names, grads[4:], strict=True)) | dict(oracle.of.named_buffers())
    for kind in range(2):
        for rank, (begin, end) in enumerate(((0, 1), (1, 4))):
            own = {f"images[{index}]": grad for index, grad in enumerate(grads[begin:end])}
            _assert_same(processes[rank][kind], {"out": out[begin:end].detach(), **own, **shared})
    plain = _resizer(num_blocks=2).eval()
    (plain(a[0], **a[1]).square().sum() + plain(b[0], **b[1]).square().sum()).backward()
    expected = {name: p.grad / 2 for name, p in plain.named_parameters()}
    for process in processes:
        _assert_same(process[2], expected)
