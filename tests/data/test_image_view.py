"""One image file to one view: every mode and orientation, random crops, JPEG decoded at a fraction."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from learned_resizer_cuda.data import image_view
from learned_resizer_cuda.data.image_file import ImageRefused
from learned_resizer_cuda.data.image_view import View, drawn_view, fixed_view, read_view
from tests.helpers.image_files import expected, pattern


def whole(height: int, width: int) -> View:
    return View(0, 0, height, width)


def read(path: Path, size: int = 16, in_channels: int = 3) -> np.ndarray:
    return read_view(path, whole, size, in_channels).permute(1, 2, 0).numpy()


def test_view_is_cut_and_resized(tmp_path: Path) -> None:
    array = pattern(40, 60)
    Image.fromarray(array).save(tmp_path / "a.png")
    for view in (whole(40, 60), View(3, 7, 21, 33), View(30, 50, 10, 10)):
        image = read_view(tmp_path / "a.png", lambda h, w, view=view: view, 16, 3)
        assert image.dtype == torch.uint8 and image.shape == (3, 16, 16)
        cut = array[view.top : view.top + view.height, view.left : view.left + view.width]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected(cut, (16, 16)))
        mirrored = read_view(tmp_path / "a.png", lambda h, w, view=view: view._replace(mirror=True), 16, 3)
        assert torch.equal(mirrored, image.flip(-1)) and not torch.equal(mirrored, image)


def test_image_of_the_asked_size_is_kept(tmp_path: Path) -> None:
    Image.fromarray(pattern(16, 16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), pattern(16, 16))


def test_fixed_views() -> None:
    assert fixed_view("squash", 30, 50) == View(0, 0, 30, 50)
    assert fixed_view("crop", 256, 256) == View(16, 16, 224, 224)
    assert fixed_view("crop", 80, 201) == View(5, 65, 70, 70)
    assert fixed_view("crop", 1, 9) == View(0, 4, 1, 1)


def test_random_crops_lie_inside_and_keep_their_bounds() -> None:
    height, width = 300, 400
    views = [drawn_view("crop", "crop", height, width, np.random.default_rng(n)) for n in range(2000)]
    tops, lefts, heights, widths, mirrors = (np.array(column) for column in zip(*views, strict=True))
    assert tops.min() == 0 and lefts.min() == 0
    assert (tops + heights).max() == height and (lefts + widths).max() == width
    # half a pixel of rounding a side, of sides of at least 100: under 1 % of the aspect, 2 % of the area
    aspects, areas = widths / heights, heights * widths / (height * width)
    assert 0.99 * 3 / 4 < aspects.min() < 0.77 and 1.3 < aspects.max() < 1.01 * 4 / 3
    assert 0.98 * 0.08 < areas.min() < 0.1 and 0.95 < areas.max() <= 1
    # a fair coin: 6 standard deviations of sqrt(2000) / 2
    assert abs(int(mirrors.sum()) - 1000) < 6 * math.sqrt(2000) / 2


def test_random_crops_are_torchvisions() -> None:
    """The same law, though other numbers: means of area and aspect agree to 5 standard errors of 2,000 draws."""
    transforms = pytest.importorskip("torchvision.transforms")
    ours = [drawn_view("crop", "crop", 300, 400, np.random.default_rng(n)) for n in range(2000)]
    torch.manual_seed(0)
    blank = torch.empty(1, 300, 400)
    theirs = [transforms.RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)]
    for figure in (
        lambda top, left, height, width, *_: height * width / (300 * 400),
        lambda top, left, height, width, *_: math.log(width / height),
        lambda top, left, height, width, *_: top / 300,
        lambda top, left, height, width, *_: left / 400,
    ):
        a, b = (np.array([figure(*view) for view in views]) for views in (ours, theirs))
        assert abs(a.mean() - b.mean()) < 5 * math.sqrt((a.var() + b.var()) / 2000)
        assert 0.8 < a.std() / b.std() < 1.25


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 1000), (900, 2), (3, 3)])
def test_random_crops_of_odd_shapes(height: int, width: int) -> None:
    for number in range(50):
        view = drawn_view("crop", "crop", height, width, np.random.default_rng(number))
        assert view.top >= 0 and view.height >= 1 and view.top + view.height <= height
        assert view.left >= 0 and view.width >= 1 and view.left + view.width <= width


def test_flip_mirrors_every_other_fixed_view() -> None:
    views = [drawn_view("flip", "crop", 80, 201, np.random.default_rng(n)) for n in range(200)]
    assert {view._replace(mirror=False) for view in views} == {fixed_view("crop", 80, 201)}
    assert 60 < sum(view.mirror for view in views) < 140
    assert drawn_view("none", "squash", 80, 201, np.random.default_rng(0)) == fixed_view("squash", 80, 201)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pattern(30, 50)).save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.array(ImageOps.exif_transpose(image))
    sizes = []

    def corner(height: int, width: int) -> View:
        sizes.append((height, width))
        return View(0, 0, height // 2, width // 3)

    image = read_view(path, corner, 64, 3)
    assert sizes == [upright.shape[:2]]
    cut = upright[: upright.shape[0] // 2, : upright.shape[1] // 3]
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected(cut, (64, 64)))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes_become_colour_or_grey(tmp_path: Path, mode: str) -> None:
    original = Image.fromarray(pattern(16, 16)).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "HSV") else "a.png")
    if mode == "HSV":  # no format holds it
        original = original.convert("RGB")
    original.save(path)
    with Image.open(path) as image:
        colour, grey = np.array(image.convert("RGB")), np.array(image.convert("L"))
    np.testing.assert_array_equal(read(path), colour)
    np.testing.assert_array_equal(read(path, in_channels=1)[..., 0], grey)


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(pattern(16, 16)).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128] + [255] * 14))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.array(image.convert("RGB")))


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    exact = values.astype(float) / 257
    grey = read(tmp_path / "a.png", in_channels=1)[..., 0]
    assert np.abs(grey - exact).max() <= 0.5
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.repeat(grey[..., None], 3, 2))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "a.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("in_channels", [3, 1])
def test_jpeg_is_decoded_near_the_needed_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, in_channels: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = np.array(Image.fromarray(pattern(30, 40)).resize((401, 301), Image.Resampling.BICUBIC))
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=95)
    decoded = []
    convert = image_view._eight_bits
    monkeypatch.setattr(image_view, "_eight_bits", lambda image, mode: decoded.append(image) or convert(image, mode))
    with Image.open(tmp_path / "a.jpg") as image:
        upright = np.array(ImageOps.exif_transpose(image).convert("RGB" if in_channels == 3 else "L"))
    upright = upright.reshape(*upright.shape[:2], in_channels)
    view = View(40, 60, 200, 210)
    for size, fraction in ((100, 2), (50, 4), (25, 8), (101, 1), (300, 1)):
        image = read_view(tmp_path / "a.jpg", lambda h, w: view, size, in_channels)
        assert decoded[-1].size == (math.ceil(401 / fraction), math.ceil(301 / fraction))
        assert decoded[-1].mode == ("RGB" if in_channels == 3 else "L")
        cut = upright[view.top : view.top + view.height, view.left : view.left + view.width]
        distance = np.abs(image.permute(1, 2, 0).numpy().astype(float) - expected(cut, (size, size))).mean()
        # Fractions: the box is rounded to whole pixels of the decoded size, and the filters differ (up to
        # 2.4 levels measured); two output pixels beside it, the picture differs by 3.8 or more. Whole: the same
        # pixels, but for grey, which the decoder takes from the file and Pillow from the rounded colours.
        assert distance <= (3 if fraction > 1 else 0 if in_channels == 3 else 0.5), (size, distance)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no image", "not an image, or in a format that is not opened"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageRefused, match=f"^{reason}$"):
        read(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif"])
@pytest.mark.parametrize("keep", [0.2, 0.9])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pattern(60, 60)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ImageRefused) as caught:
        read(path)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_values_without_a_white(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageRefused, match="mode F has no fixed value for white"):
        read(tmp_path / "a.tif")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    Image.fromarray(pattern(40, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    read(tmp_path / "a.png")  # above the limit, not above its double: Pillow would warn
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageRefused, match="exceeds limit"):
        read(tmp_path / "a.png")
