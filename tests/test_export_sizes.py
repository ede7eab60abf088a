"""Exports whose height and width stay open: one ONNX model for images of any size; other graphs keep the ops."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from learned_resizer_cuda import FusedResizer, Resize, resize
from learned_resizer_cuda.export import to_onnx

# Smaller and larger than the output, of every parity, one side each way.
SIZES = ((24, 20), (9, 7), (5, 40), (64, 6), (33, 50), (10, 14), (3, 2), (101, 17), (27, 21), (2, 90))

# Where eager takes torch's kernel it rounds the coordinates to float32, which moves results by up to 3e-5 of the range.
TOLERANCE = 1e-4


class _Network(nn.Module):
    """A learned resizer in front of a small network, and ``Resize`` beside it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        learned = FusedResizer((9, 7), num_filters=2, num_blocks=0, **arguments)
        self.network = nn.Sequential(learned, nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
        self.plain = Resize((9, 7), **arguments)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.network(image), self.plain(image)]


class _Halved(nn.Module):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def forward(self, image: Tensor) -> Tensor:
        return resize(image, **self.arguments)


def _check(path: Path, module: nn.Module, images: list[Tensor], inputs: str = "image") -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    assert {node.domain for node in onnx.load(path).graph.node} == {""}, "an operator that is not ONNX's own"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for image in images:
        with torch.no_grad():
            expected = module(image)
        expected = expected if isinstance(expected, list) else [expected]
        got = session.run(None, {inputs: image.numpy()})
        for array, value in zip(got, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(array), value, rtol=0, atol=TOLERANCE)


def _filters() -> list[Any]:
    """Every filter; one of them in the default tests."""
    every = itertools.product(("bilinear", "bicubic", "lanczos"), (True, False))
    return [pytest.param(*f, marks=() if f == ("lanczos", True) else pytest.mark.slow) for f in every]


@pytest.mark.parametrize(("interpolation", "antialias"), _filters())
def test_one_model_takes_every_size(interpolation: str, antialias: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    module, path = _Network(interpolation=interpolation, antialias=antialias).eval(), tmp_path / "any.onnx"
    # A batch of one, which torch.export would take for a length that never changes.
    program = to_onnx(module, path, torch.rand(1, 3, 24, 20), dynamic_size=True)
    assert [str(axis) for axis in program.model.graph.inputs[0].shape] == ["batch", "3", "height", "width"]
    _check(path, module, [torch.rand(1 + side % 3, 3, *size) for side, size in enumerate(SIZES)])
    # A thousand weights and some arithmetic, no table of any size.
    assert path.stat().st_size < 2**18


@pytest.mark.parametrize("axes", [{0: "b"}, {0: "b", 2: "h", 3: "w"}], ids=["batch", "batch and sizes"])
def test_torchs_exporter_needs_no_table(axes: dict[int, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    module, path = FusedResizer((9, 7), num_filters=4).eval(), tmp_path / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's, of its own parts
        torch.onnx.export(module, (torch.rand(2, 3, 24, 20),), path, dynamo=True, dynamic_shapes=(axes,), verbose=False)
    sizes = SIZES if 2 in axes else ((24, 20),)
    _check(path, module, [torch.rand(1 + side % 3, 3, *size) for side, size in enumerate(sizes)])


@pytest.mark.parametrize("factor", [pytest.param(0.5, marks=pytest.mark.slow), (1.3, 0.37)])
def test_scale_factor_of_every_size(factor: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    module, path = _Halved(scale_factor=factor, interpolation="lanczos"), tmp_path / "factor.onnx"
    to_onnx(module.eval(), path, torch.rand(2, 3, 24, 20), dynamic_size=True)
    _check(path, module, [torch.rand(3, 3, *size) for size in SIZES if min(size) > 2])


class _Edges(nn.Module):
    """Filters whose windows a last bit decides; some with a factor, which float32 would round."""

    def forward(self, image: Tensor) -> list[Tensor]:
        outs = [resize(image, (9, 7), interpolation=name) for name in ("nearest", "box", "hamming")]
        return outs + [resize(image, scale_factor=(0.1, 0.37), interpolation=name) for name in ("nearest", "box")]


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True])
def test_nearest_box_and_hamming(dynamic: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, path = _Edges().eval(), tmp_path / "edges.onnx"
    to_onnx(module, path, torch.rand(1, 3, 72, 63), dynamic_size=dynamic)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((72, 63), (50, 40), (10, 3), (90, 70), (200, 350), (45, 105)) if dynamic else ((72, 63),):
        image = torch.rand(2, 3, *size)
        for got, expected in zip(session.run(None, {"image": image.numpy()}), module(image), strict=True):
            # Sums of up to 500 products of numbers below 1, in float32; another pixel would show.
            torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=2e-6)


def test_example_of_one_pixel_and_one_image(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    module, path = Resize((9, 7)).eval(), tmp_path / "small.onnx"
    to_onnx(module, path, torch.rand(1, 3, 1, 1), dynamic_size=True)
    _check(path, module, [torch.rand(2, 3, *size) for size in ((1, 1), (1, 30), (20, 3))])


def test_batch_of_one_stays_open_in_a_model_of_one_size(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    module, path = Resize((9, 7)).eval(), tmp_path / "batch.onnx"
    to_onnx(module, path, torch.rand(1, 3, 24, 20))
    _check(path, module, [torch.rand(batch, 3, 24, 20) for batch in (1, 4)])
    # The matrices of one size are constants.
    assert len(onnx.load(path).graph.node) < 8


def test_fake_tensors_of_symbolic_sizes_have_the_ops_strides() -> None:
    """The result has the image's layout, where sizes are symbolic, too."""
    module, mode = FusedResizer((9, 7), num_filters=4), FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    dynamic: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext([DimDynamic.DYNAMIC] * 4)
    image = torch.rand(2, 3, 24, 20).contiguous(memory_format=torch.channels_last)
    fake = mode.from_tensor(image, symbolic_context=dynamic)
    assert isinstance(fake.shape[2], torch.SymInt)
    with mode:
        out = module(fake)
    assert isinstance(out, FakeTensor) and out.stride() == module(image).stride()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_graphs_keep_the_ops(dynamic: bool) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    module = FusedResizer((9, 7), num_filters=4)
    # With the decompositions that inductor uses.
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, decompositions=select_decomp_table())
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=backend)
    image = torch.rand(2, 3, 24, 20)
    out = compiled(image)
    out.sum().backward()
    torch._dynamo.reset()
    targets = {str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    ours = {f"learned_resizer.{name}.default" for name in ("resample", "resizer", "resizer_backward")}
    assert ours <= targets
    assert not any("convolution" in target for target in targets)


def test_torch_export_keeps_the_ops() -> None:
    program = torch.export.export(Resize((9, 7)).eval(), (torch.rand(2, 3, 24, 20),)).run_decompositions()
    assert any(node.target is torch.ops.learned_resizer.resample.default for node in program.graph.nodes)
