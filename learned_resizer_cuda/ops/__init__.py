"""The ops behind the modules, registered as ``torch.ops.learned_resizer.*``: one file per op."""

from . import affine, conv, flops, head, resample, stem, trunk

# Families of ops; an op's backward is ``<name>_backward``.
OPS = ("resample", "stem", "affine", "conv", "head", "trunk")

__all__ = ["OPS", "affine", "conv", "flops", "head", "resample", "stem", "trunk"]

flops.register()
