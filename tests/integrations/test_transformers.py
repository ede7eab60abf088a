"""``accelerate``: Hugging Face image processors beside their torchvision originals and their Pillow-backed twins.

Processors are made by their constructors, without weights. transformers is imported in the tests: it takes seconds, and
every process of ``pytest -n`` imports this file.
"""

from __future__ import annotations

import copy
import functools
import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor

from learned_resizer_cuda import resize

# What the installed Pillow does.
PILLOW = "pillow" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow-12"

# Ways to choose a size, filters and own resize methods.
PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": {},  # shortest edge, then a crop
    "SiglipImageProcessor": {},  # height and width
    "ViTImageProcessor": {},
    "Qwen2VLImageProcessor": {},  # its own resize, to multiples of 28
    "DetrImageProcessor": {},  # shortest and longest edge
    "ConvNextImageProcessor": {},  # its own resize, which crops
    "ChameleonImageProcessor": {},  # lanczos
    "Idefics3ImageProcessor": {"size": {"longest_edge": 728}},  # lanczos, twice
    "LlavaNextImageProcessor": {},  # tiles
    "MllamaImageProcessor": {},  # its own resize gives a tuple
}


def make(name: str, **options: Any) -> Any:
    return getattr(importlib.import_module("transformers"), name)(**options)


def make_accelerated(name: str, parity: str = "pillow", **options: Any) -> Any:
    from learned_resizer_cuda.integrations.transformers import accelerate

    return accelerate(make(name, **options), parity=parity)


