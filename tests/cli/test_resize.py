"""`learned-resizer resize` on good and bad image files of every kind."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from PIL import Image

from learned_resizer_cuda import resize
from learned_resizer_cuda.cli.picture_plan import plan
from learned_resizer_cuda.cli.resize import parse_size
from tests.helpers.image_files import command, expected, opened, pattern

# good files


@pytest.mark.parametrize(
    "options", [{}, {"interpolation": "bicubic"}, {"interpolation": "lanczos", "antialias": False}]
)
def test_png_is_exactly_the_library_s_resize(tmp_path: Path, options: dict[str, object]) -> None:
    array = pattern()
    Image.fromarray(array).save(tmp_path / "a.png")
    flags = ["--interpolation", options["interpolation"]] if "interpolation" in options else []
    flags += ["--no-antialias"] if options.get("antialias") is False else []
    assert command(tmp_path / "a.png", "--size", "17x23", *flags, "--output", tmp_path / "out") == 0
    assert np.array_equal(opened(tmp_path / "out" / "a.png"), expected(array, (17, 23), **options))


def test_one_number_is_both_sides(tmp_path: Path) -> None:
    Image.fromarray(pattern()).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", "--size", "9", "--output", tmp_path / "out") == 0
    assert opened(tmp_path / "out" / "a.png").shape == (9, 9, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The result is the picture as viewers turn it by the tag, without the tag."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    corner = np.zeros((32, 64), np.uint8)
    corner[:16, :32] = 255  # white in the stored picture's top left
    Image.fromarray(corner).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert command(tmp_path / "a.jpg", "--size", "16x16", "--output", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a.jpg") as image:
        assert image.format == "JPEG"
        assert image.getexif().get(0x0112, 1) == 1 and image.getexif()[0x010F] == "a camera"
        light = np.array(image)[[2, 2, 13, 13], [2, 13, 2, 13]] > 127  # the four quarters
    # by the EXIF standard, where the stored top left is shown
    shown = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    assert light.tolist() == [quarter == shown for quarter in range(4)]


def test_orientation_comes_before_the_size(tmp_path: Path) -> None:
    """--size is height and width of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pattern(20, 60)).save(tmp_path / "a.jpg", exif=exif)
    assert command(tmp_path / "a.jpg", "--size", "30x10", "--output", tmp_path / "out") == 0
    assert opened(tmp_path / "out" / "a.jpg").shape == (30, 10, 3)


def test_alpha_is_kept_and_hidden_colour_does_not_bleed(tmp_path: Path) -> None:
    """Red, visible on the left; bright green, fully transparent, on the right: no visible pixel turns green."""
    array = np.zeros((40, 40, 4), np.uint8)
    array[:, :21] = (200, 0, 0, 255)
    array[:, 21:] = (0, 255, 0, 0)
    Image.fromarray(array).save(tmp_path / "a.png")
    for name in ("bilinear", "lanczos"):
        out = tmp_path / name
        assert command(tmp_path / "a.png", "--size", "10", "--interpolation", name, "--output", out) == 0
        result = opened(out / "a.png")
        assert result.shape == (10, 10, 4)
        alpha = torch.from_numpy(array[..., 3].astype(np.float64))[None]
        exact = resize(alpha, 10, interpolation=name)[0].clamp(0, 255).numpy()
        # rounded to the nearest level; float32 may decide a tie the other way
        assert np.abs(result[..., 3] - exact).max() <= 0.501
        assert 0 < result[0, 5, 3] < 255, "the edge is soft"
        seen = result[..., 3] > 0
        assert (result[seen][:, 0] == 200).all() and (result[seen][:, 1:3] == 0).all()


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    array = np.concatenate([pattern(), np.full((40, 60, 1), 255, np.uint8)], -1)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", "--size", "13x21", "--output", tmp_path / "out") == 0
    result = opened(tmp_path / "out" / "a.png")
    assert (result[..., 3] == 255).all()
    plain = expected(array[..., :3], (13, 21))
    # the colours went through float32 in [0, 1]: at a tie of rounding one level may differ
    assert np.abs(result[..., :3].astype(int) - plain).max() <= 1
    assert (result[..., :3] == plain).mean() > 0.99


