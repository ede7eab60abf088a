"""float32 on CUDA computes in TF32 where torch's own convolutions would, whichever of torch's flags say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import pytest
import torch

from learned_resizer_cuda.kernels import arguments
from learned_resizer_cuda.kernels.arguments import arithmetic

# Every sequence of settings in a process of its own: torch's flags are global, and their first state cannot be put
# back. Prints for each what we take and what torch hands to its convolutions, which a traced graph shows.
_SCRIPT = """
import itertools, json, os, sys
import torch
import torch.nn.functional as F
from learned_resizer_cuda.kernels.arguments import arithmetic

SETTINGS = {
    "all": [("none", "ieee", "tf32", "bf16"), lambda v: setattr(torch.backends, "fp32_precision", v)],
    "cudnn": [("none", "ieee", "tf32"), lambda v: setattr(torch.backends.cudnn, "fp32_precision", v)],
    "conv": [("none", "ieee", "tf32"), lambda v: setattr(torch.backends.cudnn.conv, "fp32_precision", v)],
    "rnn": [("ieee",), lambda v: setattr(torch.backends.cudnn.rnn, "fp32_precision", v)],
    "allow": [(False, True), lambda v: setattr(torch.backends.cudnn, "allow_tf32", v)],
    "matmul": [("high", "highest"), torch.set_float32_matmul_precision],
}
if not hasattr(torch.backends.cudnn, "conv"):
    SETTINGS = {name: SETTINGS[name] for name in ("allow", "matmul")}

def torchs():
    image, weight = torch.rand(1, 1, 3, 3), torch.rand(1, 1, 3, 3)
    graph = torch.jit.trace(lambda x: F.conv2d(x, weight), image, check_trace=False).graph
    (call,) = graph.findAllNodes("aten::_convolution")
    return list(call.inputs())[-1].toIValue()

def answers(sequence):
    for name, value in sequence:
        SETTINGS[name][1](value)
    try:
        ours = arithmetic(torch.float32)
    except RuntimeError as error:
        ours = str(error)
    return [list(sequence), ours, "tf32" if torchs() else "float32"]

single = [(name, value) for name, (values, _) in SETTINGS.items() for value in values]
sequences = [(), *((one,) for one in single), *itertools.permutations(single, 2)]
levels = [[one for one in single if one[0] == name] for name in ("all", "cudnn", "conv")]
sequences += itertools.product(*levels)
torch.set_num_threads(1)  # a fork has none of the pool of its parent
for sequence in sequences:
    child = os.fork()
    if child == 0:
        print(json.dumps(answers(sequence)), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs every setting in a fork of one process")
def test_float32_computes_as_torchs_convolutions_would() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [case for case in cases if case[1] != case[2]]
    assert not wrong, f"{len(wrong)} of {len(cases)}, the first: {wrong[:3]}"
    # Both answers occur, so that a constant one fails.
    assert {case[2] for case in cases} == {"tf32", "float32"}
    assert len(cases) > 200 or not hasattr(torch.backends.cudnn, "conv")


@pytest.mark.parametrize("allowed", [True, False])
def test_older_torch_is_asked_by_its_only_flag(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_precision", None)
    monkeypatch.setattr(torch.backends, "cudnn", types.SimpleNamespace(allow_tf32=allowed))
    assert arithmetic(torch.float32) == ("tf32" if allowed else "float32")


def test_other_dtypes_compute_as_they_are() -> None:
    assert [arithmetic(dtype) for dtype in (torch.float16, torch.bfloat16)] == ["float16", "bfloat16"]
