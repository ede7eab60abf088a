"""The op ``stem`` on a CPU: its convolutions, statistics and uint8 images."""

from __future__ import annotations

import torch

from tests.helpers.convolutions import some, wrong

OPS = torch.ops.learned_resizer


def test_convolutions_of_random_shapes() -> None:
    """oneDNN's code is right for these shapes, dtypes and layouts."""
    assert not wrong(some("stem"))


def test_statistics_keep_their_digits() -> None:
    # Mean 1e4 standard deviations from zero: the form Σc² - (Σc)²/M would return noise or a negative variance.
    torch.manual_seed(0)
    image = torch.rand(2, 3, 40, 40)
    w0, b0 = torch.zeros(2, 3, 7, 7), torch.full((2,), 1e3)
    w0[:, 0, 3, 3] = 1.0
    w1, b1 = torch.eye(2)[:, :, None, None], torch.zeros(2)
    _, mean, var = OPS.stem(image, w0, b0, w1, b1, 20, 20, "bilinear", True, 0.2, True)
    exact = image[:, 0].double() + 1e3
    # float32 stores 1000.x with a step of 6e-5, in a variance of 0.08.
    torch.testing.assert_close(mean.double(), exact.mean().expand(2), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact.var(correction=0).expand(2), rtol=1e-3, atol=0)


def test_opcheck_of_uint8_images() -> None:
    image = torch.randint(0, 256, (2, 3, 17, 12), dtype=torch.uint8)
    weights = [torch.randn(4, 3, 7, 7), torch.randn(4), torch.randn(4, 4, 1, 1), torch.randn(4)]
    normalisation = [torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])]
    torch.library.opcheck(OPS.stem.default, (image, *weights, 9, 7, "bilinear", True, 0.2, True, *normalisation))
