"""The ops behind the modules, registered as ``torch.ops.learned_resizer.*``: one file an op."""

from . import resample

# Stems of the ops; an op's backward is ``<stem>_backward``.
OPS = ("resample",)

__all__ = ["OPS", "resample"]
