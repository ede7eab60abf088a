"""The choice of backend, and the states in which the native loader can be."""

from __future__ import annotations

import importlib.machinery
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import learned_resizer_cuda
from learned_resizer_cuda import backend
from learned_resizer_cuda.kernels import native

RECORD = {
    "version": learned_resizer_cuda.__version__,
    "cuda": "13.0.88",
    "architectures": ["80", "90", "100", "120"],
    "ptx": ["120"],
    "ops": {"resample": ["float32", "uint8"]},
}
CUDA = torch.device("cuda", 0)
PACKAGE = Path(learned_resizer_cuda.__file__).parent
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


# --- use_backend -------------------------------------------------------------------------------------------


def test_use_backend_nests_and_restores_after_an_error():
    assert backend.current() == "auto"
    with backend.use_backend("torch"):
        with pytest.raises(KeyError), backend.use_backend("native"):
            assert backend.current() == "native"
            raise KeyError
        assert backend.current() == "torch"
    assert backend.current() == "auto"


def test_use_backend_is_seen_by_its_own_thread_only():
    seen = []
    with backend.use_backend("torch"):
        thread = threading.Thread(target=lambda: seen.append(backend.current()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


@pytest.mark.parametrize("name", ["cuda", "", None, "Native"])
def test_use_backend_refuses_other_names(name):
    expected = "name must be one of 'auto', 'torch', 'native', got " + repr(name)
    with pytest.raises(ValueError, match=expected), backend.use_backend(name):
        raise AssertionError("the block ran")


# --- refusal and choice ------------------------------------------------------------------------------------


def test_cpu_tensors_take_torch_and_native_says_why_not():
    call = ("resample", torch.device("cpu"), torch.float32)
    assert not backend.runs_native(*call)
    with backend.use_backend("native"), pytest.raises(RuntimeError) as caught:
        backend.runs_native(*call)
    message = str(caught.value)
    for part in ("use_backend('native')", "resample", "torch.float32", "cpu", "CUDA tensors only"):
        assert part in message


def test_native_is_refused_on_meta_tensors():
    assert "meta" in backend.refusal("resample", torch.device("meta"), torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_refusal_without_a_gpu():
    assert backend.refusal("resample", torch.device("cuda"), torch.float32) == "torch sees no CUDA device"


@pytest.fixture
def fake_native(monkeypatch):
    """A loaded module with RECORD, on an H100 whose driver serves CUDA 13.0."""
    module = SimpleNamespace(build_record=lambda: RECORD, driver_version=lambda: 13000)
    monkeypatch.setattr(native, "load", lambda: module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    backend._cuda_refusal.cache_clear()
    yield module
    backend._cuda_refusal.cache_clear()


def test_refusal_is_none_where_native_can_run(fake_native):
    assert backend.refusal("resample", CUDA, torch.float32) is None
    assert backend.refusal("resample_backward", CUDA, torch.uint8) is None


def test_refusal_names_the_missing_op_and_dtype(fake_native):
    reason = backend.refusal("stem", CUDA, torch.float32)
    assert reason == "the native module has no kernel for stem, only for resample"
    reason = backend.refusal("resample", CUDA, torch.float64)
    assert reason == "the native resample takes float32, uint8, not float64"


def test_refusal_names_driver_and_gpu(fake_native, monkeypatch):
    fake_native.driver_version = lambda: 12080
    assert "serves up to CUDA 12.8" in backend.refusal("resample", CUDA, torch.float32)
    backend._cuda_refusal.cache_clear()
    fake_native.driver_version = lambda: 13000
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "this GPU is sm_75" in backend.refusal("resample", CUDA, torch.float32)


def test_refusal_repeats_the_loaders_reason(monkeypatch):
    def load():
        raise native.NativeUnavailable("failed to load", "libfoo.so.1: cannot open shared object file")

    monkeypatch.setattr(native, "load", load)
    backend._cuda_refusal.cache_clear()
    reason = backend.refusal("resample", CUDA, torch.float32)
    backend._cuda_refusal.cache_clear()
    assert reason == "native module failed to load: libfoo.so.1: cannot open shared object file"


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 5), False),  # older than all
        ((8, 0), True),
        ((8, 6), True),  # machine code of 8.0 runs on a later minor
        ((8, 7), True),
        ((8, 9), True),
        ((9, 0), True),
        ((10, 3), True),
        ((11, 0), False),  # between 10.0 and 12.0: no machine code of its major, PTX is newer
        ((12, 0), True),
        ((12, 1), True),
        ((13, 0), True),  # from PTX of 12.0
    ],
)
def test_architecture_refusal(capability, runs):
    reason = native.architecture_refusal(RECORD, capability)
    assert (reason is None) == runs
    if not runs:
        assert f"sm_{capability[0]}{capability[1]}" in reason
        assert "sm_80, sm_90, sm_100, sm_120" in reason


