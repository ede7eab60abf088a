"""`learned-resizer compare`: options, errors, exit codes, and pixels as `resize` writes them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from PIL import Image

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.cli import compare as compare_module
from learned_resizer_cuda.weights import ResizerConfig, save_resizer
from tests.helpers.comparison_pages import ReadPanel, sections
from tests.helpers.failures import cannot_mount, command, names, small_disk
from tests.helpers.image_files import opened, pattern

FIXED = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
NAIVE = "bilinear, not antialiased"


def photo(path: Path, height: int = 40, width: int = 60, mode: str = "RGB") -> Path:
    if mode == "I;16":
        Image.fromarray(pattern(height, width, 1)[..., 0].astype(np.uint16) * 257 + 90).save(path)
    else:
        Image.fromarray(pattern(height, width, 4)).convert(mode).save(path)
    return path


def compared(folder: Path, *arguments: object) -> list[tuple[dict[str, str], dict[str, ReadPanel]]]:
    """The page of a command line that must succeed."""
    code, printed = command("compare", *arguments, "--output", folder / "page.html", "--overwrite")
    assert code == 0, printed
    return sections((folder / "page.html").read_text(encoding="utf-8"))


def resized(folder: Path, source: Path, *arguments: object) -> np.ndarray:
    code, printed = command("resize", source, *arguments, "--output", folder / "resized", "--overwrite")
    assert code == 0, printed
    return opened(folder / "resized" / source.name)


def trained(path: Path, size: tuple[int, int] = (12, 10), notes: dict[str, str] | None = None, **more: object) -> Path:
    """A file of a learned resizer with random weights."""
    torch.manual_seed(0)
    config = ResizerConfig(size, num_filters=4, **more)  # type: ignore[arg-type]
    save_resizer(FusedResizer(**config.arguments()), config, path, notes)
    return path


def as_shown(array: np.ndarray) -> np.ndarray:
    """A PNG's array as browsers show it: alpha over white, 16 bits as 8."""
    if array.dtype == np.uint16:
        return np.floor(array / 257 + 0.5)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        alpha = array[..., -1:] / 255
        over = array[..., :-1] * alpha + 255 * (1 - alpha)
        return over if over.shape[2] == 3 else over.repeat(3, 2)
    return array


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16"])
def test_pixels_are_those_of_resize(tmp_path: Path, mode: str) -> None:
    source = photo(tmp_path / "a.png", mode=mode)
    ((section, read),) = compared(tmp_path, source, "--size", "17x23")
    assert list(read) == ["original", *FIXED, NAIVE]
    exact = mode in ("L", "RGB")
    # Alpha and 16 bits: rounded twice by `resize` and here, in Pillow's own arithmetic over white
    bound = 0 if exact else 1.01
    assert np.abs(read["original"].pixels - as_shown(opened(source))).max() <= bound
    for name in FIXED:
        array = resized(tmp_path, source, "--size", "17x23", "--interpolation", name)
        assert np.abs(read[name].pixels - as_shown(array)).max() <= bound
    array = resized(tmp_path, source, "--size", "17x23", "--no-antialias")
    assert np.abs(read[NAIVE].pixels - as_shown(array)).max() <= bound
    assert ("Alpha is laid over white." in section["text"]) == (mode in ("RGBA", "LA"))
    assert ("rounded to 8 bits" in section["text"]) == (mode == "I;16")


def test_orientation_and_profile(tmp_path: Path) -> None:
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pattern(40, 60)).save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    ((section, read),) = compared(tmp_path, tmp_path / "a.png")
    assert np.array_equal(read["original"].pixels, np.rot90(pattern(40, 60), -1))
    assert "60×40 pixels, resized to 30×20" in section["text"] and "profile is left out" in section["text"]


