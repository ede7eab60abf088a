"""The scripts of docs/examples: each runs as its docstring says, in short, and says something true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))

# Options that make a run short; those that a docstring's command has are replaced.
SHORT = {
    "compiled.py": "--steps 2 --input-size 48 --batch-size 2",
    "export_onnx.py": "",
    "fine_patterns.py": "--train 2 --val 1",
    "hugging_face.py": "--size 64",
    "mixed_sizes.py": "--data tiny --epochs 1",
    "timm_imagefolder.py": "--data tiny --epochs 1 --batch-size 16",
    "train_ddp.py": "--data tiny --epochs 1 --batch-size 16",
    "train_lightning.py": "--data tiny --epochs 1 --batch-size 16",
    "train_loop.py": "--data tiny --epochs 1 --batch-size 16",
}


def run(script: str, folder: Path, short: str) -> str:
    """Run the command of a script's docstring in a folder, with other options.

    Returns:
        What it printed.
    """
    text = (FOLDER / script).read_text("utf-8").split('"""')[1]
    (command,) = re.findall(rf"^    ((?:python|torchrun) .*docs/examples/{script}.*)$", text, re.M)
    words = shlex.split(command.replace(f"docs/examples/{script}", str(FOLDER / script)))
    first = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "torch.distributed.run"]
    names = set(re.findall(r"--[a-z-]+", short))
    kept = [word for place, word in enumerate(words) if word not in names and words[place - 1] not in names]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    call = [*first, *kept[1:], *shlex.split(short)]
    found = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def percents(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"([\d.]+)%", text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small image folder in it."""
    folder = tmp_path_factory.mktemp("examples")
    script = [sys.executable, str(FOLDER / "fine_patterns.py"), "tiny", "--train", "8", "--val", "4"]
    subprocess.run(script, cwd=folder, check=True)
    return folder


def test_every_script_is_here_and_on_the_page() -> None:
    assert sorted(SHORT) == SCRIPTS
    page = (FOLDER / "index.md").read_text("utf-8")
    assert sorted(re.findall(r'--8<-- "examples/(.*)"', page)) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_runs_as_its_docstring_says(script: str, folder: Path) -> None:
    said = run(script, folder, SHORT[script])
    if script == "compiled.py":
        outputs, statistics = (float(value) for value in re.findall(r"(\d\.\de[+-]\d+)", said))
        # float32, and sums in another order: 2**-24 of a rounding, times tens for the sums over a layer's terms.
        assert outputs < 1e-4 and statistics < 1e-5
    elif script == "export_onnx.py":
        # As above; and the two images give different logits, so the comparison can fail.
        pairs = re.findall(r"within (\S+) of PyTorch's; two images differ by (\S+)", said)
        assert len(pairs) == 2
        assert all(float(difference) < 1e-4 < 1e-2 < float(spread) for difference, spread in pairs)
    elif script == "hugging_face.py":
        assert "largest difference 0.0000 levels of 255" in said
        assert float(re.findall(r"gradient (\S+)", said)[0]) > 0
    elif script == "train_ddp.py":
        assert "2 processes, gloo" in said or "2 processes, nccl" in said
        assert "weights the same in all" in said
    elif script == "train_loop.py":
        learned, _, _, chance, again = percents(said)
        assert chance == 25 and again == learned
    elif script == "fine_patterns.py":
        assert len(list(folder.glob("patterns/*/*/*.png"))) == 4 * 3
    else:
        assert percents(said)[-1] == 25  # chance, of four classes


@pytest.mark.slow
def test_the_loop_finds_what_its_docstring_promises(tmp_path: Path) -> None:
    """As it stands, not shortened: learned beats the control, which saw as many steps."""
    learned, control, _, chance, again = percents(run("train_loop.py", tmp_path, ""))
    # 256 test images: four standard deviations of a difference of two shares are 4 √(2 · 0.25 / 256), 18 points.
    assert learned - control > 18 and again == learned
    assert learned > 2 * chance


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_lightning.py", "timm_imagefolder.py", "mixed_sizes.py", "train_ddp.py"])
def test_the_others_learn(script: str, tmp_path: Path) -> None:
    accuracy, chance = percents(run(script, tmp_path, ""))[-2:]
    # 256 test images: four standard deviations of a share of a quarter are 11 points.
    assert accuracy > chance + 11
