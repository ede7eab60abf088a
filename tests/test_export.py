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


@pytest.mark.parametrize("size", [(11, 7), (40, 33), (9, 50)], ids=["down", "up", "down and up"])
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


@pytest.mark.parametrize("native_trunk", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_programs_decompose_to_aten(
    native_trunk: bool, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a GPU a program traced without gradients holds the trunk's ops instead of conv and head.
    monkeypatch.setattr(FusedResizer, "_fused_trunk", lambda self, z: native_trunk)
    # The flattening behind the resizer is traced as a view of its output's layout.
    network = nn.Sequential(_resizer((9, 7), num_blocks=1 if native_trunk else 2), nn.Flatten(), nn.Linear(189, 2))
    network = network.double().eval()
    image = torch.rand(3, 3, 14, 16, dtype=torch.float64).contiguous(memory_format=layout)
    with torch.no_grad():
        traced = torch.export.export(network, (image,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        program = traced.run_decompositions(decompositions())
        expected = network(image)
    ours = {target for target in _targets(traced) if target.startswith("learned_resizer.")}
    names = ("trunk_block", "trunk_tail") if native_trunk else ("conv", "head")
    assert ours == {
        f"learned_resizer.{name}.default"
        for name in ("resample", "stem", *(() if native_trunk else ("affine",)), *names)
    }
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
    """Every argument of every op, statistics and skips among them, against the op itself."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(of)

    n, wide = 4, torch.float64 if dtype == torch.float64 else torch.float32
    image, base = random(2, 3, 12, 10), random(2, 3, 5, 6)
    vectors = [random(n, of=wide).abs() + 0.5 for _ in range(8)]
    features = [random(2, n, 5, 6).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    weights = [random(n, n, 3, 3), random(n, n, 3, 3)]
    norm1, norm2 = (*vectors[:4], 1e-5), (*vectors[4:], 1e-3)
    skip, no_skip = (features[1], *vectors[2:4]), (None, None, None)
    last = (random(3, n, 7, 7), random(3), base)
    stem = (image, random(n, 3, 7, 7), random(n), random(n, n, 1, 1), random(n))
    block = (features[0], *norm1, features[1], *norm2, weights[0], *norm1)
    calls = [
        (OPS.resample.default, (image, 20, 4, None, 0.5, "lanczos", True)),
        (OPS.resample.default, (image, 5, 6, None, None, "bicubic", False)),
        *((OPS.stem.default, (*stem, 5, 6, "bilinear", True, 0.2, statistics)) for statistics in (True, False)),
        (OPS.affine.default, (*vectors[:4], 1e-3)),
        (OPS.conv.default, (features[0], *vectors[:2], *skip, 0.1, weights[0], True)),
        (OPS.conv.default, (features[0], *vectors[:2], *no_skip, 1.0, weights[0], False)),
        (OPS.head.default, (features[0], *vectors[:2], *skip, 1.0, *last)),
        (OPS.trunk_block.default, (*block, 0.2, weights[1])),
        (OPS.trunk_block.default, (*block[:6], *(None,) * 5, 0.0, *block[12:], 0.2, weights[1])),
        (OPS.trunk_tail.default, (*block, *last)),
    ]
    table = decompositions()
    assert {op for op, _ in calls} == set(table)
    # float64: sums of some hundred terms of order 1, a rounding of 2^-53 each. bfloat16: results of sums in float32
    # rounded once to 2^-9, and the operands of the second convolution before that.
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    for op, arguments in calls:
        got, expected = table[op](*arguments), op(*arguments)
        for value, exact in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, expected)), strict=True):
            assert (value.shape, value.dtype) == (exact.shape, exact.dtype), op
            assert float((value - exact).norm()) <= tolerance * float(exact.norm()), op


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
