"""The kernels that tensor.py counts: trips of loops, shares of branches, bytes moved, where accesses are served.

Trips are those of an average warp each time it enters the loop; the expressions follow the sources.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from benchmarks.floor.machine import H100

SMS = H100.multiprocessors
BATCH, CHANNELS, FILTERS = 64, 3, 16
SIDE_IN, SIDE_OUT = 448, 224
ARITHMETICS = {"bfloat16": 0, "tf32": 2, "float32": 3}  # as in fragment.cuh
_TAPS, _OUTPUTS = 4, 2  # inputs of an output and outputs of an input, bilinear with antialias at 2x
_STEPS = -(-(15 * 2 + _TAPS) // 16)  # of the horizontal filter of 16 outputs: 16 columns each


@dataclass(frozen=True)
class Rule:
    """`trips` of the loop whose closing line matches `pattern` ("function:line"), or a factor for matches."""

    pattern: str
    trips: float
    unrolled: bool = False  # the compiler makes two loops of it: four at a time, and the rest
    within: str = ""  # and another frame matches this


@dataclass(frozen=True)
class Case:
    name: str
    arithmetic: str
    source: str
    mangled: str
    warps: float  # launched
    pixels: int  # of the larger map
    bytes: int
    mma: float  # products of a call, from the shapes alone
    loops: tuple[Rule, ...]
    shares: tuple[Rule, ...] = ()
    conflicts: tuple[tuple[str, Rule], ...] = field(default=())  # opcode, and the factor for its wavefronts
    threads: int = 256  # of a block
    memory: tuple[Memory, ...] = ()  # looked at before MEMORY

    @property
    def blocks(self) -> int:
        return round(self.warps * 32 / self.threads)


@dataclass(frozen=True)
class Memory:
    """Where global accesses whose frames match `pattern` are served: "dram", "l2" or "l1"."""

    pattern: str
    where: str
    share: float = 1.0  # of the executions; the others find their sectors in `rest`
    sectors: float = 1.0  # bytes that such an execution brings, in units of those it asks for
    rest: str = "l1"
    opcode: str = ""


# The first match of any frame of an access. First touches of maps and images are in the DRAM; reads of what another
# block or an earlier phase read are in the L2; tables and parameters that neighbours read are in the L1.
MEMORY = (
    Memory(r"^(Stem\w+|Conv\w*|Head\w+|Trunk|Prologue|load_weights):", "l2"),
    Memory(r"^(store_moments|finish):", "l2"),
    Memory(r"table<|strip_rows|^(load_parameter|load_bands|clear_bands|filter_rows?:.*load_element)", "l1"),
    Memory(r"^(locate|load_columns|rows_of|add|start_of|count_of|weight_at):", "l1"),
    Memory(r"^request:", "dram", 1 / 2, rest="l2", opcode="LDGSTS"),  # 16 outputs of dz, half of them a neighbour's too
    Memory(r"^load_lane:", "l2"),  # reads again what the loader read
    Memory(r"^(finish_tail|convolve):", "dram", 1 / 2, 2.0, opcode="LDG"),  # neighbours in an image
    Memory(r"^(load|load_grad|load_written|request|load_channels):", "dram"),
    Memory(r"^write_row:", "dram", 3 / 8, opcode="STG"),  # 3 of a product's 8 columns are channels
    Memory(r"^(store\w*|adjoint):", "dram", opcode="STG"),
)

# Dynamic shared memory of a block, by the start of a kernel's name, as an expression of csrc/core; {M} is the
# arithmetic, {warps} those of a block, {fragments} the stem's.
SHARED = {
    "stem with": "Stem<{M}, 16, 2>::shared_bytes([] {{ StemPlanShape p{{}}; p.warps = {warps}; p.pieces = 1; "
    "p.fragments = {fragments}; return p; }}())",
    "trunk block": "Trunk<{M}, TrunkKernel::kBlock>::shared_bytes()",
    "trunk tail": "Trunk<{M}, TrunkKernel::kTail>::shared_bytes()",
    "conv forward": "Conv<{M}, 16>::shared_bytes()",
    "conv backward": "ConvBackward<{M}, 16>::shared_bytes()",
    "head forward": "HeadForward<{M}, 16>::shared_bytes()",
    "head backward": "HeadBackward<{M}, 16>::shared_bytes()",
    "stem_backward weights": "StemWeightGradients<{M}, 16>::shared_bytes(16, 3)",
    "stem_backward image": "StemImageGradient<{M}, 16>::shared_bytes({warps})",
}


_SKIP = r"^(request_adjoint:.*r\.u|adjoint:.*(r\.u|2 \* n|grad_skip))"
_EARLIER = r"^(request_adjoint|adjoint):.*earlier"
_WIDE_IMAGE = r"^\w+:.*(request|store|load_grad)<float>"  # images have the features' dtype
# 16-bit image rings and dy keep a pixel with its right neighbour: two stores of 8 bytes, 16 bytes from lane to lane.
_PAIRED_STORE = ("STS", Rule(r"^store:.*Four<S>\*>\(to|^load_grad:.*\(grad \+", 2.0))
IN_PIXELS, OUT_PIXELS = BATCH * SIDE_IN**2, BATCH * SIDE_OUT**2


def _size(arithmetic: str) -> int:
    return 2 if arithmetic == "bfloat16" else 4


def _products(arithmetic: str) -> int:
    """Instructions of one 16x8x16 step: one of 16-bit elements; two halves of tf32; three times that for float32."""
    return {"bfloat16": 1, "tf32": 2, "float32": 6}[arithmetic]


def _maps(arithmetic: str, maps: float, images: float = 0) -> int:
    """Bytes of feature maps and images at output resolution."""
    return int(OUT_PIXELS * _size(arithmetic) * (maps * FILTERS + images * CHANNELS))


def _mangled(kernel: str, arithmetic: str, rest: str = "Li16E") -> str:
    return rf"\d{kernel}ILNS_10ArithmeticE{ARITHMETICS[arithmetic]}E{rest}"


@dataclass(frozen=True)
class StemPlan:
    """The plan of stem_plan.cpp for bilinear at 2x; a test compares it with the native module's."""

    warps: int
    tiles: int
    strips: int
    tile_outputs: int
    strip_outputs: int
    rows: tuple[int, ...]  # image rows of each strip
    resident: int  # blocks on a multiprocessor
    fragments: int  # of the horizontal filter of a tile, the most

    @property
    def items(self) -> int:
        return BATCH * self.strips * self.tiles

    @property
    def blocks(self) -> int:
        return min(self.items, SMS * self.resident)