@pytest.mark.parametrize(("side", "expected"), [((40, 60), "20×30"), ((9, 1000), "8×384"), ((768, 800), "369×384")])
def test_size_by_default(tmp_path: Path, side: tuple[int, int], expected: str) -> None:
    """Half of each side, at most 384, at least 8."""
    ((section, _),) = compared(tmp_path, photo(tmp_path / "a.png", *side))
    assert f"resized to {expected} (" in section["text"]


def test_learned_panel(tmp_path: Path) -> None:
    source = photo(tmp_path / "a.png")
    terms = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)}
    for more, size in (({}, ()), (terms, ("--size", "15x14"))):
        weights = trained(tmp_path / "w.safetensors", **more)
        ((_, read),) = compared(tmp_path, source, "--weights", weights, *size)
        assert np.array_equal(read["learned"].pixels, resized(tmp_path, source, "--weights", weights, *size))
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "w.safetensors: trained to resize to 12×10. " in page
        assert ("Here it resizes to 15×14, for which it was not trained." in page) == bool(size)
        assert ("its normalisation undone" in page) == bool(more)


def test_stretched_panel(tmp_path: Path) -> None:
    """An output far outside of an image's range is shown again, whole but for 2 %."""
    torch.manual_seed(0)
    config = ResizerConfig((32, 32), num_filters=4)
    resizer = FusedResizer(**config.arguments())
    torch.nn.init.constant_(resizer.conv4.bias, 3.0)
    save_resizer(resizer, config, tmp_path / "w")
    source = photo(tmp_path / "a.png")
    ((_, read),) = compared(tmp_path, source, "--weights", tmp_path / "w")
    with torch.no_grad():
        output = resizer.eval()(torch.from_numpy(opened(source)).permute(2, 0, 1)[None] / 255)[0] * 255
    outside = float(((output < -0.5) | (output >= 255.5)).double().mean())
    assert outside > 0.5 and f"{100 * outside:.1f} % of its values cut off" in read["learned"].caption
    low, high = np.percentile(output.numpy(), (1, 99), method="nearest")
    assert f"black is {low:.0f}, white {high:.0f} of its levels".replace("-", "−") in read["learned, stretched"].caption
    expected = ((output - low) * 255 / (high - low)).clamp(0, 255).permute(1, 2, 0).numpy()
    # rounded to the nearest level; 1e-3 of a level for float32
    assert np.abs(read["learned, stretched"].pixels - expected).max() <= 0.501


def test_notes_of_the_weights(tmp_path: Path) -> None:
    """The file's words are untrusted."""
    notes = {"data": "<b>" + "x" * 500, "steps": "60", "input_size": "96"}
    weights = trained(tmp_path / "<i>.safetensors", notes=notes)
    compared(tmp_path, photo(tmp_path / "<u>.png"), "--weights", weights, "--title", "<s>")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "trained to resize images of 96×96 to 12×10, in 60 steps on &lt;b&gt;xxx" in page
    assert "x" * 100 not in page and "…" in page
    assert not any(mark in page for mark in ("<b>x", "<i>", "<u>", "<s>"))
    for side in (96, 95):
        ((section, _),) = compared(tmp_path, photo(tmp_path / "a.png", side, 96), "--weights", weights)
        assert ("The learned resizer was trained on images of 96×96." in section["text"]) == (side == 95)
    weights = trained(tmp_path / "native", notes={"input_size": "native"})
    ((section, _),) = compared(tmp_path, tmp_path / "a.png", "--weights", weights)
    assert "trained on images" not in section["text"]


def test_several_images_and_bad_ones(tmp_path: Path) -> None:
    good, grey = photo(tmp_path / "b.png"), photo(tmp_path / "a.png", mode="L")
    (tmp_path / "text.png").write_text("no image")
    photo(tmp_path / "cmyk.jpg", mode="CMYK")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "float.tif")
    inputs = [good, tmp_path / "text.png", tmp_path / "cmyk.jpg", tmp_path / "float.tif", grey]
    code, printed = command("compare", *inputs, "--output", tmp_path / "new" / "page.html")
    assert code == 1 and "2 compared, 3 skipped, " in printed
    assert "text.png: not an image, or in a format that is not opened" in printed
    assert "cmyk.jpg: mode CMYK; expected grey or RGB" in printed and "float.tif: mode F; expected" in printed
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert [section["heading"] for section, _ in sections(page)] == ["b.png", "a.png"]
    assert f"{len(page.encode()) / 1e6:.1f} MB" in printed
    code, printed = command("compare", *inputs[1:4], "--output", tmp_path / "none.html")
    assert code == 1 and "no image to show" in printed and not (tmp_path / "none.html").exists()


