"""Waiting of OpenMP's threads, set for the command line before torch loads.

torch splits every call over its threads and then waits for the last one. libgomp, which torch's Linux wheels include,
waits by spinning for milliseconds. If another process takes a core, the thread that was to run there is delayed by a
time slice while another thread spins on the only free core, and a training step takes many times longer. Threads that
spin for a few microseconds and then sleep leave that core to others (``benchmarks/results/busy.json``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Environment variables by which users control the waiting of libgomp and of Intel's and LLVM's runtimes
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

# Rounds of the spinning loop, some 20 µs: about the time to wake a sleeping thread. With 300 an idle machine loses a
# quarter of a small network's speed; with 5,000 a busy one does.
SPIN_COUNT = 1000


def is_command() -> bool:
    """Whether this process is `learned-resizer` or `python -m learned_resizer_cuda`.

    While Python looks up the module for `-m`, the first argument is still "-m"; the name is in ``sys.orig_argv``.
    """
    name = Path(sys.argv[0]).stem if sys.argv else ""
    module = name == "-m" and "learned_resizer_cuda" in sys.orig_argv
    return module or name == "learned-resizer"


def limit_spinning() -> bool:
    """Make waiting threads sleep early.

    Not if the environment says otherwise, or torch is already loaded.

    Returns:
        Whether anything was set.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SETTINGS):
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    return True