def _ranges(length: int) -> list[tuple[int, int]]:
    return [(first, min(first + length, SIDE_OUT)) for first in range(0, SIDE_OUT, length)]


def _cuts(length: int) -> list[int]:
    """Inputs of runs of `length` outputs: the band of output o is 2o - 1 ... 2o + 2, within the image."""
    return [min(2 * last + 1, SIDE_IN) - max(2 * first - 1, 0) for first, last in _ranges(length)]


def _group_parts(length: int, arithmetic: str) -> list[list[int]]:
    """Parts of the weights of each group of 16 outputs, by tile of `length`: those at the image's edge are sevenths."""
    groups = [[range(o, min(o + 16, last)) for o in range(first, last, 16)] for first, last in _ranges(length)]
    return [[1 + (arithmetic != "float32" and (0 in g or SIDE_OUT - 1 in g)) for g in tile] for tile in groups]


def stem_plan(arithmetic: str) -> StemPlan:
    """For the kernel of 16 filters."""
    short = arithmetic == "bfloat16"
    most = 16 if short else 12  # kStemResident
    warps = 8 if short else 4  # kStemBlockWarps
    parts = 1 if arithmetic == "float32" else 2  # kStemParts

    def room(outputs: int) -> int:
        return -(-outputs // 16) * parts * _STEPS

    # The fewest tiles of about equal length: an output more takes two columns more.
    length = max(
        n for n in range(1, SIDE_OUT) if 2 * (n - 1) + _TAPS <= 16 * warps and room(n) <= (24 if short else 16)
    )  # kStemMostFragments
    length = -(-SIDE_OUT // -(-SIDE_OUT // length))
    tiles = len(_cuts(length))
    resident = SMS * (most // warps)
    taps = _TAPS + 1  # band_taps()
    costs = {
        strips: -(-strips * BATCH * tiles // resident) * (-(-SIDE_IN // strips) + taps + 8) for strips in range(1, 65)
    }
    # The first of those with the fewest rows.
    rows = -(-SIDE_IN // min(costs, key=lambda strips: costs[strips]))
    strip = -(-SIDE_OUT // -(-SIDE_IN // rows))
    return StemPlan(warps, tiles, len(_cuts(strip)), length, strip, tuple(_cuts(strip)), most // warps, room(length))


def _setup(threads: int, weights: float) -> tuple[Rule, ...]:
    """Loops that run once per block; `weights` is the mean trips of the loops that load them."""
    return (
        Rule(r"^load_weights_of:", weights),
        Rule(r"^(Prologue|ConvBackward|StemFeatures|StemAdjoint|Trunk):.*(c < n|i < 2 \* n)", 1, True),
        Rule(r"^sum_warps:.*count;", 2500 / threads, True),
        Rule(r"^(sum_warps|store_moments):.*w < warp_count", 1),
    )


def _image_shares(arithmetic: str) -> tuple[Rule, ...]:
    """The image has the arithmetic's type and three of four channels."""
    short = arithmetic == "bfloat16"
    return (
        Rule(r"^(minimum|\w*:.*minimum\(x)", 0),  # a slope of at most 1
        Rule(rf"^request:.*request_as<({'float' if short else 'Half'}|uint8_t)>", 0),
        # 16-bit pixels are stored as they are; float32 ones are converted by the first of four ways.
        Rule(r"^(convert:|store:.*convert)" if short else r"^convert:.*(half_to_float\(|map\[c\]|<< 16)", 0),
        Rule(r"^request_as:.*load_element", 0.75),
    )


def _parameters(arithmetic: str) -> tuple[Rule, ...]:
    """Parameters have the arithmetic's type; the two of 16 bits share their load."""
    short = arithmetic == "bfloat16"
    return (
        Rule(rf"^load_parameter:.*({'kFloat32' if short else 'Half|BFloat16'})", 0),
        Rule(rf"^load_weights:load_weights_of<({'float|Half' if short else 'Half|BFloat16'})", 0),
    )


def _stem(arithmetic: str, statistics: bool) -> Case:
    plan = stem_plan(arithmetic)
    rows = 3 if arithmetic == "bfloat16" else 2  # kRows
    threads = 32 * plan.warps
    steps = sum(-(-r // rows) for r in plan.rows) / plan.strips  # of a strip
    emits = SIDE_OUT / plan.strips / (steps * rows)
    all_parts = list(itertools.chain(*_group_parts(plan.tile_outputs, arithmetic)))
    parts = sum(all_parts) / len(all_parts)
    filtered = emits * rows * len(all_parts) / plan.tiles / plan.warps  # groups of a warp in a step of rows
    return Case(
        f"stem {'with' if statistics else 'without'} statistics",
        arithmetic,
        "stem.cu",
        _mangled("stem_kernel", arithmetic, "Li16ELi2E"),
        plan.blocks * plan.warps,
        IN_PIXELS,
        IN_PIXELS * CHANNELS * _size(arithmetic) + _maps(arithmetic, 1),
        plan.items * plan.warps * steps * (rows * 30 + filtered * _STEPS * 2 * parts) * _products(arithmetic),
        (
            Rule(r"^:for \(int64_t item", plan.items / plan.blocks),
            Rule(r"^run_item:.*piece", 1),
            Rule(r"^last_at_most:", 0),  # one tensor
            Rule(r"^clear_bands:.*kBand", plan.fragments * 64 / threads),
            Rule(r"^load_bands:.*i < count", SIDE_OUT / plan.tiles * (_TAPS + 1) / threads),
            Rule(r"^begin:", -(-(rows + 6) // rows)),
            Rule(r"^(filter_more:|run_strip:.*from < kRows)", 0),  # when enlarging, and at the image's end
            Rule(r"^run_strip:", steps),
            Rule(r"^filter_columns:.*group -=", 0.5),
            Rule(r"^filter_columns:.*group \+=", filtered),
            Rule(r"^filter_columns:.*part <", parts),
            Rule(r"^filter_columns:.*s <", _STEPS),
            Rule(r"^compute:", 7),
            Rule(r"^StemFeatures:.*kW1", 32 * 2 * 4 / threads),
            *_setup(threads, 2.5),  # 4 of W0, 1 of W1
        ),
        (
            *_image_shares(arithmetic),
            Rule(r"^put:|^clear:", 1 / 2),  # one of two slots
            Rule(r"^(run_strip|filter_rows):.*filter_more", 0),
            Rule(r"^filter_rows:.*put_slot", emits),
            Rule(r"^\w*:.*p\.partials != nullptr", float(statistics)),
            Rule(r"^count:.*recenter", 1 / 8),
            Rule(r"^filter_columns:.*add_piece", 0),  # windows that do not fit a block
        ),
        (_PAIRED_STORE,) if arithmetic == "bfloat16" else (),
        threads=threads,
    )


def _stem_backward(arithmetic: str, image: bool) -> Case:
    short = arithmetic == "bfloat16"
    warps = 8 if image else 4
    columns = 16 * warps - (6 if image else 0)
    tiles = -(-SIDE_IN // columns)
    resident = SMS * (1 if image else 3 if short else 2)  # blocks
    more = 9 if image else 3
    rows = 3 if short and not image else 1  # kRows
    turns = 1 if image else 2
    height = rows * turns
    lengths = {s: -(-SIDE_IN // (s * height)) * height for s in range(1, 65)}
    costs = {
        s: -(-(math.ceil(SIDE_IN / length) * tiles * BATCH) // resident) * (length + more)
        for s, length in lengths.items()
    }
    strip = lengths[min(costs, key=lambda s: costs[s])]
    strips = -(-SIDE_IN // strip)
    items = BATCH * tiles * strips
    blocks = min(items, resident)
    mean = SIDE_IN / strips
    steps = mean + 6 if image else -(-SIDE_IN // height) / strips
    inside = SIDE_IN / (tiles * columns)  # of the columns computed
    inexact = 2 / 28  # of the warps: the first and the last have weights such as 3/7, of two parts
    read = _OUTPUTS + rows // 2  # rows of dz that image rows read together, the first of which is even
    pull = read * 2 * (1 if arithmetic == "float32" else 1 + inexact) * (inside * mean / steps if image else 1)
    # Rows of 16 pixels. a and c: 30; da: 2; dW0: 28 by the four warps together; dW1: 2; db0 and db1: 1 each.
    products = (32 + 49 * mean / steps) if image else 32 + 28 + 2 + 2
    moved = IN_PIXELS * CHANNELS * _size(arithmetic) * (2 if image else 1) + _maps(arithmetic, 1)
    return Case(
        f"stem_backward {'image' if image else 'weights'}",
        arithmetic,
        "stem_backward.cu",
        _mangled("stem_image_kernel" if image else "stem_weights_kernel", arithmetic),
        blocks * warps,
        IN_PIXELS,
        moved,
        items * warps * steps * turns * (rows * products + pull) * _products(arithmetic),
        (
            Rule(r"^:for \(int64_t item", items / blocks),
            Rule(r"^last_at_most:", 0),  # one tensor
            Rule(r"^begin:", -(-(rows + 6) // rows)),
            Rule(r"^run_item:.*row (=|<)", steps),
            Rule(r"^run_item:.*y (=|<)", turns),
            Rule(r"^request:.*end <", rows / 2),
            Rule(r"^add:.*s < steps", 1),
            Rule(r"^add:.*o < read", read),
            Rule(r"^add:.*w < kStemWarps", 4),
            Rule(r"^compute:", 7),
            Rule(r"^write_row:", 7),
            *_setup(32 * warps, 2),  # as in _stem
        ),
        (
            *_image_shares(arithmetic),
            # A warp whose columns are all beyond the image pulls nothing.
            Rule(r"^add:.*(o < read|steps > 1|multiply\(e)", inside * mean / steps if image else 1),
            Rule(r"^add:(if \(steps > 1|if \(o == end)", 0),  # more than 16 outputs; rows that were not requested ahead
            # Columns and rows beyond the image, of a warp's first 16 or of a strip's last rows.
            *(() if image else (Rule(r"clear_outside:", 0),)),
            Rule(r"^add:if \(kRounded", inexact),
            Rule(r"^add:.*multiply\(db\[0\]", 1 / 4),  # of the warp's own pixels
            Rule(r"^add:.*(weight|dc\[q\]\[v)", _OUTPUTS / read),  # the rows that an image row does not read
            Rule(r"^write_row:", mean / steps if image else 1),
            # dx has the arithmetic's type.
            Rule(rf"^store:.*\(dx\).*{'(value;|to_half)' if short else '(to_half|to_bfloat16)'}", 0),
        ),
        # 32-bit maps are [pixel][24]. Operands whose terms are pixels: 0, 2, 4 and 6 are in two groups of banks. Reads
        # of 16 bytes: half of a pixel's banks are its neighbour's; of write_row's three reads a step, two are such.
        (_PAIRED_STORE,)
        if short
        else (("LDS", Rule(r"^load_a:.*pixel\[|^load_b:.*gather", 2.0)), ("LDS", Rule(r"^write_row:", 5 / 3))),
        threads=32 * warps,
        # Of the loads of a step's rows, some threads' are beyond them.
        memory=(Memory(r"^request_as:", "dram", rows * (16 * warps + 8) / ((rows + 2) // 2 * 32 * warps)),),
    )


def _across(rows: int) -> int:
    return BATCH * -(-SIDE_OUT // rows) * -(-SIDE_OUT // 32)


def _loader(
    pixels: int, together: int, chunks: int, skip: bool, activation: float, caller: str = ""
) -> tuple[Rule, ...]:
    """TileLoader::load of a tile: passes of the block, `together` of them a batch."""
    passes = -(-pixels // (256 // chunks))
    return (
        Rule(r"^load:.*batch", -(-passes // together)),
        Rule(rf"^load:.*kTogether, {'false' if skip else 'true'}>", 0, within=caller),
        Rule(r"^load:.*v\[j\] \*= source", activation, within=caller),
    )


def _conv(arithmetic: str, backward: bool, skip: bool) -> Case:
    stride = FILTERS * _size(arithmetic)
    limit = (32, 16, 8) if not backward else (16, 8, 4)
    height = limit[0 if stride <= 32 else 1 if stride <= 96 else 2]
    tiles = _across(height)
    blocks = min(tiles, 2 * SMS)
    chunks = FILTERS * _size(arithmetic) // 16
    short = arithmetic == "bfloat16"
    down = 4 if short else 1  # rows of dW's products together
    # Rows of 16 pixels: 3x3 has 9 steps by 2 column tiles; dW has 9 taps by 2.
    products = tiles * 2 * height * 18 * (2 if backward else 1) * _products(arithmetic)
    # Of the two convolutions without a skip one has an activation before it.
    activation = 0 if skip else 1 / 2
    together = 5 if not backward else 1 if arithmetic == "float32" else 3
    batch, *source = _loader(
        34 * (height + 2), together, chunks, skip, activation, r"^load:.*load\(v," if backward else ""
    )
    if backward:
        # g is made from draw and raw.
        source += _loader(34 * (height + 2), together, chunks, True, 0, r"^load:.*load\(g,")[1:]
    return Case(
        f"conv {'backward' if backward else 'forward'}{' with skip' if skip else ''}",
        arithmetic,
        "conv.cu",
        _mangled("conv_backward_kernel" if backward else "conv_kernel", arithmetic),
        blocks * 8,
        OUT_PIXELS,
        # Forward: t, u and raw. Backward: t, u, raw, draw, dt and du, and what earlier uses of the first feature left:
        # it is the skip's, and the input of one of the two without a skip.
        _maps(arithmetic, (4.5 if backward else 2) + skip * (2.5 if backward else 1)),
        products,
        (
            Rule(r"^\w*:for \(uint32_t i =", tiles / blocks),
            batch,
            Rule(r"^(convolve|data):.*unit <", 2 * height / 4 / 8),
            Rule(r"^weight_products:", 2 * (height / down) / 4),
            Rule(r"^multiply:.*dx", 3),
            Rule(r"^multiply:.*s < kSteps", 1),
            *_setup(256, 1),
        ),
        (*source, Rule(_EARLIER, 1 / 2), *(() if skip else (Rule(_SKIP, 0),))),
        # 32 bits, pixels of 64 bytes: 0, 2, 4 and 6 are in one bank.
        () if short else (("LDS", Rule(r"^weight_products:", 4.0)),),
    )


def _trunk(tail: bool) -> Case:
    side = 26 if tail else 30
    tiles = BATCH * (-(-SIDE_OUT // side)) ** 2
    blocks = min(tiles, 2 * SMS)
    # 16 units of 4 rows of 16 pixels; the tail's 7x7 makes 32 pixels a product: 7 units of 4 rows, 56 taps.
    products = tiles * (16 * 72 + (7 * 4 * 56 if tail else 16 * 72))
    batch, *source = _loader(34 * 34, 5, 2, tail, 0)
    return Case(
        f"trunk {'tail' if tail else 'block'}",
        "bfloat16",
        "trunk.cu",
        _mangled("trunk_kernel", "bfloat16", rf"LNS_11TrunkKernelE{int(tail)}E"),
        blocks * 8,
        OUT_PIXELS,
        _maps("bfloat16", 2, 2 if tail else 0),
        products,
        (
            Rule(r"^\w*:for \(uint32_t i =", tiles / blocks),
            batch,
            Rule(r"^(fill_middle|finish_block):.*unit", 2),
            Rule(r"^finish_tail:.*unit", 7 / 8),
            Rule(r"^multiply:.*dx", 8),
            *_setup(256, 5 / 2 if tail else 1),  # 1 of 3x3, 4 of 7x7
        ),
        (*source, Rule(_WIDE_IMAGE, 0)),
    )


def _head(arithmetic: str, backward: bool) -> Case:
    stride = FILTERS * _size(arithmetic)
    height = 16 if backward else 32 if stride <= 32 else 16
    tiles = _across(height)
    blocks = min(tiles, 2 * SMS)
    chunks = FILTERS * _size(arithmetic) // 16
    down = 4 if arithmetic == "bfloat16" else 2
    # Forward: 32 pixels a product, 56 taps. Backward, rows of 16 pixels: 14 steps by 2 column tiles, and as many for dW
    # with the two warps that share them.
    products = tiles * height * (56 if not backward else 2 * (28 + 28)) * _products(arithmetic)
    batch, *source = _loader(32 * height if backward else 38 * (height + 6), 2 if backward else 5, chunks, True, 0)
    return Case(
        f"head {'backward' if backward else 'forward'}",
        arithmetic,
        "head.cu",
        _mangled("head_backward_kernel" if backward else "head_kernel", arithmetic),
        blocks * 8,
        OUT_PIXELS,
        # Forward: t, u, base and result. Backward: t, u, dy, dt and du.
        _maps(arithmetic, 4, 1) if backward else _maps(arithmetic, 2, 2),
        products,
        (
            Rule(r"^\w*:for \(uint32_t i =", tiles / blocks),
            batch,
            Rule(r"^load_grad:", (height + 6) * 40 / 512),
            Rule(r"^multiply:.*dx", 8),
            Rule(r"^multiply:.*s < kSteps", 1),
            Rule(r"^data:.*part", height / 4 / 2),
            Rule(r"^data:.*s < 2", 2),
            Rule(r"^weight_products:", 2 * (height / down) / 2),
            *_setup(256, 2 if backward else 4),
        ),
        (
            *source,
            Rule(_EARLIER, 0),
            *((Rule(_WIDE_IMAGE, 0),) if arithmetic == "bfloat16" else ()),
        ),
        ((_PAIRED_STORE,) if backward else ())
        if arithmetic == "bfloat16"
        else (("LDS", Rule(r"^weight_products:.*load_pixels_b", 4.0)),),
    )


@contextmanager
def batch_of(images: int) -> Iterator[None]:
    """Cases of a batch of so many images instead of 64."""
    global BATCH, IN_PIXELS, OUT_PIXELS
    before = BATCH
    BATCH, IN_PIXELS, OUT_PIXELS = images, images * SIDE_IN**2, images * SIDE_OUT**2
    try:
        yield
    finally:
        BATCH, IN_PIXELS, OUT_PIXELS = before, before * SIDE_IN**2, before * SIDE_OUT**2


# Runs of each kernel in a call of the resizer with one block. Left out: the resize of the image and the reductions.
INFERENCE = {"stem without statistics": 1, "trunk block": 1, "trunk tail": 1}
INFERENCE_32_BIT = {
    "stem without statistics": 1,
    "conv forward": 2,
    "conv forward with skip": 1,
    "head forward": 1,
}
TRAINING = {
    "stem with statistics": 1,
    "conv forward": 2,
    "conv forward with skip": 1,
    "head forward": 1,
    "head backward": 1,
    "conv backward with skip": 1,
    "conv backward": 2,
    "stem_backward weights": 1,
}


def cases(arithmetics: Iterable[str] = ARITHMETICS) -> list[Case]:
    """All kernels of the given arithmetics; the trunk's exist for the 16-bit ones only."""
    result = []
    for arithmetic in arithmetics:
        result.append(_stem(arithmetic, False))
        if arithmetic == "bfloat16":
            result += [_trunk(False), _trunk(True)]
        result.append(_stem(arithmetic, True))
        result += [_conv(arithmetic, False, False), _conv(arithmetic, False, True), _head(arithmetic, False)]
        result += [_head(arithmetic, True), _conv(arithmetic, True, True), _conv(arithmetic, True, False)]
        result += [_stem_backward(arithmetic, False), _stem_backward(arithmetic, True)]
    return [replace(case, shares=(*case.shares, *_parameters(case.arithmetic))) for case in result]