@functools.cache
def images() -> list[np.ndarray]:
    """Photographs and noise ``(H, W, 3)``, smaller and larger than the processors' sizes."""
    from skimage import data

    noise = np.random.default_rng(0).integers(0, 256, (301, 149, 3), dtype=np.uint8)
    return [data.astronaut()[:400, 30:480], data.chelsea(), noise, noise[:40, :57]]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in a processor's output, with their places."""
    if isinstance(value, Tensor):
        yield name, value.double()
    elif hasattr(value, "items"):
        for key, part in value.items():
            yield from flat(part, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from flat(part, f"{name}[{index}]")


def levels(processor: Any, *images: Any, **options: Any) -> dict[str, Tensor]:
    """A processor's output in levels of 0 to 255, neither rescaled nor normalised."""
    return dict(flat(processor(*images, do_rescale=False, do_normalize=False, return_tensors="pt", **options)))


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of two outputs, which must have the same tensors of the same shapes."""
    assert {name: value.shape for name, value in a.items()} == {name: value.shape for name, value in b.items()}
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].numel())


@pytest.mark.parametrize("name", PROCESSORS)
def test_bytes_of_the_pillow_twin(name: str) -> None:
    accelerated, twin = make_accelerated(name, PILLOW, **PROCESSORS[name]), make(f"{name}Pil", **PROCESSORS[name])
    for image in images():
        assert difference(levels(accelerated, image), levels(twin, image)) == 0


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_of_the_torchvision_original(name: str) -> None:
    """Within 2 levels per resize: torch's weights for bytes have 16 bits, ours 22; and rows first, as torch."""
    accelerated, original = make_accelerated(name, "pillow-12", **PROCESSORS[name]), make(name, **PROCESSORS[name])
    for image in images():
        assert difference(levels(accelerated, image), levels(original, image)) <= (4 if "Idefics3" in name else 2)


@pytest.mark.parametrize("name", ["CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"])
def test_normalised_batch_of_mixed_sizes(name: str) -> None:
    mixed = [*images(), Image.fromarray(images()[1])]
    values, rows_first, twin, original = (
        processor(mixed, return_tensors="pt").pixel_values
        for processor in (
            make_accelerated(name, PILLOW),
            make_accelerated(name, "pillow-12"),
            make(name + "Pil"),
            make(name),
        )
    )
    # The same bytes, whose scale and offset are applied in another order in float32.
    torch.testing.assert_close(values, twin, rtol=0, atol=4e-6)
    level = 1 / 255 / min(make(name).image_std)
    torch.testing.assert_close(rows_first, original, rtol=0, atol=2.001 * level)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels(channels: int) -> None:
    """The last of two or four is alpha."""
    image = np.concatenate([images()[0], images()[0][:, ::-1, :1]], 2).transpose(2, 0, 1)[-channels:]
    options = {"do_convert_rgb": False, "input_data_format": "channels_first"}
    accelerated, twin = make_accelerated("CLIPImageProcessor", PILLOW), make("CLIPImageProcessorPil")
    assert difference(levels(accelerated, image, **options), levels(twin, image, **options)) == 0


@pytest.mark.parametrize("name", ["Qwen2VLVideoProcessor", "SmolVLMVideoProcessor", "LlavaOnevisionVideoProcessor"])
def test_videos(name: str) -> None:
    frames = np.stack([images()[0], images()[0][::-1], images()[0][:, ::-1], 255 - images()[0]])
    accelerated, original = make_accelerated(name, "pillow-12"), make(name)
    out, expected = (levels(processor, frames, do_sample_frames=False) for processor in (accelerated, original))
    assert difference(out, expected) <= 2


def test_every_frame_is_the_pillow_image() -> None:
    processor = make_accelerated("LlavaOnevisionVideoProcessor", PILLOW)
    frames = np.stack(images()[0:1] * 2)
    out = levels(processor, frames, do_sample_frames=False)[".pixel_values_videos"]
    size = (processor.size["width"], processor.size["height"])
    expected = np.array(Image.fromarray(frames[0]).resize(size, Image.Resampling(processor.resample)))
    assert torch.equal(out[0, 1], torch.from_numpy(expected).permute(2, 0, 1).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("antialias", [True, False])
def test_floating_point_images_are_exact(dtype: torch.dtype, antialias: bool) -> None:
    from transformers.image_utils import SizeDict

    image = torch.from_numpy(images()[1] / 255).permute(2, 0, 1).to(dtype).requires_grad_()
    processor = make_accelerated("CLIPImageProcessor")
    out = processor.resize(image, SizeDict(shortest_edge=100), resample=3, antialias=antialias)
    assert out.requires_grad
    assert torch.equal(out, resize(image, (100, 150), interpolation="bicubic", antialias=antialias))
    original = make("CLIPImageProcessor").resize(image, SizeDict(shortest_edge=100), resample=3, antialias=antialias)
    # A bfloat16 value below 2 has 8 bits; torch rounds between the passes too.
    torch.testing.assert_close(out, original, rtol=0, atol=max(2e-6, 4 * torch.finfo(dtype).eps))


def test_filters() -> None:
    """A Pillow constant, its number, torchvision's name or None; also those that torchvision's tensors do not have."""
    from torchvision.transforms import InterpolationMode
    from transformers.image_utils import SizeDict

    processor, size = make_accelerated("ViTImageProcessor", PILLOW), SizeDict(height=60, width=77)
    image = torch.from_numpy(images()[1]).permute(2, 0, 1)
    for mode in InterpolationMode:
        if mode == InterpolationMode.NEAREST:  # coordinates rounded down, which Pillow does not have
            continue
        constant = Image.Resampling[mode.name.removesuffix("_EXACT")]
        expected = torch.from_numpy(np.array(Image.fromarray(images()[1]).resize((77, 60), constant))).permute(2, 0, 1)
        for resample in (constant, int(constant), mode):
            assert torch.equal(processor.resize(image, size, resample), expected)
    assert torch.equal(processor.resize(image, size), processor.resize(image, size, Image.Resampling.BILINEAR))


def test_what_stays_with_torchvision() -> None:
    """Maps of labels and boolean masks; nearest with coordinates rounded down."""
    from torchvision.transforms import InterpolationMode
    from transformers.image_utils import SizeDict

    processor, original = make_accelerated("ViTImageProcessor"), make("ViTImageProcessor")
    image, size = torch.from_numpy(images()[1]).permute(2, 0, 1), SizeDict(height=60, width=77)
    for labels in (image.long() * 1000, image > 127):
        assert torch.equal(processor.resize(labels, size, 0), original.resize(labels, size, 0))
    modes = [InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT]
    floor, ours = (processor.resize(image, size, mode) for mode in modes)
    assert torch.equal(floor, original.resize(image, size, modes[0])) and not torch.equal(floor, ours)


def test_lanczos_off_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes bicubic on other devices, for which the meta device stands here."""
    from learned_resizer_cuda.integrations import transformers

    calls = []

    def recorded(image: Tensor, size: Any, *, interpolation: str, **options: Any) -> Tensor:
        calls.append((image.device.type, size, interpolation))
        return resize(image, size, interpolation=interpolation, **options)

    monkeypatch.setattr(transformers, "resize", recorded)
    (out,) = make_accelerated("ChameleonImageProcessor")(images()[0], device="meta").pixel_values
    assert calls == [("meta", (512, 576), "lanczos")] and out.shape == (3, 512, 512)


def test_the_object_stays_what_it_is(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    from learned_resizer_cuda.integrations.transformers import accelerate

    original = make("Qwen2VLImageProcessor", patch_size=16)
    processor = make("Qwen2VLImageProcessor", patch_size=16)
    assert accelerate(processor) is processor
    assert isinstance(processor, type(original)) and type(processor) is not type(original)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(processor), name) == getattr(type(original), name)
    assert vars(processor) == vars(original)
    assert processor.to_dict() == original.to_dict() and repr(processor) == repr(original)
    for part, folder in ((original, "original"), (processor, "accelerated")):
        part.save_pretrained(tmp_path / folder)
    saved = [(tmp_path / folder / "preprocessor_config.json").read_bytes() for folder in ("original", "accelerated")]
    assert saved[0] == saved[1]
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "accelerated")
    assert type(loaded) is type(original) and loaded.patch_size == 16
    assert difference(levels(accelerate(loaded), images()[0]), levels(processor, images()[0])) == 0


def test_copies_and_pickles() -> None:
    processor = make_accelerated("Idefics3ImageProcessor", "pillow-12", do_image_splitting=False)
    for same in (copy.copy(processor), copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert type(same) is type(processor) and vars(same) == vars(processor) and same is not processor
        assert difference(levels(same, images()[0]), levels(processor, images()[0])) == 0


def test_accelerated_again() -> None:
    """The second parity holds, and nothing is stacked."""
    from learned_resizer_cuda.integrations.transformers import accelerate

    processor = make_accelerated("CLIPImageProcessor", "exact")
    exact = levels(processor, images()[0])
    assert type(accelerate(processor, parity="pillow")) is type(make_accelerated("CLIPImageProcessor"))
    assert difference(levels(processor, images()[0]), exact) > 0
    assert type(accelerate(processor, parity="exact")).__mro__.count(type(make("CLIPImageProcessor"))) == 1
    assert difference(levels(processor, images()[0]), exact) == 0


def test_a_processor_of_the_base_class() -> None:
    options = {"size": {"height": 30, "width": 40}, "do_resize": True, "resample": 3}
    base = importlib.import_module("transformers.image_processing_backends")
    processor = importlib.import_module("learned_resizer_cuda.integrations.transformers").accelerate(
        base.TorchvisionBackend(**options), parity=PILLOW
    )
    assert difference(levels(processor, images()[0]), levels(base.PilBackend(**options), images()[0])) == 0


def test_processor_of_a_vision_language_model() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2VLProcessor

    from learned_resizer_cuda.integrations.transformers import accelerate

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")), pad_token="a")
    tokenizer.add_tokens(["<|image_pad|>", "<|video_pad|>"], special_tokens=True)
    image, video = make("Qwen2VLImageProcessor"), make("Qwen2VLVideoProcessor")
    processor = Qwen2VLProcessor(image, tokenizer, video)
    before = processor.to_dict()
    assert accelerate(processor) is processor and processor.image_processor is image
    assert processor.to_dict() == before
    pixels = processor(text=["<|image_pad|>"], images=images()[0], return_tensors="pt").pixel_values
    assert torch.equal(pixels, make_accelerated("Qwen2VLImageProcessor")(images()[0], return_tensors="pt").pixel_values)
    assert type(video) is type(make_accelerated("Qwen2VLVideoProcessor"))


def test_nothing_changes_where_a_part_is_refused() -> None:
    from learned_resizer_cuda.integrations.transformers import accelerate

    image = make("CLIPImageProcessor")
    with pytest.raises(TypeError, match=r"^processor\.video_processor: got Gemma4VideoProcessor"):
        accelerate(SimpleNamespace(image_processor=image, video_processor=make("Gemma4VideoProcessor")))
    assert type(image) is type(make("CLIPImageProcessor"))


def halved(image: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(image, scale_factor=0.5)


def test_own_classes() -> None:
    """A subclass's methods run; one that resizes elsewhere is refused, unless a call does not reach it."""
    from transformers import ViTImageProcessor

    from learned_resizer_cuda.integrations.transformers import accelerate

    class Flipped(ViTImageProcessor):
        def resize(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return super().resize(image.flip(-1), *args, **kwargs)

        def post_process(self, image: Tensor) -> Tensor:
            return halved(image)

    class ByHelper(Flipped):
        def resize(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return super().resize(halved(image), *args, **kwargs)

    class ByComprehension(Flipped):
        def _preprocess(self, images: list[Tensor], **kwargs: Any) -> Any:
            images = [torch.nn.functional.interpolate(image[None], (9, 9))[0] for image in images]
            return super()._preprocess(images, **kwargs)

    mirrored = np.ascontiguousarray(images()[0][:, ::-1])
    expected = levels(make_accelerated("ViTImageProcessor"), mirrored)
    assert difference(levels(accelerate(Flipped()), images()[0]), expected) == 0
    for kind in (ByHelper, ByComprehension):
        with pytest.raises(TypeError, match=f"got {kind.__name__}, whose (halved|.*_preprocess) resizes by itself"):
            accelerate(kind())


def test_workers_of_a_data_loader() -> None:
    """A spawned worker imports everything anew and gets the processor as a pickle."""
    processor = make_accelerated("ChameleonImageProcessor")
    batches = torch.utils.data.DataLoader(
        images()[:2],  # type: ignore[arg-type]
        batch_size=2,
        collate_fn=functools.partial(processor, return_tensors="pt"),
        num_workers=1,
        multiprocessing_context="spawn",
    )
    (batch,) = batches
    assert torch.equal(batch["pixel_values"], processor(images()[:2], return_tensors="pt").pixel_values)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "learned_resizer_cuda.integrations.transformers"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "transformers.image_processing_backends", None)
    with pytest.raises(ImportError, match=r'pip install "learned-resizer-cuda\[transformers\]"'):
        importlib.import_module(name)


def classes() -> dict[str, type]:
    """transformers' own processor classes, torch-backed and Pillow-backed."""
    import transformers.image_processing_backends as backends

    models = Path(sys.modules["transformers"].__file__).parent / "models"  # type: ignore[arg-type]
    found = {}
    for path in sorted([*models.glob("*/image_processing_*.py"), *models.glob("*/video_processing_*.py")]):
        module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, (backends.TorchvisionBackend, backends.PilBackend)):
                found[name] = kind
    return found


@pytest.mark.slow
def test_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each either resizes all images here, like its original and its twin, or is refused."""
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.video_processing_utils import BaseVideoProcessor

    from learned_resizer_cuda.integrations import transformers

    inside, past = [], []  # calls of our resize under way; calls of torch's beside it

    class Record(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.interpolate and args[0].device.type != "meta" and not inside:
                past.append(func)
            return func(*args, **(kwargs or {}))

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        inside.append(None)
        out = resize(*args, **kwargs)
        inside.pop()
        return out

    monkeypatch.setattr(transformers, "resize", recorded)
    photo = images()[0]
    video = {"videos": [np.stack([photo] * 4)], "do_sample_frames": False}
    pairs = {
        name: {"images": [photo, photo], "do_grayscale": False} for name in ("EfficientLoFTR", "LightGlue", "SuperGlue")
    }
    arguments: dict[str, dict[str, Any]] = {
        **pairs,
        "LayoutLMv2": {"images": photo, "apply_ocr": False},
        "LayoutLMv3": {"images": photo, "apply_ocr": False},
        "Pix2Struct": {"images": photo, "header_text": "a"},
        "VitMatte": {"images": photo, "trimaps": photo[..., 0]},
        "VitPose": {"images": photo, "boxes": [[[10, 10, 200, 300]]]},
    }
    made = {"ImageGPTImageProcessor": {"do_color_quantize": False}}

    def output(processor: Any, in_levels: bool) -> dict[str, Tensor]:
        given = video if isinstance(processor, BaseVideoProcessor) else {"images": photo}
        model = type(processor).__name__.removesuffix("Pil").removesuffix("ImageProcessor")
        given = arguments.get(model, given)
        if in_levels:
            return levels(processor, **given)
        scale = 255 * min(getattr(processor, "image_std", None) or [1])
        return {name: value * scale for name, value in flat(processor(**given, return_tensors="pt"))}

    def outputs(original: Any, twin: Any, in_levels: bool) -> list[dict[str, Tensor]]:
        accelerated = transformers.accelerate(copy.deepcopy(original), parity="pillow-12")
        with Record():
            out = [output(accelerated, in_levels)]
        transformers.accelerate(accelerated, parity=PILLOW)
        return [*out, *(output(processor, in_levels) for processor in (original, accelerated, twin) if processor)]

    refused, equal, checked = set(), set(), set()
    kinds = classes()
    for name, kind in kinds.items():
        if not issubclass(kind, TorchvisionBackend) or kind in (TorchvisionBackend, BaseVideoProcessor):
            continue
        original, twin = (kinds[n](**made.get(name, {})) if n in kinds else None for n in (name, f"{name}Pil"))
        try:
            transformers.accelerate(copy.deepcopy(original))
        except TypeError as error:
            assert f"got {name}, whose " in str(error)
            refused.add(name)
            continue
        try:
            rows_first, expected, *others = outputs(original, twin, in_levels=True)
        except OSError as error:  # a font that is not installed
            print(name, error)
            continue
        except (TypeError, ValueError, RuntimeError):  # it lacks the options, or needs floats
            rows_first, expected, *others = outputs(original, twin, in_levels=False)
        assert past == [], name
        # Two levels per resize, of which this one makes three in a row.
        assert difference(rows_first, expected) <= (6 if name == "UltraVBertImageProcessor" else 2.001), name
        checked.add(name)
        # Where the output is normalised, in another order in float32.
        if twin and difference(*others) < 1e-3:
            equal.add(name)
    print(f"{len(checked)} accelerated, {len(equal)} equal to their twins, refused: {', '.join(sorted(refused))}")
    # Its own resize blurs by itself, and its twin's in another way.
    assert {name for name in checked if f"{name}Pil" in kinds} - equal == {"Owlv2ImageProcessor"}
    assert len(checked) > 10 * len(refused) > 0
