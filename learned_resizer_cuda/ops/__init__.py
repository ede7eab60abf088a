"""The ops behind the modules, registered as ``torch.ops.learned_resizer.*``: one file an op."""

from . import affine, conv, flops, head, resample, stem, trunk

# Stems of the ops; an op's backward is ``<stem>_backward``.
OPS = ("resample", "stem", "affine", "conv", "head", "trunk")

__all__ = ["OPS", "affine", "conv", "flops", "head", "resample", "stem", "trunk"]

flops.register()
