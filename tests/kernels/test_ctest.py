"""The host tests of csrc/tests, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess

from tests.helpers import kernels_host


def test_ctest_passes() -> None:
    build = kernels_host.build()
    done = subprocess.run(
        ["ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error", "--parallel", str(os.cpu_count())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "100% tests passed" in done.stdout, done.stdout