@pytest.mark.parametrize(
    ("mode", "suffix", "kept"),
    [
        ("L", "png", "L"), ("1", "png", "L"), ("P", "png", "RGB"), ("LA", "png", "LA"), ("I;16", "png", "I;16"),
        ("I;16", "tif", "I;16"), ("F", "tif", "F"), ("I", "tif", "I"), ("CMYK", "jpg", "CMYK"),
        ("CMYK", "tif", "CMYK"), ("RGB", "webp", "RGB"), ("RGBA", "webp", "RGBA"), ("RGB", "bmp", "RGB"),
        ("L", "jpg", "L"), ("YCbCr", "tif", "RGB"), ("RGBA", "png", "RGBA"),
    ],
)  # fmt: skip
def test_modes(tmp_path: Path, mode: str, suffix: str, kept: str) -> None:
    """Every mode keeps its meaning: the result is close to resizing the picture converted to the kept mode."""
    source = tmp_path / f"a.{suffix}"
    if mode in ("I;16", "I", "F"):
        scale, dtype = {"I;16": (257, np.uint16), "I": (100_003, np.int32), "F": (0.001, np.float32)}[mode]
        Image.fromarray((pattern(channels=1)[..., 0] * np.float64(scale)).astype(dtype)).save(source)
    else:
        # WebP halves the resolution of colour, so its picture is grey; even alpha leaves colours as they are.
        array = pattern(channels=1).repeat(3, 2) if suffix == "webp" else pattern()
        image = Image.fromarray(array)
        if mode in ("RGBA", "LA"):
            image.putalpha(128)
        image.convert(mode).save(source)
    assert command(source, "--size", "11x12", "--output", tmp_path / "out") == 0
    with Image.open(source) as before, Image.open(tmp_path / "out" / source.name) as after:
        assert after.mode == kept and after.size == (12, 11) and after.format == before.format
        if before.mode != kept:
            before = before.convert(kept)
        was, now = (np.array(image).astype(np.float64) for image in (before, after))
    exact = resize(torch.from_numpy(np.atleast_3d(was)).permute(2, 0, 1), (11, 12)).permute(1, 2, 0).numpy()
    error = np.abs(np.atleast_3d(now) - exact).max()
    # Integers are rounded once; I and F carry float64 and float32; JPEG and WebP lose a few levels at quality 95.
    bound = {"jpg": 8, "webp": 12}.get(suffix, 0.51) if mode != "F" else 1e-6
    assert error <= bound


def test_transparent_colour_of_a_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 20, 0).repeat(10, 1), "P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=1)
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(tmp_path / "b.png", transparency=(7, 7, 7))
    assert command(tmp_path / "a.png", tmp_path / "b.png", "--size", "10", "--output", tmp_path / "out") == 0
    result = opened(tmp_path / "out" / "a.png")
    assert result.shape == (10, 10, 4)
    assert result[0, 0].tolist() == [255, 0, 0, 255] and result[0, -1, 3] == 0
    assert opened(tmp_path / "out" / "b.png")[..., 3].max() == 0


def test_icc_profile_is_kept(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("a.png", "a.jpg"):
        Image.fromarray(pattern()).save(tmp_path / name, icc_profile=profile)
    assert command(tmp_path / "a.png", tmp_path / "a.jpg", "--size", "9", "--output", tmp_path / "out") == 0
    for name in ("a.png", "a.jpg"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.info["icc_profile"] == profile


def test_16_bit_colour_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 4, depth=16, colour=2, data=(b"\0" + b"\x80\x00" * 12) * 4))
    assert command(tmp_path / "a.png", "--size", "2", "--output", tmp_path / "out") == 0
    assert "read as 8 bits a channel" in capsys.readouterr().err
    assert (opened(tmp_path / "out" / "a.png") == 128).all()


