"""The host tests of csrc/tests, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.helpers import kernels_host


@pytest.mark.parametrize("labels", ["-LE", pytest.param("-L", marks=pytest.mark.slow)])
def test_ctest_passes(labels: str) -> None:
    build = kernels_host.build()
    parallel = ["--parallel", str(os.cpu_count())]
    done = subprocess.run(
        ["ctest", "--test-dir", build, labels, "slow", "--output-on-failure", "--no-tests=error", *parallel],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "100% tests passed" in done.stdout, done.stdout
