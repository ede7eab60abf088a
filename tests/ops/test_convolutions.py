"""Convolutions of the ops on a CPU at each of oneDNN's instruction sets, over thousands of shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import convolutions

# oneDNN's instruction sets, with the flags of /proc/cpuinfo that say that the processor has them.
LEVELS = {
    "SSE41": {"sse4_1"},
    "AVX": {"avx"},
    "AVX2": {"avx2"},
    "AVX2_VNNI": {"avx_vnni"},
    "AVX2_VNNI_2": {"avx_vnni_int8", "avx_ne_convert"},
    "AVX512_CORE": {"avx512bw", "avx512vl", "avx512dq"},
    "AVX512_CORE_VNNI": {"avx512_vnni"},
    "AVX512_CORE_BF16": {"avx512_bf16"},
    "AVX512_CORE_FP16": {"avx512_fp16"},
    "AVX512_CORE_AMX": {"amx_tile", "amx_int8", "amx_bf16"},
    "AVX512_CORE_AMX_FP16": {"amx_fp16"},
    "DEFAULT": set(),
}


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_convolution_at_every_instruction_level(level: str, record_property: pytest.RecordProperty) -> None:
    """``pytest -m slow -rP tests/ops/test_convolutions.py`` prints the number of cases."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split("flags", 1)[-1].split("\n", 1)[0].split()) if cpuinfo.exists() else set()
    if missing := LEVELS[level] - flags:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}: oneDNN would run a lower level again")
    # Memory that is read before it is written then holds 1.5e16, as float32 and as bfloat16, instead of a lucky zero.
    settings = {"ONEDNN_MAX_CPU_ISA": level, "MALLOC_PERTURB_": "165", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, convolutions.__file__]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    (isa,) = [line.split("isa:", 1)[1] for line in done.stdout.splitlines() if "isa:" in line]
    print(f"{level} ({isa}): {len(result['wrong'])} wrong of {result['cases']} cases")
    record_property("cases", result["cases"])
    assert not result["wrong"], f"{len(result['wrong'])} of {result['cases']} wrong; of those: {result['wrong'][:5]}"
