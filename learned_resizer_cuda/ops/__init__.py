"""The ops behind the modules, one file each.

``resample``, ``resample_batch``, ``resample_fixed``, ``resizer`` and ``update_running`` are registered as
``torch.ops.learned_resizer.*``; ``stem``, ``conv``, ``head`` and ``trunk`` are the stages of ``resizer``.
"""

from . import conv, flops, head, resample, resample_batch, resample_fixed, resizer, stem, trunk, update_running

# What has native kernels; the kernels of a backward belong to it.
KERNELS = ("resample", "resample_batch", "resample_fixed", "stem", "conv", "head", "trunk")

__all__ = [
    "KERNELS",
    "conv",
    "flops",
    "head",
    "resample",
    "resample_batch",
    "resample_fixed",
    "resizer",
    "stem",
    "trunk",
    "update_running",
]

flops.register()
