"""Bars: the ratios that cases must reach (448→224; on a CPU batch 8, float32)."""

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

# Lower bound of inference on a GPU: two kernels, about 5 µs per image. We may take twice that.
FLOOR = "floor of 5 µs an image"
FLOOR_SECONDS = 5e-6
COPY = "device copy of as many bytes"
COMPILED = "torch.compile max-autotune"
ALONE = "ResNet-50 alone"

# On a GPU, batch 64 (128 of the ResNet): (operation, direction, peer) -> least time of the peer / time of ours.
CUDA_TIME = {
    ("resample", "forward", COPY): 0.85,
    ("resample", "backward", COPY): 0.85,
    ("resize", "forward+backward", "torchvision v2"): 8.0,
    ("FusedResizer", "evaluation", "reference, channels_last"): 10.0,
    ("FusedResizer", "evaluation", COMPILED): 4.0,
    ("FusedResizer", "evaluation", FLOOR): 0.5,
    ("FusedResizer", "train step", "reference, channels_last"): 6.0,
    ("FusedResizer", "train step", COMPILED): 3.0,
    ("ResNet-50 behind FusedResizer", "train step", ALONE): 1 / 1.06,
}
# The best of these that is installed counts.
CUDA_LANCZOS = {"lanczos-triton": 2.0, "kornia": 2.0, "ResizeRight": 2.0}
CUDA_MEMORY = {"reference, channels_last": 1 / 5}
_CUDA_SETTING = {"antialias": True, "in_size": 448, "out_size": 224}
_CUDA_BATCH = {"ResNet-50 behind FusedResizer": 128}

# (device, operation, peer) -> greatest peak memory of ours / of the peer.
MEMORY = {
    ("cpu", "FusedResizer", "reference, channels_last"): 1 / 3,
    ("cpu", "FusedResizer", "reference, NCHW"): 1 / 3,
}

_SETTING = {"antialias": True, "dtype": "float32", "batch": 8, "in_size": 448, "out_size": 224}


def time_bar(case: dict[str, Any], peer: str, device: str) -> float | None:
    """Least ratio for this case and peer; None without a bar."""
    if device == "cuda":
        if not _is_cuda_setting(case):
            return None
        if case["op"] == "resize" and case["interpolation"] == "lanczos":
            return CUDA_LANCZOS.get(peer)
        return CUDA_TIME.get((case["op"], case["direction"], peer))
    if any(case[key] != value for key, value in _SETTING.items()):
        return None
    return TIME.get((device, case["op"], case["direction"], peer))


def memory_bar(case: dict[str, Any], peer: str, device: str) -> float | None:
    """Greatest ratio of peak memory for this case and peer; None without a bar."""
    if device == "cuda":
        return CUDA_MEMORY.get(peer) if _is_cuda_setting(case) and case["op"] == "FusedResizer" else None
    if any(case[key] != value for key, value in _SETTING.items()):
        return None
    return MEMORY.get((device, case["op"], peer))


def _is_cuda_setting(case: dict[str, Any]) -> bool:
    if case["op"] == "FusedResizer" and case["dtype"] != "bfloat16":
        return False
    batch = _CUDA_BATCH.get(case["op"], 64)
    return case["batch"] == batch and all(case[key] == value for key, value in _CUDA_SETTING.items())
