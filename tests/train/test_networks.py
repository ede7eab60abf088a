"""Task networks: their parameter counts, and training together with a fused resizer in front."""

import pytest
import torch
import torch.nn.functional as F

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.data.digits import DigitsOnPhotographs
from learned_resizer_cuda.train.inception_v2 import InceptionV2
from learned_resizer_cuda.train.networks import PAPER_NETWORKS, SmallCNN, build_network, network_name

BATCH = 4
# At 1,000 classes and 3 channels: torchvision's published counts of the same three networks, and the sum over the
# table of widths in the published BN-Inception (convolutions with bias).
PARAMETERS = {
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "mobilenetv2_100": 3_504_872,
    "inception_v2": 11_295_240,
}


@pytest.fixture(scope="module")
def canvases():
    images, labels = DigitsOnPhotographs().test_set()
    every = len(images) // BATCH
    return images[::every].repeat(1, 3, 1, 1).float() / 255, labels[::every]


def test_the_papers_networks_are_the_four_with_known_counts():
    assert set(PAPER_NETWORKS) == set(PARAMETERS)


@pytest.mark.parametrize("name", PAPER_NETWORKS)
def test_parameter_count(name):
    with torch.device("meta"):
        network = build_network(name, 3, 1000)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PARAMETERS[name]


@pytest.mark.parametrize("name", PAPER_NETWORKS)
def test_a_training_step_reaches_the_resizer_in_front(name, canvases):
    images, labels = canvases
    torch.manual_seed(0)
    resizer = FusedResizer(48)
    network = build_network(name, 3, 10)
    model = torch.nn.Sequential(resizer, network)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    before = resizer.conv1.weight.detach().clone()

    logits = model(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    loss.backward()
    optimiser.step()

    assert logits.shape == (BATCH, 10)
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert resizer.conv1.weight.grad.abs().max() > 0
    assert not torch.equal(resizer.conv1.weight, before)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["small_cnn", "inception_v2", "mobilenetv2_100"])
def test_weights_follow_torchs_seed(name):
    def weights(seed):
        torch.manual_seed(seed)
        return build_network(name, 1, 3).state_dict()

    first, again, other = weights(5), weights(5), weights(6)
    assert all(torch.equal(first[key], again[key]) for key in first)
    # Norms and some biases start as constants; every weight of a convolution or a linear layer is drawn.
    drawn = [key for key, value in first.items() if value.dim() > 1]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", ("small_cnn", "resnet18"))
def test_feature_maps_are_channels_last(name):
    maps = []
    network = build_network(name, 3, 10)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: maps.append(output))
    network(torch.rand(2, 3, 32, 32))
    assert maps and all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)


def test_inception_v2_blocks_have_the_known_output_sizes():
    # Side and channels after each block of the published BN-Inception, for images of 224 x 224
    expected = {"3a": (28, 256), "3b": (28, 320), "3c": (14, 576), "4a": (14, 576), "4b": (14, 576)}
    expected |= {"4c": (14, 608), "4d": (14, 608), "4e": (7, 1056), "5a": (7, 1024), "5b": (7, 1024)}
    with torch.device("meta"):
        network = InceptionV2()
        x = network.stem(torch.empty(1, 3, 224, 224))
    assert x.shape == (1, 192, 28, 28)
    sizes = {}
    for name, block in network.blocks.named_children():
        x = block(x)
        assert x.shape[2] == x.shape[3]
        sizes[name] = (x.shape[2], x.shape[1])
    assert sizes == expected


def test_inception_v2_pools_by_maximum_in_three_blocks():
    with torch.device("meta"):
        blocks = InceptionV2().blocks
    pools = {
        name: [type(m) for m in block.modules() if isinstance(m, torch.nn.MaxPool2d | torch.nn.AvgPool2d)]
        for name, block in blocks.named_children()
    }
    # The two of stride 2, and the last
    maximum = ("3c", "4e", "5b")
    assert pools == {name: [torch.nn.MaxPool2d if name in maximum else torch.nn.AvgPool2d] for name in pools}


@pytest.mark.parametrize("size", [(48, 48), (33, 71), (1, 1)])
def test_inception_v2_takes_small_and_grey_images(size):
    torch.manual_seed(0)
    logits = InceptionV2(1, 7)(torch.rand(2, 1, *size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_names_of_the_paper_in_any_case():
    names = ["ResNet-50", "DenseNet-121", "MobileNet-v2", "inception-V2"]
    assert sorted(map(network_name, names)) == sorted(PAPER_NETWORKS)
    assert network_name(" ResNet50.a1_in1k") == "resnet50.a1_in1k"
    assert isinstance(build_network("Inception-v2", 1, 2), InceptionV2)
    assert isinstance(build_network("small_cnn", 1, 2), SmallCNN)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet5",
            r"^model: got 'resnet5'; expected small_cnn, inception_v2 or a timm model; did you mean .*resnet50",
        ),
        ("smallcnn", r"did you mean small_cnn"),
        ("?", r"^model: got '\?'; expected small_cnn, inception_v2 or a timm model$"),
        ("resnet50.nonsense", r"^model: got 'resnet50.nonsense'; expected a tag of resnet50: a1_in1k"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        build_network(name, 3, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("small_cnn", 0, 10), "in_channels: got 0"),
        (("inception_v2", 3, 0), "num_outputs: got 0"),
        (("inception_v2", 3, 10, True), "pretrained: got True for inception_v2; expected False"),
        (("small_cnn", 3, 10, True), "pretrained: got True for small_cnn; expected False"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_network(*arguments)


def test_pretrained_is_refused_where_timm_has_no_weights(monkeypatch):
    import timm

    monkeypatch.setattr(timm.models, "is_model_pretrained", lambda name: False)
    with pytest.raises(ValueError, match="pretrained: got True for resnet50; expected False"):
        build_network("resnet50", 3, 10, pretrained=True)
