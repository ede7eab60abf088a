"""Exported programs: plain ATen by decomposition, ONNX models run by onnxruntime, and the same numbers as eager."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learned_resizer_cuda import FusedResizer, Resize
from learned_resizer_cuda.export import decompositions, to_onnx
from tests.helpers.calls import Calls

OPS = torch.ops.learned_resizer


def _resizer(size: Any, **arguments: Any) -> FusedResizer:
    torch.manual_seed(0)
    module = FusedResizer(size, **arguments).eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            # Of the order that features have, and none of BatchNorm's zeros and ones.
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.5)
    return module


def _targets(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


class _Side(nn.Module):
    """A resizer of every filter, side by side on one image: one export for all of them."""

    def __init__(self, size: Any) -> None:
        super().__init__()
        self.arms = nn.ModuleDict(
            {
                f"{interpolation}_{antialias}": _resizer(
                    size, num_filters=4, interpolation=interpolation, antialias=antialias
                )
                for interpolation, antialias in itertools.product(("bilinear", "bicubic", "lanczos"), (True, False))
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {name: arm(image) for name, arm in self.arms.items()}


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((11, 7), id="down", marks=pytest.mark.slow),
        pytest.param((40, 33), id="up", marks=pytest.mark.slow),
        pytest.param((9, 50), id="down and up"),
    ],
)
def test_onnx_model_agrees_with_eager(size: tuple[int, int], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = _Side(size).eval()
    to_onnx(module, tmp_path / "resizer.onnx", torch.rand(2, 3, 24, 22))
    assert [file.name for file in tmp_path.iterdir()] == ["resizer.onnx"], "the weights belong into the file"
    session = onnxruntime.InferenceSession(tmp_path / "resizer.onnx", providers=["CPUExecutionProvider"])
    # Another batch than the example's.
    image = torch.rand(5, 3, 24, 22)
    with torch.no_grad():
        expected = module(image)
    got = session.run(None, {"image": image.numpy()})
    assert len(got) == len(expected) == 6
    for (name, value), array in zip(expected.items(), got, strict=True):
        # Where eager takes torch's kernel it rounds the coordinates, which moves results by up to 3e-5 of the range.
        torch.testing.assert_close(torch.from_numpy(array), value, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_onnx_model_of_a_whole_network(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = nn.Sequential(_resizer(8), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    image = torch.rand(1, 3, 20, 20)
    to_onnx(network, tmp_path / "network.onnx", image, dynamic_batch=False)
    model = onnx.load(tmp_path / "network.onnx")
    assert {node.domain for node in model.graph.node} == {""}, "an operator that is not ONNX's own"
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), network(image).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_blocks", [0, 1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_programs_decompose_to_aten(num_blocks: int, layout: torch.memory_format) -> None:
    # The flattening behind the resizer is traced as a view of its output's layout.
    network = nn.Sequential(_resizer((9, 7), num_blocks=num_blocks), nn.Flatten(), nn.Linear(189, 2))
    network = network.double().eval()
    image = torch.rand(3, 3, 14, 16, dtype=torch.float64).contiguous(memory_format=layout)
    with torch.no_grad():
        traced = torch.export.export(network, (image,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        program = traced.run_decompositions(decompositions())
        expected = network(image)
    ours = {target for target in _targets(traced) if target.startswith("learned_resizer.")}
    assert ours == {f"learned_resizer.{name}.default" for name in ("resample", "resizer")}
    assert all(target.startswith(("aten.", "<built-in function getitem")) for target in _targets(program))
    # float64: some hundred roundings of 2^-53.
    torch.testing.assert_close(program.module()(image), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(program.module()(image[:2]), expected[:2], rtol=1e-12, atol=1e-12)


def test_table_goes_with_torchs_own() -> None:
    module = _resizer(6, num_filters=4)
    image = torch.rand(2, 3, 12, 10)
    table = torch.export.default_decompositions()
    table.update(decompositions())
    program = torch.export.export(module, (image,)).run_decompositions(table)
    assert "aten.convolution.default" in _targets(program) and "aten.conv2d.default" not in _targets(program)
    torch.testing.assert_close(program.module()(image), module(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_decompositions_compute_the_ops(dtype: torch.dtype) -> None:
    """Every argument of every op, statistics and blocks among them, against the op itself."""
    image = torch.randn(2, 3, 12, 10, dtype=torch.float64)
    images = [image.to(dtype), image[0, :, 2:, 1:].to(dtype)]
    levels = [(x.double() * 99).abs().byte() for x in images]
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (OPS.resample.default, (image.to(dtype), 20, 4, None, 0.5, "lanczos", True)),
        (OPS.resample.default, (image.to(dtype), 5, 6, None, None, "bicubic", False)),
        (OPS.resample_batch.default, (images, None, None, 5, 6, "lanczos", True, dtype, [], [])),
        (OPS.resample_batch.default, (levels, None, None, 5, 6, "bicubic", True, torch.uint8, [], [])),
        (OPS.resample_batch.default, (levels, None, None, 5, 6, "bilinear", True, dtype, [0.5] * 3, [0.25] * 3)),
        (OPS.resample_fixed.default, ((image * 99).abs().byte(), 5, 6, "hamming", True, False)),
    ]
    for num_blocks, training in itertools.product((0, 1, 3), (True, False)):
        module = _resizer((5, 6), num_filters=4, num_blocks=num_blocks, mean=(0.5,) * 3, std=(0.25,) * 3).to(dtype)
        # Some norms of a frozen module may be in training mode.
        module.norm2.train(training)
        if num_blocks:
            module.blocks[0].norm1.train(training)
        pixels = torch.randint(0, 256, image.shape, dtype=torch.uint8)
        for given in (image.to(dtype), pixels, [images[1], images[0][0]]):
            with Calls(keep_arguments=True) as recorded, torch.no_grad():
                module(given)
            calls += [(func, args) for func, args in recorded.ours if func._opname == "resizer"]
    table = decompositions()
    assert {op for op, _ in calls} == set(table) and len(calls) == 24
    # float64: sums of some hundred terms of order 1, a rounding of 2^-53 each. bfloat16: results of sums in float32
    # rounded once to 2^-9, and the operands of each later convolution before that.
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    for op, arguments in calls:
        got, expected = table[op](*arguments), op(*arguments)
        for value, exact in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, expected)), strict=True):
            assert (value.shape, value.dtype) == (exact.shape, exact.dtype), op
            assert float((value.double() - exact.double()).norm()) <= tolerance * float(exact.double().norm()), op


def test_integer_images_decompose() -> None:
    image = torch.randint(0, 256, (2, 3, 16, 12), dtype=torch.uint8)
    module = Resize((7, 20), interpolation="lanczos")
    program = torch.export.export(module, (image,)).run_decompositions(decompositions())
    got = program.module()(image)
    assert got.dtype == torch.uint8
    # A float32 sum that ends beside a half may round to either side of it.
    assert int((got.int() - module(image).int()).abs().max()) <= 1


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    module, image, path = _resizer(6, num_filters=4), torch.rand(2, 3, 12, 10), tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"module: got .* training mode; expected eval"):
        to_onnx(_resizer(6).train(), path, image)
    with pytest.raises(ValueError, match=r"image: got shape \(3, 12, 10\); expected"):
        to_onnx(module, path, image[0])
    with pytest.raises(TypeError, match=r"module: got function; expected"):
        to_onnx(lambda x: x, path, image)  # type: ignore[arg-type]
    assert not path.exists()
