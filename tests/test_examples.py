"""The scripts of docs/examples: each runs as its docstring says, shortened, and finds what it is to show."""

from __future__ import annotations

import ast
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.gloo_processes import needs_gloo

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.stem: path for path in sorted(ROOT.glob("docs/examples/*.py"))}
TRAIN, VAL, CLASSES = 64, 24, 4
"""Images of each class, enough for learning to show after some hundred steps of a few seconds together."""

_DEVIATION = math.sqrt(1 / CLASSES * (1 - 1 / CLASSES) / (VAL * CLASSES))
# Four standard deviations of guessing: 43 % of 96 images, which guesses reach once in ten thousand runs.
LEARNED = 1 / CLASSES + 4 * _DEVIATION


# Of one process of gloo in a hundred, at the interpreter's end, also without this package (helpers/gloo_processes.py).
GLOO_ABORTS = "terminate called without an active exception"


def command(name: str) -> list[str]:
    """The command line in a script's docstring."""
    docstring = ast.get_docstring(ast.parse(SCRIPTS[name].read_text(encoding="utf-8")))
    (line,) = re.findall(rf"^ {{4}}((?:python|torchrun) .*docs/examples/{name}\.py.*)$", docstring or "", re.MULTILINE)
    return shlex.split(line)


def run(name: str, *options: str | Path, places: dict[str, Path] | None = None) -> str:
    """What a script prints, run by its command with further options, and with folders of its own."""
    program, *words = command(name)
    start = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}[program]
    words = [str((places or {}).get(word, word)) for word in words]
    # One thread: other tests may have the other cores, and the sums are the same on every machine with so many.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, *words, *map(str, options)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    aborted_at_end = program == "torchrun" and GLOO_ABORTS in done.stderr
    assert done.returncode == 0 or aborted_at_end, done.stderr
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of the one place that a pattern matches, percentages as shares."""
    (found,) = re.findall(pattern, text)
    values = [found] if isinstance(found, str) else found
    return [float(value.rstrip("%")) / (100 if value.endswith("%") else 1) for value in values]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic images, fewer than the examples write for themselves."""
    folder = tmp_path_factory.mktemp("examples") / "patterns"
    run("stand_ins", "--train", str(TRAIN), "--val", str(VAL), places={"patterns/": folder})
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_how_to_run_it_and_has_a_test(name: str) -> None:
    assert f"docs/examples/{name}.py" in command(name)
    assert f"test_{name}" in globals()


def test_stand_ins(images: Path) -> None:
    counts = {f"{folder.parent.name}/{folder.name}": len(list(folder.iterdir())) for folder in images.glob("*/*")}
    classes = ("checks", "columns", "rings", "rows")
    assert counts == {f"train/{name}": TRAIN for name in classes} | {f"val/{name}": VAL for name in classes}


def test_train_loop(images: Path, tmp_path: Path) -> None:
    text = run(
        "train_loop", "--data", images, "--epochs", "2", "--batch-size", "8", places={"resizer/": tmp_path / "resizer"}
    )
    learned, control, chance = numbers(r"learned (\S+%), control (\S+%), .* chance (\S+%)", text)
    # Two accuracies are compared here.
    assert learned - control > 4 * math.sqrt(2) * _DEVIATION and learned > LEARNED and chance == 1 / CLASSES
    # The same bits as before they were saved.
    assert numbers(r"loaded from \S+: (\S+%)", text) == [learned]
    assert (tmp_path / "resizer/model.safetensors").is_file()


@pytest.mark.slow
def test_train_lightning(images: Path, tmp_path: Path) -> None:
    place = {"resizer/": tmp_path / "resizer"}
    text = run("train_lightning", "--data", images, "--epochs", "2", "--batch-size", "8", places=place)
    assert numbers(r"validation accuracy (\S+%)", text)[0] > LEARNED
    assert (tmp_path / "resizer/model.safetensors").is_file()


@pytest.mark.slow
def test_timm_imagefolder(images: Path) -> None:
    text = run("timm_imagefolder", "--data", images, "--epochs", "3", "--batch-size", "8")
    after, before = numbers(r"validation accuracy (\S+%), untrained (\S+%)", text)
    assert after > LEARNED > before


@pytest.mark.slow
def test_mixed_sizes() -> None:
    # Without --data, as the other examples write their images too.
    text = run("mixed_sizes", "--epochs", "1", "--batch-size", "8")
    sizes, accuracy = numbers(r"images of (\d+) sizes .* validation accuracy (\S+%)", text)
    # 512 draws of 49 x 49 sizes.
    assert sizes > 300 and accuracy > LEARNED


@pytest.mark.slow
def test_compiled() -> None:
    text = run("compiled", "--steps", "2", "--batch-size", "4", "--input-size", "48")
    found, statistics = numbers(r"logits and gradients (\S+), running statistics (\S+)", text)
    # As in test_compile.py: some roundings of 2^-24 of sums in another order, in proportion to the largest value.
    assert max(found, statistics) <= 1e-5
    assert min(numbers(r"(\S+) ms eager, (\S+) ms compiled", text)) > 0


@pytest.mark.slow
@needs_gloo
def test_train_ddp(images: Path) -> None:
    text = run("train_ddp", "--data", images, "--epochs", "2", "--batch-size", "8")
    assert text.startswith("2 processes") and "weights the same in all" in text
    assert numbers(r"validation accuracy (\S+%)", text)[0] > LEARNED


@pytest.mark.slow
def test_export_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    text = run("export_onnx", places={"network.onnx": tmp_path / "network.onnx"})
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines] == ["180x240", "333x127"]
    for line in lines:
        difference, spread = numbers(r"within (\S+) of PyTorch's; two images differ by (\S+)", line)
        # As in test_export_sizes.py: eager rounds the coordinates of torch's kernel to float32, which moves pixels by
        # up to 3e-5 of the range; the logits, which average them, by less. Another image's would show.
        assert difference <= 3e-5 and spread >= 1e-2


def test_hugging_face() -> None:
    pytest.importorskip("transformers")
    text = run("hugging_face", "--size", "64")
    # The same bytes; normalised in float32, to a rounding or two of values up to 1, or 1e-5 levels each.
    assert numbers(r"largest difference (\S+) levels", text)[0] <= 1e-4
    assert "(1, 3, 128, 128) to logits (1, 2)" in text
    (gradient,) = numbers(r"resizer's gradient (\S+)", text)
    assert math.isfinite(gradient) and gradient > 0
