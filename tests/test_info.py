"""`info`, its text, the command line that prints it, and what importing the package costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import learned_resizer_cuda
from learned_resizer_cuda import backend
from learned_resizer_cuda.cli.main import COMMANDS, main
from learned_resizer_cuda.info import format_info, info
from learned_resizer_cuda.kernels import native
from learned_resizer_cuda.ops import KERNELS

# Python looks in the current folder first: there a fresh interpreter finds the package that this one has.
HOME = Path(learned_resizer_cuda.__file__).parent.parent


def run(script: str) -> str:
    """Standard output of a script in a fresh interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- importing ---------------------------------------------------------------------------------------------


def test_import_costs_less_than_a_tenth_of_a_second_beyond_torch():
    script = """
        import time
        import torch
        start = time.process_time()
        import learned_resizer_cuda
        print(time.process_time() - start)
    """
    # The bound is the requirement. CPU time, and the best of three tries, leave out what other processes take.
    assert min(float(run(script)) for _ in range(3)) < 0.1


def test_import_loads_nothing_that_is_not_needed():
    script = """
        import sys
        import torch
        before = set(sys.modules)
        import learned_resizer_cuda
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
        print("learned_resizer_cuda._C" in sys.modules)
    """
    loaded, native_loaded = run(script).splitlines()
    assert not {"triton", "lightning", "matplotlib", "typer", "torchvision", "PIL"} & set(loaded.split())
    assert native_loaded == "False"


def test_import_and_resize_work_without_triton():
    script = """
        import sys
        sys.modules["triton"] = None
        import torch
        import learned_resizer_cuda
        print(tuple(learned_resizer_cuda.resize(torch.rand(1, 3, 8, 8), 4).shape))
    """
    assert run(script).strip() == "(1, 3, 4, 4)"


# --- info --------------------------------------------------------------------------------------------------


def test_info_holds_every_op_and_goes_through_json():
    found = info()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["learned-resizer-cuda"] == learned_resizer_cuda.__version__
    assert found["versions"]["torch"] == str(torch.__version__)
    assert tuple(found["ops"]) == KERNELS
    for routes in found["ops"].values():
        assert routes["cpu"]["backend"] == "torch"
        assert "CUDA tensors only" in routes["cpu"]["native_refused"]
        assert routes["other"]["backend"] == "torch"
        assert routes["other"]["native_refused"].startswith("native kernels run on CUDA tensors only, not on ")
        if not torch.cuda.is_available():
            assert routes["cuda"] == {"backend": None, "native_refused": "torch sees no CUDA device"}


@pytest.mark.gpu
def test_info_and_the_choice_agree_on_this_gpu():
    found = info()
    route = found["ops"]["resample"]["cuda"]
    capability = torch.cuda.get_device_capability(0)
    assert found["devices"][0]["capability"] == f"{capability[0]}.{capability[1]}"
    image = torch.zeros(1, 1, 2, 2, device="cuda")
    assert backend.runs_native("resample", image.device, image.dtype) == (route["backend"] == "native")
    assert (route["backend"] == "native") == (route["native_refused"] is None)
    if route["native_refused"] is None:
        with backend.use_backend("native"):
            assert learned_resizer_cuda.resize(image, 1).shape == (1, 1, 1, 1)


def test_info_asks_for_the_dtype_of_the_op(monkeypatch):
    asked = {}

    def refusal(op, device, dtype):
        asked[op] = dtype

    monkeypatch.setattr(backend, "refusal", refusal)
    info()
    assert asked.pop("resample_fixed") == torch.uint8
    assert set(asked.values()) == {torch.float32}


def test_info_under_native_says_that_nothing_runs_on_a_cpu():
    with learned_resizer_cuda.use_backend("native"):
        found = info()
    assert found["backend"] == "native"
    assert found["ops"]["resample"]["cpu"]["backend"] is None
    assert found["ops"]["resample"]["other"]["backend"] is None


def test_info_says_why_the_native_module_is_not_there(monkeypatch):
    def load():
        raise native.NativeUnavailable("failed to load", "libfoo.so.1: cannot open shared object file")

    monkeypatch.setattr(native, "load", load)
    found = info()
    assert found["native"] == {
        "state": "failed to load",
        "reason": "libfoo.so.1: cannot open shared object file",
        "record": None,
    }
    assert "native module: failed to load (libfoo.so.1: cannot open shared object file)" in format_info(found)


def test_text_shows_what_is_built_and_for_which_gpus(monkeypatch):
    record = {
        "version": "0.1.0",
        "cuda": "13.0.88",
        "architectures": ["80", "90"],
        "ptx": ["90"],
        "host_compiler": "GNU 12.2.0",
        "python": "3.11.7",
        "stable_abi": "3.10",
        "ops": {"resample": ["float32", "uint8"]},
    }
    monkeypatch.setattr(native, "load", lambda: SimpleNamespace(build_record=lambda: record))
    text = format_info(info())
    assert "native module: version 0.1.0, for sm_80, sm_90, PTX 90\n" in text
    assert "built with CUDA 13.0.88, GNU 12.2.0, for CPython 3.10 and newer\n" in text
    assert "resample: float32, uint8\n" in text


# --- the command line --------------------------------------------------------------------------------------


def test_command_info_prints_text_and_json(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^torch +\S+$", text, re.MULTILINE)
    assert re.search(r"^  resample on cpu: torch \(not native: ", text, re.MULTILINE)
    assert re.search(r"^  every op on other devices \(mps, xpu, …\): torch \(not native: ", text, re.MULTILINE)
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info()


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"learned-resizer {learned_resizer_cuda.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retrain"], f": unknown command 'retrain'; expected one of {', '.join(COMMANDS)}"),
        (["info", "--yaml"], " info: got '--yaml'; expected no argument but --json"),
    ],
)
def test_usage_errors_exit_with_two(arguments, said, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"learned-resizer{said}\n"


def test_no_command_shows_the_help_and_exits_with_two(capsys):
    assert main([]) == 2
    assert "usage: learned-resizer" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["typer", "lightning"])
def test_a_missing_extra_is_named_in_one_line(missing):
    script = f"""
        import sys
        sys.modules[{missing!r}] = None
        from learned_resizer_cuda.cli.main import main
        sys.stderr = sys.stdout
        print(main(["train"]))
    """
    line, code = run(script).splitlines()
    assert line == f'learned-resizer: train needs {missing}: pip install "learned-resizer-cuda[train]"'
    assert code == "2"


def test_python_dash_m_runs_the_command_line():
    command = [sys.executable, "-m", "learned_resizer_cuda", "--version"]
    result = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    assert result.stdout == f"learned-resizer {learned_resizer_cuda.__version__}\n"