def test_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    try:
        with open(path, "wb") as file:
            Image.fromarray(pattern()).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes text names only")
    ((section, _),) = compared(tmp_path, os.fsdecode(path))
    assert section["heading"] == r"\xff\xfe.png"


def test_wrong_usage(tmp_path: Path) -> None:
    source, page = photo(tmp_path / "a.png"), tmp_path / "page.html"
    (tmp_path / "folder.html").mkdir()
    small = trained(tmp_path / "small", (4, 4))
    cases = [
        ((source,), "--output"),
        (("--output", page), "IMAGE..."),
        ((source, "--output", tmp_path / "page.png"), "page.png; expected a name that ends in .html"),
        ((source, "--output", tmp_path / "folder.html"), "folder.html is a folder"),
        ((source, "--output", source / "page.html"), "--output: cannot make the folder"),
        ((tmp_path, "--output", page), "is a folder; expected image files"),
        ((tmp_path / "b.png", "--output", page), "IMAGE: no such file: "),
        ((source, "--size", "8x", "--output", page), "--size: got '8x'; expected H or HxW"),
        ((source, "--size", "7x90", "--output", page), "--size: got '7x90'; expected at least 8"),
        ((source, "--size", "99999", "--output", page), "makes more than 16 million pixels; choose a smaller size"),
        ((source, "--weights", tmp_path / "w", "--output", page), "no such file"),
        ((source, "--weights", source, "--output", page), "not a readable safetensors file"),
        ((source, "--weights", small, "--output", page), "--size: the resizer was trained for 4×4; choose at least 8"),
    ]
    for arguments, message in cases:
        code, printed = command("compare", *arguments)
        assert code == 2 and message in printed, (arguments, printed)
        assert not page.exists()


def test_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images count together."""
    source = photo(tmp_path / "a.png")
    monkeypatch.setattr(compare_module, "_LARGEST_PAGE", 2 * 7 * 20 * 30)
    compared(tmp_path, source, source)
    code, printed = command("compare", source, source, source, "--output", tmp_path / "more.html")
    assert code == 2 and "in 7 panels of 20×30 makes more than" in printed
    assert not (tmp_path / "more.html").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source, page = photo(tmp_path / "a.png"), tmp_path / "page.html"
    page.write_text("mine")
    code, printed = command("compare", source, "--output", page)
    assert code == 2 and "page.html exists; pass --overwrite to replace it" in printed and page.read_text() == "mine"
    assert command("compare", source, "--output", page, "--overwrite")[0] == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    image = tmp_path / "image.html"
    os.link(source, image)
    code, printed = command("compare", source, "--output", image, "--overwrite")
    assert code == 2 and "is an image to compare" in printed and image.read_bytes() == source.read_bytes()


def test_same_command_same_bytes(tmp_path: Path) -> None:
    source, weights = photo(tmp_path / "a.png"), trained(tmp_path / "w")
    for name in ("one.html", "two.html"):
        assert command("compare", source, "--weights", weights, "--output", tmp_path / name)[0] == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_full_disk(tmp_path: Path) -> None:
    if reason := cannot_mount():
        pytest.skip(reason)
    source = photo(tmp_path / "a.png")
    with small_disk(tmp_path / "out", "size=16k") as out:
        code, printed = command("compare", source, "--output", out / "page.html")
        assert code == 1 and "page.html: No space left on device" in printed
        assert names(out) == []