def test_folder_keeps_its_tree_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    names = ["a.png", "deep/er/b.png", "größe 図 🙂.png", "[red]bold[/red].png", "x" * 250 + ".png", "-rf.png"]
    for name in [*names, ".hidden.png", ".git/c.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pattern()).save(folder / name)
    out = folder / "small"  # below the input, but its results are not inputs
    assert command(folder, "--size", "8", "--output", out) == 0
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == sorted(names)
    assert command(folder, "--size", "8", "--output", out, "--overwrite") == 0
    assert len([p for p in out.rglob("*") if p.is_file()]) == len(names)


def test_name_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Linux allows any bytes in names; they must stop neither the run nor its messages."""
    good, bad = (os.path.join(os.fsencode(tmp_path), name) for name in (b"\xff\xfe.png", b"\xfd.png"))
    try:
        with open(good, "wb") as file:
            Image.fromarray(pattern()).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes text names only")
    with open(bad, "wb") as file:
        file.write(b"no image")
    assert command(os.fsdecode(tmp_path), "--size", "8", "--output", tmp_path / "out") == 1
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"\xff\xfe.png"]
    assert r"skipped" in (printed := capsys.readouterr().err) and r"\xfd.png: not an image" in printed


# bad files


def png(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG file made by hand, as no encoder would write it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")


def test_bad_files_are_named_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(pattern()).save(folder / "a good.png")
    Image.fromarray(pattern()).save(folder / "z good.jpg")
    Image.fromarray(pattern(300, 300)).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "header.jpg").write_bytes(whole[:20])
    (folder / "text.png").write_text("I am no picture\n")
    (folder / "empty.gif").write_bytes(b"")
    (folder / "notes.txt").write_text("left by someone")
    broken = bytearray(png(64, 64, data=os.urandom(65 * 64)))
    broken[60:90] = bytes(30)
    (folder / "sub" / "broken.png").write_bytes(bytes(broken))
    # 20,000 x 20,000 grey pixels in 50 kB: opened without a guard, 400 MB
    bomb = png(20_000, 20_000, depth=1, data=bytes(2501 * 20_000))
    assert len(bomb) < 100_000
    (folder / "bomb.png").write_bytes(bomb)
    frames = [Image.fromarray(pattern(10, 10) // k) for k in (1, 2, 3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "link.png").symlink_to(folder / "nowhere.png")

    assert command(folder, "--size", "8", "--output", tmp_path / "out") == 1
    captured = capsys.readouterr()
    done = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert done == ["a good.png", "whole.jpg", "z good.jpg"]
    assert captured.out.startswith("3 resized, 9 skipped")
    told = dict(
        line.removeprefix("skipped ").split(": ", 1) for line in captured.err.splitlines() if line.startswith("skipped")
    )
    told = {Path(path).name: reason for path, reason in told.items()}
    assert told.keys() == {
        "truncated.jpg", "header.jpg", "text.png", "empty.gif", "notes.txt", "broken.png", "bomb.png", "moving.gif",
        "link.png",
    }  # fmt: skip
    assert "truncated" in told["truncated.jpg"]
    assert told["text.png"] == told["notes.txt"] == "not an image, or in a format that is not opened"
    assert told["empty.gif"] == "empty file"
    assert told["broken.png"].startswith(("damaged", "not an image"))
    assert told["bomb.png"].startswith("too large: ") and "400000000 pixels" in told["bomb.png"]
    assert told["moving.gif"] == "3 frames; expected a still image"
    assert told["link.png"] == "No such file or directory"


def test_lab_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.frombytes("LAB", (8, 8), bytes(192)).save(tmp_path / "a.tif")
    assert command(tmp_path / "a.tif", "--size", "4", "--output", tmp_path / "out") == 1
    assert "mode LAB is not supported" in capsys.readouterr().err


@pytest.mark.parametrize("cut", range(0, 700, 41))
def test_any_truncation_is_survived(tmp_path: Path, cut: int) -> None:
    """A file cut anywhere is skipped or, cut behind its pixels, resized; never more than that."""
    Image.fromarray(pattern(24, 24)).save(tmp_path / "a.jpg", quality=30)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: min(cut, len(whole))])
    assert command(tmp_path / "a.jpg", "--size", "8", "--output", tmp_path / "out") in (0, 1)
    assert [p.name for p in (tmp_path / "out").iterdir()] in ([], ["a.jpg"])


def test_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pattern()).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"former result")

    def full(self: object, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert command(tmp_path / "a.png", "--size", "8", "--output", tmp_path / "out", "--overwrite") == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == b"former result"


# usage


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(pattern()).save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    (out / "c.png").write_bytes(b"mine too")
    inputs = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    assert command(*inputs, "--size", "8", "--output", out) == 2
    assert "b.png and 1 more exists; pass --overwrite" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["b.png", "c.png"]  # checked before any work
    assert (out / "b.png").read_bytes() == b"mine"
    assert command(*inputs, "--size", "8", "--output", out, "--overwrite") == 0
    assert opened(out / "b.png").shape == (8, 8, 3)
    # in place, only when asked
    before = inputs[0].read_bytes()
    assert command(inputs[0], "--size", "8", "--output", tmp_path) == 2
    assert inputs[0].read_bytes() == before


def test_two_inputs_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pattern()).save(tmp_path / folder / "a.png")
    assert command(tmp_path / "x", tmp_path / "y", "--size", "8", "--output", tmp_path / "out") == 2
    assert "would both become" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    # the same file twice is one file
    jobs, _ = plan([tmp_path / "x", tmp_path / "x" / "a.png"], tmp_path / "out")
    assert len(jobs) == 1


@pytest.mark.parametrize("text", ["", "0", "0x5", "5x0", "-3", "1.5", "8x", "x8", "8x8x8", "nan", "1e3", "٣", "9" * 10])
def test_bad_size(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(pattern()).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", f"--size={text}", "--output", tmp_path / "out") == 2
    assert f"--size: got {text!r}; expected H or HxW" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_size() -> None:
    assert parse_size("224") == (224, 224)
    assert parse_size("240x320") == parse_size("240X320") == parse_size("240×320") == (240, 320)


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(pattern()).save(tmp_path / "a.png")
    (tmp_path / "none").mkdir()
    source, out = tmp_path / "a.png", tmp_path / "out"
    cases = [
        ((source, "--output", out), "--size: got none"),
        ((tmp_path / "b.png", "--size", "8", "--output", out), "IN: no such file or folder"),
        ((tmp_path / "none", "--size", "8", "--output", out), "IN: no files in"),
        ((source, "--size", "8", "--interpolation", "cubic", "--output", out), "interpolation: got 'cubic'"),
        ((source, "--size", "8", "--weights", tmp_path / "w", "--output", out), "no such file"),
        ((source, "--size", "8", "--weights", source, "--output", out), "not a readable safetensors file"),
        ((source, "--size", "8", "--weights", source, "--no-antialias", "--output", out), "has its own filter"),
        ((source, "--size", "8", "--output", source / "out"), "--output: cannot make the folder"),
        ((source, "--size", "8"), "--output"),
        (("--size", "8", "--output", out), "IN..."),
    ]
    for arguments, message in cases:
        assert command(*arguments) == 2, arguments
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_read_only_output(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pattern()).save(tmp_path / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o555)
    if os.geteuid() == 0:  # root may write anywhere: let the system call answer as it does for others
        monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == out and mode & os.W_OK))
    assert command(tmp_path / "a.png", "--size", "8", "--output", out) == 2
    assert "--output: cannot write into the folder" in capsys.readouterr().err
    assert not list(out.iterdir())
