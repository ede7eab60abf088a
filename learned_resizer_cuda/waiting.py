"""How OpenMP's threads wait for one another, set for the command line before torch loads.

torch splits every call over its threads and then waits for the last one. libgomp, which torch's Linux wheels bring,
waits by spinning, for milliseconds. Where another process takes a core, the thread that was to run there is held up for
a time slice, the other spins on the only free core meanwhile, and a training step takes many times longer. Threads that
spin for some microseconds and then sleep leave that core to whoever can use it (``benchmarks/results/busy.json``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Environment variables with which users say how to wait, for libgomp, Intel's and LLVM's runtime.
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

# Rounds of the loop that waits, some 20 µs: about what it takes to wake a thread that sleeps. With 300 an idle machine
# loses a quarter of a small network's speed, with 5,000 a busy one.
SPIN_COUNT = 1000


def is_command() -> bool:
    """Whether this process is `learned-resizer` or `python -m learned_resizer_cuda`.

    While Python looks a module up for `-m`, the first argument is "-m" still, and its name is in the original ones.
    """
    name = Path(sys.argv[0]).stem if sys.argv else ""
    module = name == "-m" and "learned_resizer_cuda" in sys.orig_argv
    return module or name == "learned-resizer"


def limit_spinning() -> bool:
    """Let waiting threads sleep soon, unless the environment says otherwise or torch is loaded already.

    Returns:
        Whether anything was set.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SETTINGS):
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    return True
