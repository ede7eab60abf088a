"""Cost of resizers and networks: parameters and arithmetic for one image."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..weights import ResizerConfig


class Cost(NamedTuple):
    """Number of parameters, and 10⁹ operations of one image's forward pass.

    A multiply-accumulate counts as 2. As in papers, convolutions and matrix products count; activations, norms, pooling
    and resampling do not.
    """

    parameters: int
    gflop: float


def resizer_cost(config: ResizerConfig, input_size: int | tuple[int, int]) -> Cost:
    """Cost of a learned resizer from an input size to ``config.size``.

    Nothing is computed. The cost is that of the plain composition, which the fused ops count as too.

    Args:
        config: of the resizer.
        input_size: a side, or (height, width), in pixels.

    Raises:
        TypeError, ValueError: the resizer refuses a value of ``config``, or a side is below 1.
    """
    from ..reference import Resizer

    values = asdict(config)
    sides = (input_size, input_size) if isinstance(input_size, int) else input_size
    with torch.device("meta"):
        resizer = Resizer(values.pop("size"), **values)
    return network_cost(resizer, config.in_channels, sides)


def network_cost(network: nn.Module, in_channels: int, size: tuple[int, int]) -> Cost:
    """Cost of a network at inference for images of ``size`` (height, width).

    Nothing is computed or allocated. The network's mode, gradients and buffers and the random generators stay as they
    were.

    Raises:
        ValueError: a side is below 1.
        Exception: of the network, if it does not take this size.
    """
    if min(size) < 1:
        raise ValueError(f"size: got {size!r}; expected sides of at least 1")
    # Tensors without memory: a forward pass of the real weights would take seconds and could change the buffers.
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # a network may hold tensors that are not buffers

    def stand_in(value: Tensor) -> Tensor:
        # Not "meta", which autocast does not support.
        device = "cpu" if value.is_meta else value.device
        return torch.empty(value.shape, dtype=value.dtype, device=device)

    named = [*network.named_parameters(), *network.named_buffers()]
    with fake:
        state = {name: stand_in(value) for name, value in named}
        like = next((value for value in state.values() if value.is_floating_point()), torch.empty(0))
        image = like.new_empty(1, in_channels, *size)
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        # Attention as matrix products: the counter does not know all of its fused kernels.
        with sdpa_kernel(SDPBackend.MATH), fake, torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(network, state, (image,))
    finally:
        # Not network.train(mode): a part may be frozen in eval mode on purpose.
        for module, mode in modes:
            module.training = mode
    return Cost(sum(value.numel() for value in network.parameters()), counter.get_total_flops() / 1e9)