@pytest.mark.parametrize(("driver", "runs"), [(0, False), (12080, False), (13000, True), (13020, True), (14000, True)])
def test_driver_refusal(driver, runs):
    assert (native.driver_refusal(RECORD, driver) is None) == runs


# --- the loader, on copies of the package ------------------------------------------------------------------


def load_in_copy(folder: Path, **files: bytes) -> str:
    """Copy the package without its native module, add files, and return what a fresh `load()` says."""
    copy = folder / "learned_resizer_cuda"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("_C.*", "__pycache__", "_build_note.txt"))
    for name, content in files.items():
        (copy / name).write_bytes(content)
    # The package's own __init__ is left out: it imports torch, which the loader does not need.
    script = """
        import sys, types
        sys.modules["learned_resizer_cuda"] = package = types.ModuleType("learned_resizer_cuda")
        package.__path__ = ["learned_resizer_cuda"]
        from learned_resizer_cuda.kernels import native
        try:
            native.load()
        except native.NativeUnavailable as error:
            print(f"{error.state}|{error.reason}|{type(error.__cause__).__name__}")
        assert native.build_record() is None
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_loader_not_built(tmp_path):
    assert load_in_copy(tmp_path).startswith("not built|there is none in this source tree; reinstall with")


def test_loader_repeats_why_the_build_left_it_out(tmp_path):
    said = load_in_copy(tmp_path, **{"_build_note.txt": b"LEARNED_RESIZER_CUDA=0 was set\n"})
    assert said.startswith("not built|LEARNED_RESIZER_CUDA=0 was set; reinstall with")


def test_loader_built_for_another_python(tmp_path):
    said = load_in_copy(tmp_path, **{"_C.cpython-38-x86_64-linux-gnu.so": b"x"})
    assert said.startswith("built for something else|found _C.cpython-38-x86_64-linux-gnu.so, but this Python")
    assert f"_C{SUFFIX}" in said


def test_loader_leaves_the_stable_abi_to_pythons_that_have_it(tmp_path, monkeypatch):
    (tmp_path / "_C.abi3.so").write_bytes(b"")
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    monkeypatch.setattr(sys, "abiflags", "t")
    with pytest.raises(native.NativeUnavailable, match=r"found _C\.abi3\.so, but this Python loads _C\.cpython"):
        native._load()


def test_loader_keeps_the_linkers_words(tmp_path):
    said = load_in_copy(tmp_path, **{f"_C{SUFFIX}": b"no library"})
    assert said.startswith("failed to load|")
    assert "too short" in said or "invalid ELF header" in said or "not a mach-o" in said
    assert said.rstrip().endswith("|ImportError")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_loader_keeps_the_name_of_a_missing_library(tmp_path):
    (tmp_path / "a.cpp").write_text("int missing() { return 1; }")
    (tmp_path / "c.cpp").write_text('int missing(); extern "C" int use() { return missing(); }')
    library, module = tmp_path / "liblearned_missing.so", tmp_path / "module.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, tmp_path / "a.cpp"], check=True)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", module, tmp_path / "c.cpp", library], check=True)
    library.unlink()
    said = load_in_copy(tmp_path, **{f"_C{SUFFIX}": module.read_bytes()})
    assert said.startswith("failed to load|")
    assert "liblearned_missing.so" in said


def test_loader_built_from_another_version(tmp_path, monkeypatch):
    (tmp_path / f"_C{SUFFIX}").write_bytes(b"")
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    monkeypatch.setitem(
        sys.modules,
        "learned_resizer_cuda._C",
        SimpleNamespace(build_record=lambda: RECORD | {"version": "0.0.1"}),
    )
    with pytest.raises(native.NativeUnavailable, match=r"built from version 0\.0\.1 of this package"):
        native._load()


def test_installed_module_loads_where_there_is_one():
    if not list(PACKAGE.glob("_C.*.so")):
        pytest.skip("this installation has no native module")
    record = native.load().build_record()
    assert record["version"] == learned_resizer_cuda.__version__
    assert record["architectures"]
    assert set(record["ops"]) <= set(learned_resizer_cuda.ops.KERNELS)
    assert native.load().driver_version() >= 0
