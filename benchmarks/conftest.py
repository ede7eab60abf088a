"""Options, environment record and summary of the benchmarks: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# Last on the path: an installed package, which has the native module, must win over the source tree.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import cpu_name

PACKAGES = ("learned-resizer-cuda", "torch", "torchvision", "pillow", "kornia", "numpy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-device", default="cpu", help="torch device the benchmarks run on (default: %(default)s)")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Device under test."""
    device = torch.device(request.config.getoption("--bench-device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.exit("--bench-device cuda: torch sees no CUDA device", returncode=2)
    return device


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add versions, threads and device, which the plugin does not record."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "from the source tree" if package == PACKAGES[0] else None
    device = torch.device(config.getoption("--bench-device"))
    machine_info["versions"] = versions
    machine_info["threads"] = torch.get_num_threads()
    machine_info["device_type"] = device.type
    machine_info["device_name"] = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the ratios, which the plugin's own table of times does not show."""
    from benchmarks.cases import Case
    from benchmarks.race import RECORDS
    from benchmarks.report import rows_of

    rows = [row for record in RECORDS for row in rows_of(record)]
    if not rows:
        return
    terminalreporter.section("time of the peer / time of ours")
    for row in rows:
        bar = "" if row["bar"] is None else f"; bar {row['bar']:g}: {'met' if row['met'] else 'NOT MET'}"
        terminalreporter.write_line(f"{row['ratio']:6.2f}×  {Case(**row['case']).label} vs {row['peer']}{bar}")
