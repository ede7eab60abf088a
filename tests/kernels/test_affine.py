"""The native ``affine`` on the host, forward and backward."""

from __future__ import annotations

import pytest

from tests.helpers.arithmetic import OPS, Draw, close, double
from tests.helpers.native_host import launch, native_on_host


@pytest.mark.parametrize("n", [16, 300])
def test_affine(n: int) -> None:
    draw = Draw("float32")
    args = [draw.vector(n), draw.vector(n).exp(), draw.vector(n, 1.0), draw.vector(n), 1e-5]
    with native_on_host():
        # A few float32 operations each.
        close(launch("affine", *args), OPS.affine(*double(args)), 1e-6, "scale shift")
        grads = [draw.vector(n), draw.vector(n), *args[:3], 1e-5]
        close(launch("affine_backward", *grads), OPS.affine_backward(*double(grads)), 1e-6, "dmean dvar dweight")
