"""Cost of resizers and networks, against published values and counts by hand."""

import pytest
import torch
from torch import nn

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.report.cost import network_cost, resizer_cost
from learned_resizer_cuda.train.networks import build_network
from learned_resizer_cuda.weights import ResizerConfig

PUBLISHED = 0.005  # two decimals are published


def resizer_flop(n, r, channels, side_in, side_out):
    stem = channels * n * 49 + n * n
    trunk = r * 2 * n * n * 9 + n * n * 9 + n * channels * 49
    return 2 * (stem * side_in**2 + trunk * side_out**2)


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
@pytest.mark.parametrize(("n", "r", "channels", "side_in", "side_out"), [(16, 1, 3, 448, 224), (8, 2, 1, 96, 48)])
def test_resizer_cost_is_that_of_its_convolutions(interpolation, n, r, channels, side_in, side_out):
    config = ResizerConfig((side_out, side_out), channels, n, r, interpolation)
    cost = resizer_cost(config, side_in)
    assert cost.gflop == resizer_flop(n, r, channels, side_in, side_out) / 1e9
    assert cost.parameters == sum(p.numel() for p in FusedResizer(**config.arguments()).parameters())


def test_resizer_cost_of_the_paper():
    cost = resizer_cost(ResizerConfig((224, 224)), 448)
    assert cost.parameters == 12_035
    # 1.047 at input resolution and 0.930 at output resolution, each to three decimals
    assert cost.gflop == pytest.approx(1.047 + 0.930, abs=2 * 0.0005)


def test_the_cost_of_a_resizer_is_affine_in_the_pixels() -> None:
    """So a report takes the cost of images of several sizes at their mean number of pixels."""
    config = ResizerConfig((8, 8), num_filters=4)
    cost = {pixels: resizer_cost(config, (1, pixels)).gflop for pixels in (300, 864, 1428)}
    assert resizer_cost(config, (24, 36)).gflop == cost[864]
    assert (cost[300] + cost[1428]) / 2 == pytest.approx(cost[864], rel=1e-12)


def test_densenet_with_and_without_the_resizer_as_published():
    with torch.device("meta"):
        network = build_network("densenet121", 3, 1000)
    alone = network_cost(network, 3, (224, 224)).gflop
    assert alone == pytest.approx(5.67, abs=PUBLISHED)
    assert alone + resizer_cost(ResizerConfig((224, 224)), 448).gflop == pytest.approx(
        7.65, abs=2 * PUBLISHED
    )  # a sum of two


class Attention(nn.Module):
    """Attention with one head over the pixels, which is easy to count by hand."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(3, 24)

    def forward(self, images):
        q, k, v = self.project(images.flatten(2).mT).chunk(3, 2)
        return nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


def test_attention_counts_as_its_two_products():
    pixels = 6 * 4
    macs = pixels * 3 * 24 + 2 * pixels * pixels * 8
    assert network_cost(Attention(), 3, (6, 4)).gflop == pytest.approx(2 * macs / 1e9, rel=1e-12)  # float rounding


def test_network_stays_as_it_was():
    torch.manual_seed(0)
    network = build_network("small_cnn", 1, 10)
    network.features[1].eval()
    network(torch.rand(2, 1, 8, 8)).sum().backward()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    identities = [(id(p), id(p.grad), p.grad.clone()) for p in network.parameters()]
    modes = [module.training for module in network.modules()]
    random = torch.get_rng_state()

    first = network_cost(network, 1, (16, 16))

    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    for parameter, (own, grad, value) in zip(network.parameters(), identities, strict=True):
        assert (id(parameter), id(parameter.grad)) == (own, grad)
        assert torch.equal(parameter.grad, value)
        assert type(parameter.data) is torch.Tensor
    assert [module.training for module in network.modules()] == modes
    assert True in modes
    assert False in modes
    assert torch.equal(torch.get_rng_state(), random)
    assert network_cost(network.half(), 1, (16, 16)) == first


def test_one_image_is_enough_for_a_network_in_training_mode():
    # In training mode batch norm refuses a single value per channel.
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1, bias=False))
    assert network_cost(network, 3, (8, 8)) == (3 * 2 + 15, 2 * 15 / 1e9)


def test_modes_are_restored_after_an_error():
    network = build_network("small_cnn", 1, 10)
    with pytest.raises(RuntimeError):
        network_cost(network, 3, (16, 16))
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("size", [(0, 8), (8, -1)])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="size: got"):
        network_cost(nn.Identity(), 3, size)


def test_a_fused_resizer_costs_as_much_as_the_plain_composition():
    assert network_cost(FusedResizer(24), 3, (48, 48)) == resizer_cost(ResizerConfig((24, 24)), 48)
