"""``FusedResizer`` in folders and on the Hugging Face Hub: ``model.safetensors`` and ``config.json``.

The format is that of ``huggingface_hub.PyTorchModelHubMixin``, which also writes the model card and uploads. Methods of
``FusedResizer`` import this module when called: the package itself does not need ``huggingface_hub``.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .atomic import atomic_bytes
from .weights import LONGEST_JSON, ResizerConfig, WeightsFile, explaining, load_resizer, restore, save_resizer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
LICENSE = "apache-2.0"

# The mixin fills in ``card_data``, ``_HubResizer.generate_model_card`` the other names.
_CARD = """---
{{ card_data }}
---

# Learned image resizer

Resizes images for a vision network, and was trained with one: the learned resizer of Talebi & Milanfar, "Learning to
Resize Images for Computer Vision Tasks", ICCV 2021 ([paper]({{ paper_url }})), as `FusedResizer` of the Python package
`learned-resizer-cuda`.

```python
from learned_resizer_cuda import FusedResizer

resizer = FusedResizer.from_pretrained("{{ repo_id }}")
small = resizer(images)  # (B, {{ channels }}, H, W) to (B, {{ channels }}, {{ height }}, {{ width }})
```

| Argument | Value |
| --- | --- |
{% for name, value in arguments.items() -%}
| `{{ name }}` | `{{ value }}` |
{% endfor %}"""

_Resizer = TypeVar("_Resizer", bound=nn.Module)


def save_pretrained(resizer: nn.Module, folder: str | os.PathLike[str], *, license: str = LICENSE) -> None:
    """See ``FusedResizer.save_pretrained``."""
    _hub_class()(resizer, license).save_pretrained(folder)


def push_to_hub(resizer: nn.Module, repo_id: str, *, license: str = LICENSE, **options: Any) -> str:
    """See ``FusedResizer.push_to_hub``."""
    return _hub_class()(resizer, license, repo_id).push_to_hub(repo_id, **options)


def from_pretrained(
    cls: type[_Resizer],
    path_or_repo: str | os.PathLike[str],
    *,
    map_location: str | torch.device = "cpu",
    **download: Any,
) -> _Resizer:
    """See ``FusedResizer.from_pretrained``."""
    _require("safetensors")
    if Path(path_or_repo).is_file():
        return load_resizer(cls, Path(path_or_repo))[0].to(map_location)
    # Not the mixin's own, which ignores a configuration that it cannot read, and then lacks `size`
    config_file, weights_file = (_file(path_or_repo, name, download) for name in (CONFIG, WEIGHTS))
    file = WeightsFile(weights_file)
    with explaining(f"path_or_repo: got {str(path_or_repo)!r}, which holds no learned resizer"):
        with config_file.open(encoding="utf-8") as text:
            config = ResizerConfig.from_json(text.read(LONGEST_JSON + 1))
        # In the dtype that was saved
        resizer = restore(cls, config, file, keep_dtype=True)
    return resizer.to(map_location)


def _file(path_or_repo: str | os.PathLike[str], name: str, download: dict[str, Any]) -> Path:
    """A file's path in a folder or repository's cache, downloaded if needed."""
    folder = Path(path_or_repo)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"path_or_repo: got {str(folder)!r}, which has no {name}; expected a folder written by save_pretrained"
            )
        return folder / name
    text = str(path_or_repo)
    # A repository is "name" or "owner/name"; for anything else the Hub's error would be about a malformed name
    if not isinstance(path_or_repo, str) or text.startswith((".", "~", "/")) or text.count("/") > 1:
        raise FileNotFoundError(f"path_or_repo: got {text!r}; expected a folder that exists, or a repository's name")
    return Path(_require("huggingface_hub").hf_hub_download(text, name, **download))


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is missing; folders and repositories of weights need it: "
            "pip install 'learned-resizer-cuda[train]'",
            name=name,
        ) from error


@functools.cache
def _hub_class() -> Any:
    """Class of the mixin around a resizer; first use imports the mixin."""
    _require("huggingface_hub")
    _require("safetensors")
    from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin

    class _HubResizer(
        PyTorchModelHubMixin,
        library_name="learned-resizer-cuda",
        pipeline_tag="image-to-image",
        tags=["learned-resizer", "image-resizing", "computer-vision", "pytorch"],
        paper_url="https://arxiv.org/abs/2103.09950",
        model_card_template=_CARD,
    ):
        """Wraps a ``FusedResizer``, which itself need not be a mixin."""

        def __init__(self, resizer: nn.Module, license: str, repo_id: str = "path/or/repository") -> None:
            self._resizer, self._license, self._repo_id = resizer, license, repo_id

        def _save_pretrained(self, save_directory: Path) -> None:
            config = ResizerConfig.of(self._resizer)
            # Readable by `learned-resizer resize --weights`, too
            save_resizer(self._resizer, config, save_directory / WEIGHTS)
            atomic_bytes(save_directory / CONFIG, json.dumps(config.arguments(), indent=2).encode())

        def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
            config = ResizerConfig.of(self._resizer)
            info = self._hub_mixin_info
            return ModelCard.from_template(
                card_data=ModelCardData(**info.model_card_data.to_dict() | {"license": self._license}),
                template_str=info.model_card_template,
                paper_url=info.paper_url,
                repo_id=self._repo_id,
                channels=config.in_channels,
                height=config.size[0],
                width=config.size[1],
                arguments=config.arguments(),
                **kwargs,
            )

    return _HubResizer
