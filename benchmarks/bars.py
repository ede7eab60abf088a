"""The bar: what each ratio has to reach, for the cases that have one (448→224, batch 8, float32)."""

from __future__ import annotations

from typing import Any

# (device, operation, direction, peer) -> least time of the peer / time of ours.
TIME = {
    ("cpu", "resize", "forward", "F.interpolate"): 0.95,
    ("cpu", "resize", "forward+backward", "F.interpolate"): 0.95,
    ("cpu", "FusedResizer", "evaluation", "reference, channels_last"): 1.4,
    ("cpu", "FusedResizer", "evaluation", "reference, NCHW"): 4.0,
    ("cpu", "FusedResizer", "train step", "reference, channels_last"): 1.3,
    ("cpu", "FusedResizer", "train step", "reference, NCHW"): 1.5,
}

# (device, operation, peer) -> greatest peak memory of ours / of the peer.
MEMORY = {
    ("cpu", "FusedResizer", "reference, channels_last"): 1 / 3,
    ("cpu", "FusedResizer", "reference, NCHW"): 1 / 3,
}

_SETTING = {"antialias": True, "dtype": "float32", "batch": 8, "in_size": 448, "out_size": 224}


def time_bar(case: dict[str, Any], peer: str, device: str) -> float | None:
    """Least ratio for this case and peer, or None where there is no bar."""
    if any(case[key] != value for key, value in _SETTING.items()):
        return None
    return TIME.get((device, case["op"], case["direction"], peer))


def memory_bar(case: dict[str, Any], peer: str, device: str) -> float | None:
    """Greatest ratio of peak memory for this case and peer, or None where there is no bar."""
    if any(case[key] != value for key, value in _SETTING.items()):
        return None
    return MEMORY.get((device, case["op"], peer))
