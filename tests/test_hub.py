"""``FusedResizer`` to and from folders and the Hugging Face Hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("huggingface_hub", reason="the Hub needs the [train] extra")
pytest.importorskip("safetensors", reason="weights need the [train] extra")

import huggingface_hub
import huggingface_hub.hub_mixin

from learned_resizer_cuda import FusedResizer, hub
from learned_resizer_cuda.weights import ResizerConfig, load_resizer

# None of them a default of FusedResizer
ARGUMENTS: dict[str, Any] = {
    "size": (7, 5),
    "in_channels": 2,
    "num_filters": 5,
    "num_blocks": 2,
    "interpolation": "lanczos",
    "antialias": False,
    "negative_slope": 0.1,
    "mean": (0.1, 0.7),
    "std": (0.3, 0.9),
}


def _resizer(dtype: torch.dtype = torch.float32) -> FusedResizer:
    torch.manual_seed(0)
    resizer = FusedResizer(**ARGUMENTS).to(dtype)
    resizer(_image(dtype))  # running statistics that are not the initial ones
    return resizer


def _image(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 2, 13, 11, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_folder_gives_back_the_same_function(tmp_path: Path, dtype: torch.dtype) -> None:
    resizer = _resizer(dtype)
    assert resizer.save_pretrained(tmp_path / "new" / "folder") is None
    assert resizer.training
    loaded = FusedResizer.from_pretrained(str(tmp_path / "new" / "folder"))
    assert type(loaded) is FusedResizer
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert ResizerConfig.of(loaded) == ResizerConfig.of(resizer)
    # mean and std as float32 has them
    rounded = {name: pytest.approx(value, rel=2**-24) for name, value in ARGUMENTS.items() if name in ("mean", "std")}
    assert ResizerConfig.of(loaded).arguments() == ARGUMENTS | rounded
    expected = resizer.eval()
    byte = (_image() * 255).to(torch.uint8)
    with torch.no_grad():
        for image in (_image(dtype), byte):
            assert torch.equal(loaded(image), expected(image))
    loaded.train()(_image(dtype))  # the weights are no part of the file
    assert torch.equal(
        FusedResizer.from_pretrained(tmp_path / "new" / "folder").norm1.running_mean, expected.norm1.running_mean
    )


def test_no_normalisation_stays_none(tmp_path: Path) -> None:
    FusedResizer(4, num_filters=2).save_pretrained(tmp_path)
    loaded = FusedResizer.from_pretrained(tmp_path)
    assert loaded.size == (4, 4) and loaded.image_mean is None and loaded.image_std is None


def test_a_subclass_comes_back_as_itself(tmp_path: Path) -> None:
    class Mine(FusedResizer):
        pass

    Mine(4, num_filters=2).save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine


def test_the_format_is_the_mixins(tmp_path: Path) -> None:
    """What another program made with the plain mixin can be read, and the other way round."""

    class Plain(huggingface_hub.PyTorchModelHubMixin, FusedResizer):
        pass

    resizer = _resizer()
    resizer.save_pretrained(tmp_path / "ours")
    theirs = Plain.from_pretrained(tmp_path / "ours")
    assert type(theirs) is Plain
    with torch.no_grad():
        expected = resizer.eval()(_image())
        assert torch.equal(theirs.eval()(_image()), expected)
        theirs.save_pretrained(tmp_path / "theirs")
        assert "zero_init" in json.loads((tmp_path / "theirs" / "config.json").read_text())
        assert torch.equal(FusedResizer.from_pretrained(tmp_path / "theirs")(_image()), expected)


def test_the_weights_serve_the_command_line(tmp_path: Path) -> None:
    resizer = _resizer()
    resizer.save_pretrained(tmp_path)
    loaded, config = load_resizer(FusedResizer, tmp_path / "model.safetensors")
    assert config == ResizerConfig.of(resizer)
    file = FusedResizer.from_pretrained(tmp_path / "model.safetensors")  # as a run writes it
    assert all(torch.equal(value, file.state_dict()[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(_image()), resizer.eval()(_image()))


def test_model_card(tmp_path: Path) -> None:
    resizer = _resizer()
    resizer.save_pretrained(tmp_path, license="cc-by-4.0")
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "learned-resizer-cuda" and card.data.license == "cc-by-4.0"
    assert {"pytorch_model_hub_mixin", "image-resizing"} <= set(card.data.tags)
    assert "to (B, 2, 7, 5)" in card.content and "| `interpolation` | `lanczos` |" in card.content
    assert "None" not in card.content and "{{" not in card.content
    # A user's own words stay
    (tmp_path / "README.md").write_text("mine")
    resizer.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_push_to_hub_uploads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            calls["token"] = token

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
            calls["create_repo"] = (repo_id, private, exist_ok)
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, folder_path: Path, **options: Any) -> str:
            calls["upload_folder"] = options
            for file in Path(folder_path).iterdir():
                (tmp_path / file.name).write_bytes(file.read_bytes())
            return "https://huggingface.co/commit"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    resizer = _resizer()
    url = resizer.push_to_hub(
        "me/my-resizer", commit_message="First", private=True, token="secret", branch="dev", create_pr=True
    )
    assert url == "https://huggingface.co/commit"
    assert calls["token"] == "secret" and calls["create_repo"] == ("me/my-resizer", True, True)
    options = {name: value for name, value in calls["upload_folder"].items() if value is not None}
    assert options == {
        "repo_id": "me/my-resizer",
        "repo_type": "model",
        "commit_message": "First",
        "revision": "dev",
        "create_pr": True,
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert 'from_pretrained("me/my-resizer")' in (tmp_path / "README.md").read_text()
    assert "secret" not in (tmp_path / "README.md").read_text() + (tmp_path / "config.json").read_text()
    with torch.no_grad():
        assert torch.equal(FusedResizer.from_pretrained(tmp_path)(_image()), resizer.eval()(_image()))


def test_from_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resizer = _resizer()
    resizer.save_pretrained(tmp_path)
    asked = []

    def download(repo_id: str, filename: str, **options: Any) -> str:
        asked.append((repo_id, filename, options))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = FusedResizer.from_pretrained(
        "me/my-resizer", revision="v1", token="secret", cache_dir="cache", local_files_only=True
    )
    options = {
        "revision": "v1",
        "token": "secret",
        "cache_dir": "cache",
        "force_download": False,
        "local_files_only": True,
    }
    assert asked == [("me/my-resizer", name, options) for name in ("config.json", "model.safetensors")]
    with torch.no_grad():
        assert torch.equal(loaded(_image()), resizer.eval()(_image()))


def _damage(folder: Path, what: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if what == "no json":
        (folder / "config.json").write_text('{"size": [7')
    elif what == "no text":
        (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    elif what == "a list":
        (folder / "config.json").write_text("[7, 5]")
    elif what == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    elif what == "no size":
        del config["size"]
    elif what == "another argument":
        config["depth"] = 3
    elif what == "no fit":
        config["num_filters"] = 6
    elif what == "more blocks":
        config["num_blocks"] = 3
    elif what == "huge":
        config["num_filters"] = 10**6
    elif what == "huge size":
        config["size"] = [7, 10**6]
    elif what == "bad value":
        config["std"] = [0.3, -1.0]
    if what in ("no size", "another argument", "no fit", "more blocks", "huge", "huge size", "bad value"):
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no json", "holds no learned resizer: Expecting"),
        ("no text", "holds no learned resizer: 'utf-8'"),
        ("a list", "expected the arguments of FusedResizer by name"),
        ("weights", "not a readable safetensors file"),
        ("no size", "holds no learned resizer: got no 'size'; expected the arguments"),
        ("another argument", "depth"),
        (
            "no fit",
            r": conv1.weight: got F32 \[5, 2, 7, 7\], expected floating-point \[6, 2, 7, 7\]; conv1.bias",
        ),
        ("more blocks", "num_blocks: got 3; expected 2, the blocks that the file holds"),
        ("huge", r"conv1.weight: got F32 \[5, 2, 7, 7\], expected floating-point \[1000000, 2, 7, 7\]"),
        ("huge size", r"size: got \(7, 1000000\); expected sides of at most 4096"),
        ("bad value", "std: got"),
    ],
)
def test_damaged_folders(tmp_path: Path, what: str, message: str) -> None:
    _resizer().save_pretrained(tmp_path)
    _damage(tmp_path, what)
    with pytest.raises(ValueError, match=message) as error:
        FusedResizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_folders_without_a_file(tmp_path: Path, name: str) -> None:
    _resizer().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        FusedResizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", ["./nothing", "/no/such/folder", "a/b/c", Path("nothing")])
def test_paths_that_are_no_folder(path: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path_or_repo: got .*expected a folder that exists"):
        FusedResizer.from_pretrained(path)


@pytest.mark.parametrize("missing", ["huggingface_hub", "safetensors"])
def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    hub._hub_class.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    resizer = FusedResizer(4, num_filters=2)
    for call in (
        lambda: resizer.save_pretrained(tmp_path),
        lambda: resizer.push_to_hub("me/mine"),
        lambda: FusedResizer.from_pretrained("me/mine"),
    ):
        with pytest.raises(ModuleNotFoundError, match=rf"{missing} is missing.*learned-resizer-cuda\[train\]"):
            call()
    assert not list(tmp_path.iterdir())


def test_the_package_does_without_them() -> None:
    program = (
        "import sys, learned_resizer_cuda; "
        "print(sorted({'huggingface_hub', 'safetensors', 'learned_resizer_cuda.hub'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
