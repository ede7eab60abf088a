"""What a resizer and a network cost: parameters and arithmetic of one image."""

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
    """``parameters``: their number. ``gflop``: 10⁹ operations of one image's forward, 2 for a multiply-accumulate.

    Convolutions and matrix products are counted, as papers do; not activations, norms, pooling and resampling.
    """

    parameters: int
    gflop: float


def resizer_cost(config: ResizerConfig, input_size: int) -> Cost:
    """Cost of a learned resizer from ``input_size`` x ``input_size`` pixels to ``config.size``; nothing is computed.

    It is that of the plain composition, as which the fused ops count too.

    Raises:
        TypeError, ValueError: a value of ``config`` that the resizer refuses, or ``input_size`` below 1.
    """
    from ..reference import Resizer

    values = asdict(config)
    with torch.device("meta"):
        resizer = Resizer(values.pop("size"), **values)
    return network_cost(resizer, config.in_channels, (input_size, input_size))


def network_cost(network: nn.Module, in_channels: int, size: tuple[int, int]) -> Cost:
    """Cost of a network at inference, images of ``size`` (height, width); nothing is computed or allocated.

    The network stays as it was: its mode, gradients, buffers and the random generators.

    Raises:
        ValueError: a side below 1. What the network raises for a size that it does not take.
    """
    if min(size) < 1:
        raise ValueError(f"size: got {size!r}; expected sides of at least 1")
    # Stand-ins without memory: a forward of the real weights would take seconds and could change the buffers.
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # a network may hold tensors that are no buffers

    def stand_in(value: Tensor) -> Tensor:
        # Not on "meta", which autocast does not know.
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
        # Attention as its matrix products: the counter does not know every fused kernel of it.
        with sdpa_kernel(SDPBackend.MATH), fake, torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(network, state, (image,))
    finally:
        # Not network.train(mode): a part may have been frozen in eval mode on purpose.
        for module, mode in modes:
            module.training = mode
    return Cost(sum(value.numel() for value in network.parameters()), counter.get_total_flops() / 1e9)
