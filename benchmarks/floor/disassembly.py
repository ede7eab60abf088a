"""Disassembly of a kernel source for one architecture: instructions, their source lines, loops.

Needs nvcc and nvdisasm, no GPU. ``-lineinfo`` does not change the code; nvdisasm prints the chain of inlined source
lines of every instruction.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CORE = Path(__file__).resolve().parents[2] / "csrc" / "core"

Frame = tuple[str, int]  # file name, line


class Instruction(NamedTuple):
    opcode: str
    predicated: bool
    block: int  # basic block
    chain: tuple[Frame, ...]  # inlining chain, from the innermost frame outwards
    operands: str = ""
    control: int = 0  # the fields that schedule it: bits 105 and up of the encoding


@dataclass
class Kernel:
    """One kernel of a compiled source."""

    instructions: list[Instruction]
    labels: dict[str, int]  # of basic blocks
    registers: int = 0  # of a thread
    shared: int = 0  # static shared memory of a block


def disassembler() -> str:
    """Path of nvdisasm: on PATH, or the one inside the triton package."""
    found = shutil.which("nvdisasm")
    if found:
        return found
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    if not path.exists():
        raise FileNotFoundError("nvdisasm: neither on PATH nor in the triton package")
    return str(path)


def core_file(name: str) -> Path:
    """A file of csrc/core by its name, which is unique there."""
    (found,) = CORE.glob(f"*/{name}")
    return found


def disassemble(source: str, arch: str) -> dict[str, Kernel]:
    """Compile a file of csrc/core and return its kernels, keyed by mangled name.

    Raises:
        FileNotFoundError: naming the tool that is missing.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise FileNotFoundError("nvcc: not on PATH")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        options = ["-std=c++17", "-O3", "-lineinfo", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", f"-I{CORE}"]
        compiled = subprocess.run(
            [nvcc, *options, core_file(source), "-o", cubin], check=True, stderr=subprocess.PIPE, text=True
        )
        text = subprocess.run(
            [disassembler(), "-gi", "-hex", "-c", cubin], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    kernels = parse(text)
    for name, usage in re.findall(r"entry function '(\w+)'.*?(Used [^\n]*)", compiled.stderr, re.DOTALL):
        kernels[name].registers = int(re.search(r"(\d+) registers", usage)[1])
        if static := re.search(r"(\d+) bytes smem", usage):
            kernels[name].shared = int(static[1])
    return kernels


_ENDS = ("BRA", "BRX", "JMP", "EXIT", "RET", "BREAK")  # instructions that end a basic block


def parse(text: str) -> dict[str, Kernel]:
    """Kernels in the output of ``nvdisasm -gi -c``, by mangled name; with ``-hex``, control fields too."""
    kernels: dict[str, Kernel] = {}
    current = Kernel([], {})
    chain: list[Frame] = []
    in_comment, block = False, 0
    for line in text.splitlines():
        if match := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            current = kernels.setdefault(match[1], Kernel([], {}))
            block += 1
        elif match := re.match(r"(\.L_x_\d+):", line):
            block += 1
            current.labels[match[1]] = block
        elif match := re.match(r'\s*//## File "([^"]+)", line (\d+)', line):
            if not in_comment:
                chain = []
            chain.append((Path(match[1]).name, int(match[2])))
            in_comment = True
            continue
        elif match := re.match(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*)", line):
            current.instructions.append(
                Instruction(match[2], match[1] is not None, block, tuple(chain), match[3].strip())
            )
            block += match[2].split(".")[0] in _ENDS
        elif match := re.fullmatch(r"\s*/\* 0x([0-9a-f]{16}) \*/\s*", line):  # an encoding's high half
            current.instructions[-1] = current.instructions[-1]._replace(control=int(match[1], 16) >> 41)
        in_comment = False
    return kernels


class Source:
    """Source lines and the functions that contain them.

    Args:
        names: files of csrc/core.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.text = {name: core_file(name).read_text().splitlines() for name in names}
        self.owner: dict[Frame, str] = {}
        for name, lines in self.text.items():
            function, depth = "", 0
            for number, line in enumerate(lines, 1):
                match = re.search(r"(?:LR_DEVICE.*?|LR_KERNEL\w*\([^()]*\)\s+)\b(\w+)\((?!threads)", line)
                if match and depth == 0 and "#define" not in line:
                    function = match[1]
                if function:
                    self.owner[name, number] = function
                    depth += line.count("{") - line.count("}")
                    if depth == 0 and re.search(r"[};]\s*(//.*)?$", line):  # not `member{},` of a constructor
                        function = ""

    def line(self, frame: Frame) -> str:
        return self.text.get(frame[0], [""] * (frame[1] + 1))[frame[1] - 1]


@dataclass
class Loop:
    """A natural loop: the blocks between its header and the branches back to it."""

    header: int
    blocks: set[int]
    back: list[Instruction]  # the branches back


def successors(kernel: Kernel) -> dict[int, list[int]]:
    """Edges between basic blocks. Calls return; their targets (slow paths of divisions and roots) are left out."""
    order = sorted({item.block for item in kernel.instructions})
    after = dict(itertools.pairwise(order))
    # A label may stand before an empty block number.
    present = {label: next((b for b in order if b >= at), order[-1]) for label, at in kernel.labels.items()}
    last = {item.block: item for item in kernel.instructions}
    edges: dict[int, list[int]] = {}
    for block, item in last.items():
        name = item.opcode.split(".")[0]
        targets: list[int] = []
        falls = True
        if name in ("BRA", "BRX", "JMP"):
            targets = [present[label] for label in re.findall(r"\.L_x_\d+", item.operands)]
            falls = item.predicated or not item.operands.startswith("`(")
            if name == "BRX":
                falls = item.predicated
        elif name in ("EXIT", "RET"):
            falls = item.predicated
        if falls and block in after:
            targets.append(after[block])
        edges[block] = targets
    return edges


def reachable(kernel: Kernel) -> set[int]:
    """Basic blocks that the kernel reaches without a call."""
    edges = successors(kernel)
    seen: set[int] = set()
    waiting = [min(edges)]
    while waiting:
        block = waiting.pop()
        if block not in seen:
            seen.add(block)
            waiting += edges[block]
    return seen


def loops(kernel: Kernel) -> list[Loop]:
    """The natural loops of a kernel, those with one header merged, smallest first."""
    edges = successors(kernel)
    blocks = sorted(reachable(kernel))
    before: dict[int, list[int]] = {block: [] for block in blocks}
    for block in blocks:
        for target in edges[block]:
            before[target].append(block)
    # Dominators as bit sets, to a fixed point.
    place = {block: i for i, block in enumerate(blocks)}
    every = (1 << len(blocks)) - 1
    dominators = dict.fromkeys(blocks, every)
    dominators[blocks[0]] = 1
    changed = True
    while changed:
        changed = False
        for block in blocks[1:]:
            common = every
            for source in before[block]:
                common &= dominators[source]
            common |= 1 << place[block]
            if common != dominators[block]:
                dominators[block] = common
                changed = True
    last = {item.block: item for item in kernel.instructions}
    found: dict[int, Loop] = {}
    for block in blocks:
        for header in edges[block]:
            if not dominators[block] >> place[header] & 1:
                continue
            loop = found.setdefault(header, Loop(header, {header}, []))
            loop.back.append(last[block])
            waiting = [block]
            while waiting:
                inside = waiting.pop()
                if inside not in loop.blocks:
                    loop.blocks.add(inside)
                    waiting += before[inside]
    return sorted(found.values(), key=lambda loop: len(loop.blocks))
