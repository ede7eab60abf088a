"""Weights files that are damaged, hostile or of something else: what the commands and ``from_pretrained`` answer."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning", reason="the commands need the [train] extra")

import safetensors.torch
from PIL import Image

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.weights import FORMAT, ResizerConfig, load_resizer
from tests.helpers.failures import Case, Outcome, command, names
from tests.helpers.photo_folders import class_folder

CONFIG = ResizerConfig((4, 4), num_filters=2)
HUGE = {"num_filters": 4096, "num_blocks": 4096}
"""Arguments of a module of 5 TB."""
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@contextmanager
def limited_memory(more: int = 512 * 2**20) -> Iterator[None]:
    """Lets this process allocate so many bytes more than it has; files that are mapped to be read do not count."""
    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def tensors(**changed: Tensor) -> dict[str, Tensor]:
    """The state of a small resizer; names with ``_`` for ``.``."""
    torch.manual_seed(0)
    state = FusedResizer(**CONFIG.arguments()).state_dict()
    return state | {next(name for name in state if name.replace(".", "_") == key): changed[key] for key in changed}


def save(path: Path, state: dict[str, Tensor] | None = None, resizer: str | None = None, **arguments: Any) -> None:
    """A file with these tensors, and arguments as JSON, or those of ``CONFIG`` with some changed."""
    metadata = {"format": FORMAT, "resizer": resizer or json.dumps(CONFIG.arguments() | arguments)}
    path.write_bytes(safetensors.torch.save(state or tensors(), metadata))


def blocks(count: int) -> dict[str, Tensor]:
    """The state of a small resizer, its block so many times."""
    state = tensors()
    more = {name: value for name, value in state.items() if name.startswith("blocks.")}
    return state | {
        name.replace(".0.", f".{index}."): value.clone() for index in range(count) for name, value in more.items()
    }


def forge(path: Path, change: Callable[[dict[str, Any], int], int], padding: int = 0, **arguments: Any) -> None:
    """Lets ``change`` put tensors into the header of a file, given the bytes of those that are there, and makes the
    file as long as it says, by a hole at the end."""
    save(path, **arguments)
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    end = change(header, len(values))
    text = json.dumps(header).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    os.truncate(path, 8 + len(text) + end)


def other(size: int) -> Callable[[dict[str, Any], int], int]:
    """A tensor more, of so many bytes."""

    def change(header: dict[str, Any], end: int) -> int:
        header["other"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [end, end + size]}
        return end + size

    return change


def large(header: dict[str, Any], end: int) -> int:
    """The tensors of 4,096 filters, 2 GB of them."""
    with torch.device("meta"):
        state = FusedResizer(**replace(CONFIG, num_filters=4096).arguments()).state_dict()
    end = 0
    for name, value in state.items():
        size = value.numel() * value.element_size()
        header[name] |= {"shape": list(value.shape), "data_offsets": [end, end + size]}
        end += size
    return end


def resized(make: Callable[[Path], object]) -> Callable[[Path], Outcome]:
    """`resize --weights` with what ``make`` puts at a path."""

    def act(folder: Path) -> Outcome:
        weights, out = folder / "weights", folder / "out"
        make(weights)
        Image.new("RGB", (8, 8), "teal").save(folder / "in.png")
        with limited_memory():
            code, answer = command("resize", folder / "in.png", "--weights", weights, "--output", out)
        # Who copies or counts pytest's folder takes the hole in a sparse file for real
        if weights.is_file():
            weights.unlink()
        assert len(answer) < 600
        left = ", ".join(names(out)) or "an empty output folder" if out.exists() else "no output folder"
        return Outcome(code, answer, left)

    return act


def transferred(make: Callable[[Path], object], *options: object) -> Callable[[Path], Outcome]:
    """`transfer --resizer` with what ``make`` puts at a path."""

    def act(folder: Path) -> Outcome:
        make(folder / "weights")
        data = class_folder(folder / "data", train=2, val=2)
        network = ("--model", "small_cnn", "--size", "8", "--input-size", "16", "--accelerator", "cpu")
        short = ("--steps", "2", "--batch-size", "2", "--evaluations", "1")
        files = ("--data", data, "--resizer", folder / "weights", "--output", folder / "run")
        with limited_memory():
            code, answer = command("transfer", *network, *short, *files, *options)
        return Outcome(code, answer, "a run" if (folder / "run").exists() else "no run folder")

    return act


def _refused(what: str, make: Callable[[Path], object], answer: str) -> Case:
    return Case(what, resized(make), 2, answer, "no output folder")


def _arguments(what: str, text: str, answer: str) -> Case:
    return _refused(f"metadata {what}", lambda path: save(path, resizer=text), f"FOLDER/weights {answer}")


DESCRIBES = "does not describe a learned resizer: "
LARGE = "num_blocks: got 4096; expected 1, the blocks that the file holds"
UNREADABLE = "FOLDER/weights is not a readable safetensors file: "

CASES = [
    _refused("a file of 5 KB that claims 4,096 blocks of 4,096 filters", lambda path: save(path, **HUGE), LARGE),
    _refused(
        "one that claims 4,096 filters and holds 100 blocks of 2",
        lambda path: save(path, blocks(100), num_filters=4096, num_blocks=100),
        f"{DESCRIBES}conv1.weight: got F32 [2, 3, 7, 7], expected floating-point [4096, 3, 7, 7]; conv1.bias",
    ),
    Case("the first one to `transfer`", transferred(lambda path: save(path, **HUGE)), 2, LARGE, "no run folder"),
    _refused(
        "a sparse file with a tensor of 900 MiB more",
        lambda path: forge(path, other(900 * 2**20)),
        f"FOLDER/weights {DESCRIBES}'other': unexpected",
    ),
    _refused(
        "a sparse file with a tensor of 1 TB more",
        lambda path: forge(path, other(2**40)),
        f"FOLDER/weights {DESCRIBES}got tensors of 1,099,511,633,",
    ),
    _refused(
        "a sparse file with all the tensors of the 4,096 filters that it claims",
        lambda path: forge(path, large, num_filters=4096),
        f"{DESCRIBES}got tensors of 1,8",
    ),
    _refused(
        "a header of 9 MiB",
        lambda path: forge(path, lambda header, end: end, padding=9 * 2**20),
        f"{UNREADABLE}got a header of 9,4",
    ),
    _refused(
        "tensors that do not fit the arguments",
        lambda path: save(path, num_filters=3),
        "conv1.weight: got F32 [2, 3, 7, 7], expected floating-point [3, 3, 7, 7]; conv1.bias: got F32 [2], expected "
        "floating-point [3]; conv2.weight: got F32 [2, 2, 1, 1], expected floating-point [3, 3, 1, 1]; 21 more",
    ),
    _refused(
        "a tensor missing, and a name of a million characters",
        lambda path: save(path, {("x" * 10**6 if k == "conv3.weight" else k): v for k, v in tensors().items()}),
        f"FOLDER/weights {DESCRIBES}conv3.weight: missing; 'xxx",
    ),
    _refused(
        "weights that are integers",
        lambda path: save(path, tensors(conv3_weight=torch.zeros(2, 2, 3, 3, dtype=torch.int32))),
        "conv3.weight: got I32 [2, 2, 3, 3], expected floating-point [2, 2, 3, 3]",
    ),
    _refused(
        "weights of 8 bits",
        lambda path: save(path, tensors(conv4_bias=torch.zeros(3).to(torch.float8_e4m3fn))),
        "conv4.bias: got F8_E4M3 [3], expected floating-point [3]",
    ),
    _refused(
        "a count that is not an integer",
        lambda path: save(path, tensors(norm1_num_batches_tracked=torch.tensor(1.0))),
        "norm1.num_batches_tracked: got F32 [], expected integers []",
    ),
    _refused(
        "a NaN among the weights",
        lambda path: save(path, tensors(conv3_weight=torch.full((2, 2, 3, 3), torch.nan))),
        f"FOLDER/weights {DESCRIBES}conv3.weight: got values that are infinite or NaN; expected finite ones",
    ),
    _refused(
        "a weight that is too large for float32",
        lambda path: save(path, tensors(conv4_bias=torch.tensor([1e39, 0, 0], dtype=torch.float64))),
        f"{DESCRIBES}conv4.bias: got values that are infinite or NaN; expected finite ones",
    ),
    _refused(
        "a negative running variance",
        lambda path: save(path, tensors(norm2_running_var=torch.tensor([1.0, -2.0]))),
        f"{DESCRIBES}norm2.running_var: got -2; expected variances of at least 0",
    ),
    Case(
        "finite weights whose output is not",
        resized(lambda path: save(path, tensors(conv1_bias=torch.full((2,), 3e38), conv2_bias=torch.full((2,), 3e38)))),
        1,
        "in.png: the learned resizer's output is not finite",
        "an empty output folder",
    ),
    _refused("a truncated file", lambda path: (save(path), os.truncate(path, 1000)), UNREADABLE),
    _refused("an empty file", lambda path: path.touch(), UNREADABLE),
    _refused("a text", lambda path: path.write_text("no weights at all\n"), UNREADABLE),
    _refused("a pipe", os.mkfifo, "FOLDER/weights is a folder, pipe or device; expected a safetensors file"),
    _refused("a folder", Path.mkdir, "FOLDER/weights is a folder, pipe or device; expected a safetensors file"),
    _refused("no file", lambda path: None, "no such file: FOLDER/weights"),
    _refused(
        "tensors of something else",
        lambda path: path.write_bytes(safetensors.torch.save({"weight": torch.zeros(3)})),
        f"FOLDER/weights holds no learned resizer: its format is None, expected '{FORMAT}'",
    ),
    _refused(
        "a format of a million characters",
        lambda path: path.write_bytes(safetensors.torch.save(tensors(), {"format": "\x1b[31m" + "x" * 10**6})),
        r"FOLDER/weights holds no learned resizer: its format is '\x1b[31mxxx",
    ),
    _arguments("that is not JSON", "{", DESCRIBES),
    _arguments("of 100,000 nested lists", "[" * 100_000, DESCRIBES),
    _arguments("that is a list", "[4, 4]", f"{DESCRIBES}got a JSON list; expected the arguments of FusedResizer"),
    _arguments("without a size", "{}", f"{DESCRIBES}got no 'size'"),
    _arguments("of more than 1 MiB", " " * (2**20 + 1), f"{DESCRIBES}got more than 1,048,576 characters"),
    _arguments("with a number of 100,000 digits", f'{{"size": [4, {"9" * 100_000}]}}', DESCRIBES),
    _arguments("with a number of 4,000 digits", f'{{"size": [4, {"9" * 4000}]}}', f"{DESCRIBES}size: got (4, 999"),
    _arguments("with a slope of 400 digits", f'{{"size": [4, 4], "negative_slope": 1{"0" * 400}}}', DESCRIBES),
    _arguments(
        "with an unknown, long name that clears the terminal",
        json.dumps({"size": [4, 4], "\x1bc" + "x" * 10**6: 1}),
        rf"{DESCRIBES}ResizerConfig.__init__() got an unexpected keyword argument '\x1bcxxx",
    ),
    _arguments(
        "with a long text for a number",
        f'{{"size": [4, 4], "num_filters": "{"x" * 10**6}"}}',
        f"{DESCRIBES}num_filters: got 'xxx",
    ),
    _arguments(
        "with 100 nested lists for a mean",
        f'{{"size": [4, 4], "num_filters": 2, "mean": {"[" * 101}{"]" * 101}, "std": [1, 1, 1]}}',
        f"{DESCRIBES}mean: got ([[[",
    ),
    Case(
        "a resizer trained without --normalize in a run with it",
        transferred(save, "--normalize"),
        2,
        "normalize, mean, std: got normalize True, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225; expected "
        "normalize False, as FOLDER/weights was trained with",
        "no run folder",
    ),
    Case(
        "one trained with --normalize in a run without it",
        transferred(lambda path: save(path, **IMAGENET)),
        2,
        "normalize, mean, std: got normalize False; expected normalize True, mean 0.485, 0.456, 0.406, std 0.229, "
        "0.224, 0.225, as FOLDER/weights was trained with",
        "no run folder",
    ),
    Case(
        "one trained with another --std",
        transferred(lambda path: save(path, **IMAGENET), "--normalize", "--std", "0.229,0.224,0.226"),
        2,
        "std 0.229, 0.224, 0.226; expected normalize True, mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225",
        "no run folder",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


def _pretrained(folder: Path, text: str, state: dict[str, Tensor] | None = None) -> str:
    save(folder / "model.safetensors", state)
    (folder / "config.json").write_text(text)
    with limited_memory(), pytest.raises(ValueError, match=r"path_or_repo: got .* which holds no learned") as error:
        FusedResizer.from_pretrained(folder)
    assert len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (json.dumps(CONFIG.arguments() | HUGE), LARGE),
        (json.dumps(CONFIG.arguments() | {"num_filters": 4096}), "conv1.weight: got F32"),
        (" " * (2**20 + 1), "got more than 1,048,576 characters"),
        ("[" * 100_000, "decoding a JSON array"),
        (f'{{"size": [4, {"9" * 4000}]}}', "size: got (4, 999"),
        (f'{{"size": [4, 4], "num_filters": 2, "mean": [1{"0" * 400}, 0, 0], "std": [1, 1, 1]}}', "too large"),
    ],
    ids=["huge", "filters", "long", "nested", "digits", "mean"],
)
def test_config_json(tmp_path: Path, text: str, answer: str) -> None:
    assert answer in _pretrained(tmp_path, text)


def test_weights_of_from_pretrained_are_finite(tmp_path: Path) -> None:
    arguments = json.dumps(CONFIG.arguments())
    nan = tensors(conv1_bias=torch.tensor([1.0, torch.nan]))
    assert "conv1.bias: got values that are infinite or NaN" in _pretrained(tmp_path, arguments, nan)
    # What is too large for float32 is not for the dtype that it was saved in
    state = {name: value.double() if value.is_floating_point() else value for name, value in tensors().items()}
    state["conv4.bias"] = torch.full((3,), 1e39, dtype=torch.float64)
    save(tmp_path / "model.safetensors", state)
    assert FusedResizer.from_pretrained(tmp_path).state_dict()["conv4.bias"][0] == 1e39


def test_a_file_of_any_real_dtype_becomes_float32(tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors().items()}
        save(tmp_path / "weights", state)
        resizer, config = load_resizer(FusedResizer, tmp_path / "weights")
        assert config == CONFIG and {parameter.dtype for parameter in resizer.parameters()} == {torch.float32}
        assert torch.equal(resizer.conv4.weight, state["conv4.weight"].float())
