"""``FusedResizer`` and ``reference.Resizer`` on uint8 images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learned_resizer_cuda import FusedResizer, reference

NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("module", [FusedResizer, reference.Resizer])
def test_uint8_images(module: type[reference.Resizer]) -> None:
    """Taken as (image / 255 - mean) / std; the state is the same, and float images are left alone."""
    torch.manual_seed(0)
    resizer = module((9, 7), **NORMALISATION).double()
    plain = reference.Resizer((9, 7)).double()
    plain.load_state_dict(resizer.state_dict())
    image = torch.randint(0, 256, (3, 3, 17, 12), dtype=torch.uint8)
    mean, std = (torch.tensor(v).double().view(-1, 1, 1) for v in NORMALISATION.values())
    grad = torch.randn(3, 3, 9, 7, dtype=torch.float64)
    outs = []
    for net, x in ((resizer, image), (plain, (image.double() / 255 - mean) / std)):
        outs.append(net(x))
        assert outs[-1].dtype == torch.float64
        outs[-1].backward(grad)
    # float64: some hundred roundings of 2^-53 in sums of thousands of terms.
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-11, atol=1e-11)
    for p, q in zip(resizer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9)
    x = image.double()
    torch.testing.assert_close(resizer(x), plain(x), rtol=1e-11, atol=1e-11)


def test_uint8_images_under_autocast() -> None:
    resizer = FusedResizer((9, 7), num_filters=4, **NORMALISATION)
    image = torch.randint(0, 256, (2, 3, 17, 12), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = resizer(image)
        # The backward may run under autocast too.
        out.sum().backward()
    assert out.dtype == torch.float32 and all(p.grad is not None for p in resizer.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, ValueError, "mean, std: got .* and None; expected both or neither"),
        ({"mean": (0.5,), "std": (1, 1, 1)}, ValueError, r"mean: got \(0.5,\); expected 3 finite numbers"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, ValueError, r"std: got \(1, 0, 1\); expected 3 finite numbers above 0"),
        ({"mean": 0.5, "std": 1}, TypeError, "mean: got 0.5; expected 3 finite numbers"),
    ],
)
def test_bad_normalisation(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FusedResizer(8, **arguments)
    with pytest.raises(TypeError, match=r"image: got dtype torch.uint8; expected torch.float32.*mean= and std="):
        FusedResizer(8)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
