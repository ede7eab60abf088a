"""``FusedResizer``: the learned resizer without feature maps at input resolution."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from . import composition, reference
from .batch_norm import sync_group, update_running_statistics
from .ops.layout import feature_dtype
from .ops.regions import regions
from .ops.statistics import accumulation_dtype
from .ops.stem import normalise
from .reference import as_list
from .resize import Size
from .resize_batch import Boxes, Flip

_Resizer = TypeVar("_Resizer", bound="FusedResizer")


class FusedResizer(reference.Resizer):
    """Learned image resizer to train in front of a vision network.

    After Talebi & Milanfar, ICCV 2021. The same function, parameters and ``state_dict`` as ``reference.Resizer``, but
    no tensor with ``num_filters`` channels at input resolution is ever kept, forward or backward: every row of a
    resampling matrix sums to 1, so the first batch normalisation commutes with the resize and is applied after it, and
    the backward recomputes the features tile by tile (``docs/math.md``). On a CPU, as many images are processed in
    parallel as torch has threads.

    Training mode, running statistics, ``momentum`` and ``eps`` follow each ``BatchNorm2d`` among the submodules.
    ``nn.SyncBatchNorm.convert_sync_batchnorm`` makes their statistics those of the joint batch of all processes, of any
    sizes; every process of the group must then call forward and backward equally often. This also works on a CPU, if
    the module is converted after ``DistributedDataParallel`` has wrapped it, which refuses torch's own there. The norms
    of ``sync_batch_norm.synchronise`` are accepted on any device.

    The fused kernels replace the layers that the module is built of. If a layer has another class, shape or setting, is
    shared, or has a hook or parameters other than plain tensors, every layer runs itself, as in ``reference.Resizer``:
    a warning names the layer and the reason, once. The same happens, without a warning, under ``torch.func``
    transforms, forward-mode differentiation, FX tracing and ``torch.onnx.export``. ``use_backend("native")`` raises
    ``RuntimeError`` instead. Settings that the kernels support (training mode, ``momentum``, ``eps``,
    ``negative_slope``, frozen parameters, ``SyncBatchNorm``) stay fused, and so do hooks on the module itself.

    Deterministic: the same input and number of threads give the same bits, forward and backward. Fused, only first
    derivatives exist.

    Args:
        size: output size, an int for both sides or ``(height, width)``.
        in_channels: channels of the image, in and out.
        num_filters: channels n of the feature maps.
        num_blocks: residual blocks r at output resolution; 0 leaves them out.
        interpolation: ``"bilinear"`` (the paper's), ``"bicubic"`` or ``"lanczos"``.
        antialias: widen the filter when shrinking; ``False`` reproduces the paper.
        negative_slope: of every LeakyReLU, at least 0.
        zero_init: zero the last convolution, so that the module starts as exactly ``resize``.
        mean: of each channel, with ``std``. The stem normalises uint8 images to ``(image / 255 - mean) / std`` as it
            loads them; without mean and std they are refused. Images of other dtypes are not changed.
        std: of each channel, above 0.

    Raises:
        TypeError, ValueError: naming the argument, its value and what was expected.

    Examples:
        Small, and with ``zero_init`` a fixed filter to start from:

        >>> import torch
        >>> from learned_resizer_cuda import FusedResizer, resize
        >>> resizer = FusedResizer(24, interpolation="lanczos", zero_init=True)
        >>> sum(parameter.numel() for parameter in resizer.parameters())
        12035
        >>> images = torch.rand(4, 3, 64, 48)
        >>> torch.equal(resizer(images), resize(images, 24, interpolation="lanczos"))
        True

        Trained together with the network behind it:

        >>> network = torch.nn.Sequential(resizer, torch.nn.Conv2d(3, 8, kernel_size=3))
        >>> optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> network(images).square().mean().backward()
        >>> optimiser.step()
        >>> torch.equal(resizer(images), resize(images, 24, interpolation="lanczos"))
        False
    """

    # Not part of the state, not copied.
    _check: composition.Check | None = None

    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: Size | None = None,
        *,
        boxes: Boxes | None = None,
        flip: Flip | None = None,
    ) -> Tensor:
        """Resize images, of one size or of any sizes.

        Images of any sizes give what each gives alone. In training mode the first batch normalisation is over all
        pixels of all images, as that of a batch is.

        Args:
            image: ``(B, in_channels, H, W)``, in the dtype of the weights or under autocast. Any value range;
                usually normalised as the network expects. Or uint8, if the module has ``mean`` and ``std``. Or a list
                or tuple of B images ``(in_channels, H_i, W_i)`` of one dtype.
            size: output size of this call instead of the module's.
            boxes: ``(B, 4)``, of each image the region to resize, ``(top, left, height, width)`` in pixels, floats; on
                the CPU. The image is as if cropped to the pixels that the region touches; the output covers exactly
                the region.
            flip: ``(B,)`` bools, which crops to mirror horizontally; on the CPU.

        Returns:
            ``(B, in_channels, height, width)``, in the dtype of the image, or of the weights for a uint8 one.

        Raises:
            TypeError, ValueError: for an unsuitable argument, naming it, its index in a list and what was expected; in
                training mode also if a batch normalisation would get fewer than two values per channel.
            RuntimeError: under ``use_backend("native")`` if the layers have to run themselves; says why.

        Examples:
            Images of any size, to any size:

            >>> import torch
            >>> from learned_resizer_cuda import FusedResizer
            >>> resizer = FusedResizer(16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).eval()
            >>> resizer(torch.rand(2, 3, 40, 30)).shape
            torch.Size([2, 3, 16, 16])
            >>> resizer(torch.rand(2, 3, 40, 30), size=(24, 20)).shape
            torch.Size([2, 3, 24, 20])

            Photographs of different sizes, of each a region, the second one mirrored:

            >>> photos = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((40, 30), (25, 50))]
            >>> batch = resizer(photos, boxes=[(0, 0, 30, 30), (2.5, 10, 20, 20)], flip=[False, True])
            >>> batch.shape, batch.dtype
            (torch.Size([2, 3, 16, 16]), torch.float32)
        """
        layers = self._fused(image)
        if layers is None:
            return super().forward(image, size, boxes=boxes, flip=flip)
        height, width = self._check_input(image, size)
        images, boxes, flip = as_list(image, boxes, flip)
        images = [cast(Tensor, image)] if images is None else list(images)
        _check_counts(layers, images, boxes, height * width)
        first, parameters = images[0], layers.parameters
        mean_std = self._normalisation() if first.dtype == torch.uint8 else ()
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (*images, *parameters))
        out, _, statistics = torch.ops.learned_resizer.resizer(
            images, boxes, flip, self._base(images, boxes, flip, (height, width), parameters[0]), parameters,
            layers.running, layers.slopes, layers.eps, layers.batch_statistics, layers.groups(), self.interpolation,
            self.antialias, feature_dtype(first, parameters[0]), keep, *mean_std,
        )  # fmt: skip
        # Last, so that a failing call leaves all running statistics unchanged.
        update_running_statistics(layers.tracked, statistics)
        return cast(Tensor, out)

    @classmethod
    def from_pretrained(
        cls: type[_Resizer],
        path_or_repo: str | os.PathLike[str],
        *,
        map_location: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> _Resizer:
        """Load a resizer of ``save_pretrained``, ``push_to_hub`` or a run.

        Needs the ``[train]`` extra.

        Args:
            path_or_repo: a folder, a run's ``resizer.safetensors``, or a repository of the Hugging Face Hub,
                ``"owner/name"``. A folder or file takes precedence.
            map_location: device of the module.
            revision: branch, tag or commit of a repository. This and what follows goes to
                ``huggingface_hub.hf_hub_download``, and is unused for a folder or file.
            token: of an account of the Hub; True: the one stored on this machine.
            cache_dir: folder that keeps downloads.
            force_download: download even what the cache has.
            local_files_only: download nothing; take what the cache has.

        Returns:
            A module of this class in eval mode with the saved arguments, weights and dtypes, which gives the same bits
            for the same input. Nothing in the files is executed.

        Raises:
            ModuleNotFoundError: ``safetensors`` or, for a repository, ``huggingface_hub`` is not installed.
            FileNotFoundError: no such folder, or one without ``config.json`` or ``model.safetensors``.
            ValueError: the files are not those of a learned resizer, or the weights do not fit the arguments or are
                not finite.
            Exception: from ``hf_hub_download``, for a repository that is missing or unreachable.

        Examples:
            >>> import torch
            >>> from learned_resizer_cuda import FusedResizer
            >>> trained = FusedResizer((16, 24), num_filters=8).eval()
            >>> trained.save_pretrained("my-resizer")
            >>> resizer = FusedResizer.from_pretrained("my-resizer")
            >>> resizer.size, resizer.num_filters, resizer.training
            ((16, 24), 8, False)
            >>> images = torch.rand(2, 3, 40, 30)
            >>> torch.equal(resizer(images), trained(images))
            True
        """
        from .hub import from_pretrained

        download = {"revision": revision, "token": token, "cache_dir": cache_dir}
        options = {"force_download": force_download, "local_files_only": local_files_only}
        return from_pretrained(cls, path_or_repo, map_location=map_location, **download, **options)

    def save_pretrained(self, folder: str | os.PathLike[str], *, license: str = "apache-2.0") -> None:
        """Write the weights and arguments to a folder. Needs the ``[train]`` extra.

        ``model.safetensors`` has the weights and running statistics, ``config.json`` the arguments, ``README.md`` a
        model card; an existing card stays. Not saved: training mode, frozen parameters, and ``momentum``, ``eps`` and
        synchronisation of the batch normalisations.

        Args:
            folder: created if missing; weights in it are replaced.
            license: of the weights, for the model card; an identifier of the Hub.

        Raises:
            ModuleNotFoundError: ``huggingface_hub`` or ``safetensors`` is not installed.

        Examples:
            >>> import json
            >>> from pathlib import Path
            >>> from learned_resizer_cuda import FusedResizer
            >>> FusedResizer(96, interpolation="lanczos").save_pretrained("my-resizer", license="mit")
            >>> sorted(path.name for path in Path("my-resizer").iterdir())
            ['README.md', 'config.json', 'model.safetensors']
            >>> json.loads(Path("my-resizer/config.json").read_text())["interpolation"]
            'lanczos'
        """
        from .hub import save_pretrained

        save_pretrained(self, folder, license=license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str = "apache-2.0",
        commit_message: str = "Push a learned resizer",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Upload what ``save_pretrained`` writes to the Hugging Face Hub, in one commit.

        Args:
            repo_id: ``"owner/name"``; created if missing. Its model card is replaced.
            license: of the weights, for the model card; an identifier of the Hub.
            commit_message: this and what follows goes to ``huggingface_hub.PyTorchModelHubMixin``.
            private: of a new repository; None: what the owner's default is.
            token: of an account of the Hub; None: the one stored on this machine.
            branch: to commit to; None: ``main``.
            create_pr: open a pull request instead of committing to the branch.

        Returns:
            The address of the commit.

        Raises:
            ModuleNotFoundError: ``huggingface_hub`` or ``safetensors``, in the ``[train]`` extra, is not installed.
            Exception: from ``huggingface_hub``.

        Examples:
            >>> from learned_resizer_cuda import FusedResizer
            >>> resizer = FusedResizer(96, zero_init=True)
            >>> # Needs an account of the Hub, from `hf auth login`
            >>> resizer.push_to_hub("my-name/my-resizer", private=True)  # doctest: +SKIP
            'https://huggingface.co/my-name/my-resizer/commit/...'
        """
        from .hub import push_to_hub

        commit = {"commit_message": commit_message, "branch": branch, "create_pr": create_pr}
        return push_to_hub(self, repo_id, license=license, private=private, token=token, **commit)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_check"}

    def _fused(self, image: Any) -> composition.Structure | None:
        """The layers if this call runs fused; if not, warns or raises."""
        if torch.compiler.is_compiling():
            return composition.fused_while_traced(self, image)
        check = self._check
        if check is None:
            check = self.__dict__["_check"] = composition.Check()
        return check.fused(self, image)

    def _base(
        self, images: list[Tensor], boxes: Tensor | None, flip: Tensor | None, sides: tuple[int, int], like: Tensor
    ) -> Tensor:
        """The resampled images, to which the layers add.

        In the dtype of ``like`` for uint8 images.
        """
        ops, first, sampling = torch.ops.learned_resizer, images[0], (self.interpolation, self.antialias)
        if first.dtype != torch.uint8:
            if first.dim() == 4:
                return cast(Tensor, ops.resample(first, *sides, None, None, *sampling))
            return cast(Tensor, ops.resample_batch(images, boxes, flip, *sides, *sampling, first.dtype, [], []))
        # Normalised after the resampling, whose rows sum to 1: fewer pixels.
        wide = accumulation_dtype(like.dtype)
        levels = ops.resample_batch(images, boxes, flip, *sides, *sampling, wide, [], [])
        return normalise(levels, like.dtype, *self._normalisation())

    def _normalisation(self) -> tuple[Tensor, Tensor] | tuple[()]:
        """Mean and std for uint8 images, if the module has them."""
        return () if self.image_mean is None or self.image_std is None else (self.image_mean, self.image_std)


def _check_counts(layers: composition.Structure, images: list[Tensor], boxes: Tensor | None, pixels: int) -> None:
    """Raise if a batch normalisation would lack variance, before running statistics change."""
    if not any(layers.batch_statistics):
        return
    batch = images[0].shape[0] if images[0].dim() == 4 else len(images)
    # A graph has no values of boxes.
    if batch >= 2 or (boxes is not None and torch.compiler.is_compiling()):
        return
    of_crops = 0
    if batch:
        (region,) = regions([images[0].shape[-2:]], boxes, None)
        of_crops = region.height * region.width
    for index, (norm, of_batch) in enumerate(zip(layers.norms, layers.batch_statistics, strict=True)):
        count = batch * pixels if index else of_crops
        # A joint count is on the device, and a process that raised would leave the others waiting.
        if of_batch and count < 2 and sync_group(norm) is None:
            raise ValueError(
                f"image: got {count} values per channel for a batch normalisation in training mode; "
                "expected at least 2 (a larger batch or size, or eval mode)"
            )
