"""Constants of the GPUs that the models of benchmarks/floor predict for, each with its source.

Sources:

- H100 and H200 datasheets; NVIDIA H100 Tensor Core GPU Architecture (whitepaper), table 3.
- CUDA C++ Programming Guide, table "Throughput of Native Arithmetic Instructions", compute capability 9.0.
- Luo et al. 2024 and 2025, arXiv 2402.13499 and 2501.12084: microbenchmarks of Hopper (H100 PCIe).
- "CUDA Performance Study — NVIDIA H100 SXM5": a public repository's pointer chase and copies on an H100 SXM.
- Huerta et al. 2025, arXiv 2503.20481: how the cores of Ampere issue; its figures are taken for Hopper's.

Nothing here was measured for this package. An assumption is called one. The study's figures were read in its text.
Those of the papers and the guide are quoted from memory and still to be looked up; the study agrees with Luo's within
2 %, except for DRAM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Machine:
    """A GPU. Latencies and rates are in clocks of a multiprocessor; bytes are per clock and multiprocessor."""

    name: str
    dram_bytes_per_s: float  # datasheet
    dram_share: float  # of it that a copy reaches
    multiprocessors: int = 132  # whitepaper, SXM5
    clock_hz: float = 1.755e9  # sustained, an assumption: Luo's card; the study's ran at its maximum of 1.98e9

    # A multiprocessor (whitepaper).
    schedulers: int = 4  # one instruction a clock each
    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared_bytes: int = 228 * 1024  # of which the system takes 1 KiB a block
    block_shared_bytes: int = 227 * 1024

    # Latencies, from issue to the first use.
    shared_clocks: int = 29  # Luo: 29.0; study: 28.6
    l1_clocks: int = 41  # Luo: 40.7; study: 40.2
    l2_clocks: int = 262  # Luo: 263.0; study: 259.9
    dram_clocks: int = 570  # study, on SXM; Luo, on PCIe at a lower clock: 478.8. Without load
    special_clocks: int = 23  # MUFU and conversions. Assumption, from the study's chains of 29 to 54
    constant_clocks: int = 30  # LDC and S2R. Huerta, 26 to 29
    operands_clocks: int = 12  # until a memory instruction has read its registers. Huerta, 9 to 20 by width
    barrier_clocks: int = 20  # from the last warp's arrival to the next instruction. Assumption

    # Clocks that an instruction takes its scheduler's pipe.
    half_rate_clocks: float = 2.0  # integers, comparisons, conversions by shifts: 64 results a clock (guide)
    special_rate_clocks: float = 8.0  # MUFU and conversions: 16 results a clock (guide)
    memory_rate_clocks: float = 2.0  # to issue to memory: half a warp a clock. Assumption, after Huerta

    # Rates.
    mma_per_clock: float = 0.62  # m16n8k16 of 16 bits, m16n8k8 of tf32; 1 is the peak, mma.sync reaches 0.62 (Luo)
    wavefronts_per_clock: float = 1.0  # 128 bytes of shared memory or L1: 33 TB/s (whitepaper)
    l2_bytes_per_clock: float = 24.6  # 5.7 TB/s of reads by all; assumption, from Chips and Cheese's 5.5 to 6
    queue_wavefronts: int = 24  # of a multiprocessor's shared memory before warps wait to issue. Assumption
    # How far a multiprocessor may be ahead of its share of DRAM, in clocks: the others are in other phases then. 0 is
    # lockstep. Assumption.
    dram_ahead_clocks: int = 2048

    # A stream.
    ramp_us: float = 1.0  # from the end of the kernel before to a kernel's first instruction. Assumption
    small_kernel_us: float = 2.0  # one of the reductions. Assumption

    @property
    def issue_per_clock(self) -> int:
        return self.schedulers

    @property
    def dram_bytes_per_clock(self) -> float:
        """What a multiprocessor gets of the DRAM."""
        return self.dram_bytes_per_s * self.dram_share / self.multiprocessors / self.clock_hz

    def microseconds(self, clocks: float) -> float:
        return clocks / self.clock_hz * 1e6


# The share is an assumption: 2.9 and 4.2 TB/s.
H100 = Machine("H100 SXM", dram_bytes_per_s=3.35e12, dram_share=0.87)
H200 = replace(H100, name="H200", dram_bytes_per_s=4.8e12)
MACHINES = {"h100": H100, "h200": H200}
