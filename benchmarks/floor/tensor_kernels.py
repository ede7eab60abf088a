"""The kernels that tensor.py counts: trips of loops, shares of branches, bytes moved.

Trips are those of an average warp each time it enters the loop; the expressions follow the sources.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.floor.disassembly import SMS

BATCH, CHANNELS, FILTERS = 64, 3, 16
SIDE_IN, SIDE_OUT = 448, 224
ARITHMETICS = {"bfloat16": 0, "tf32": 2, "float32": 3}  # as in fragment.cuh
_TAPS, _OUTPUTS = 4, 2  # inputs of an output and outputs of an input, bilinear with antialias at 2x


@dataclass(frozen=True)
class Rule:
    """`trips` of the loop whose closing line matches `pattern` ("function:line"), or a factor for matches."""

    pattern: str
    trips: float
    unrolled: bool = False  # the compiler makes two loops of it: four at a time, and the rest


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


_NO_SKIP = Rule(r"skip|u\.word", 0)
_EARLIER = r"^store_total:.*(earlier !=|e\.word|const auto e)"
# 16-bit image rings and dy keep a pixel with its right neighbour: two stores of 8 bytes, 16 bytes from lane to lane.
_PAIRED_STORE = ("STS", Rule(r"^store:.*Four<S>\*>\(to|^load:.*\(grad \+", 2.0))
# 32-bit pixels of 64 bytes: 0 and 2 are in one bank, where the prologue's adjoint reads 8 bytes of each.
_WIDE_ADJOINT = ("LDS", Rule(r"^adjoint:.*decode\(v\[", 2.0))
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
    """The plan of stem_plan.cpp for bilinear at 2x; a test compares it with the module where that is built."""

    warps: int
    tiles: int
    strips: int
    tile_outputs: int
    strip_outputs: int
    rows: tuple[int, ...]  # image rows of each strip
    resident: int  # blocks on a multiprocessor

    @property
    def items(self) -> int:
        return BATCH * self.strips * self.tiles

    @property
    def blocks(self) -> int:
        return min(self.items, SMS * self.resident)


def _cuts(length: int) -> list[int]:
    """Inputs of runs of `length` outputs: the band of output o is 2o - 1 ... 2o + 2, within the image."""
    ranges = [(first, min(first + length, SIDE_OUT)) for first in range(0, SIDE_OUT, length)]
    return [min(2 * last + 1, SIDE_IN) - max(2 * first - 1, 0) for first, last in ranges]


def stem_plan(most: int = 16) -> StemPlan:
    """For a kernel of whose warps `most` are resident: 16 with 16-bit elements, 12 otherwise."""
    least, warps, length = math.inf, 0, 0
    for count in range(1, SIDE_OUT + 1):
        outputs = -(-SIDE_OUT // count)
        wide = max(-(-max(_cuts(outputs)) // 16), 2)
        resident = most // wide * wide
        if wide <= 8 and (cost := (16 * wide + 2) * len(_cuts(outputs)) * (resident + 8) / resident) < least:
            least, warps, length = cost, wide, outputs
        if wide == 2:
            break
    tiles = len(_cuts(length))
    resident = SMS * (most // warps)
    costs = {
        strips: -(-strips * BATCH * tiles // resident) * (-(-SIDE_IN // strips) + _TAPS + 8) for strips in range(1, 65)
    }
    strip = -(-SIDE_OUT // min(costs, key=lambda strips: costs[strips]))
    return StemPlan(warps, tiles, len(_cuts(strip)), length, strip, tuple(_cuts(strip)), most // warps)


def _setup(threads: int, weights: int) -> tuple[Rule, ...]:
    """Loops that run once per block; their exact count does not matter."""
    return (
        Rule(r"^(StemFeatures|StemAdjoint|StemImageGradient|Conv|Head\w+):.*(kW0|kW1|kWeights)", weights / threads),
        Rule(r"^(load_weights|load_head_weights):", weights / threads),
        Rule(r"^(Prologue|Conv|StemFeatures|StemAdjoint|Trunk):.*(c < n|i < [23] \* n)", 1, True),
        Rule(r"^(finish):.*(kElements|elements|count);", 2500 / threads, True),
        Rule(r"^(finish|store_moments):.*w < warp_count", 1),
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


def _stem(arithmetic: str, statistics: bool) -> Case:
    plan = stem_plan(16 if arithmetic == "bfloat16" else 12)
    rows = 3 if arithmetic == "bfloat16" else 2  # kRows
    threads = 32 * plan.warps
    steps = sum(-(-r // rows) for r in plan.rows) / plan.strips  # of a strip
    emits = SIDE_OUT / plan.strips / (steps * rows)
    groups = -(-plan.tile_outputs // 16)
    parts = 1 if arithmetic == "float32" else 2  # of a weight: those at the image's edge are sevenths
    columns = -(-(15 * 2 + _TAPS) // 16)  # steps of the horizontal filter: 16 columns each
    filtered = emits * rows * groups / plan.warps  # products of a warp in a step of rows
    return Case(
        f"stem {'with' if statistics else 'without'} statistics",
        arithmetic,
        "stem.cu",
        _mangled("stem_kernel", arithmetic, "Li16ELi2E"),
        plan.blocks * plan.warps,
        IN_PIXELS,
        IN_PIXELS * CHANNELS * _size(arithmetic) + _maps(arithmetic, 1),
        plan.items * plan.warps * steps * (rows * 30 + filtered * columns * 2 * parts) * _products(arithmetic),
        (
            Rule(r"^:for \(int64_t item", plan.items / plan.blocks),
            Rule(r"^run_item:.*piece", 1),
            Rule(r"^run_item:.*kBand", groups * columns * 64 / threads),
            Rule(r"^load_bands:.*i < count", plan.tile_outputs * _TAPS / threads),
            Rule(r"^load_bands:", 1),
            Rule(r"^begin:", -(-(rows + 6) // rows)),
            Rule(r"^(filter_more:|run_strip:.*from < kRows)", 0),  # when enlarging, and at the image's end
            Rule(r"^run_strip:", steps),
            Rule(r"^filter_columns:.*group -=", 0.5),
            Rule(r"^filter_columns:.*group \+=", filtered),
            Rule(r"^filter_columns:.*part <", parts),
            Rule(r"^filter_columns:.*s <", columns),
            Rule(r"^compute:", 7),
            Rule(r"^StemFeatures:.*kW1", 32 * 2 * 4 / threads),
            *_setup(threads, 7 * 2 * 32 * 2 * 4),
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
    )


def _stem_backward(arithmetic: str, image: bool) -> Case:
    warps = 8
    columns = 16 * warps - (6 if image else 0)
    tiles = -(-SIDE_IN // columns)
    costs = {s: -(-s * tiles * BATCH // SMS) * (-(-SIDE_IN // s) + 6) for s in range(1, 65)}
    strip = -(-SIDE_IN // min(costs, key=lambda s: costs[s]))
    strips = -(-SIDE_IN // strip)
    items = BATCH * tiles * strips
    blocks = min(items, SMS)
    rows = 2 if arithmetic == "bfloat16" and not image else 1
    mean = SIDE_IN / strips
    steps = mean + 6 if image else math.ceil(mean / rows)
    inside = SIDE_IN / (tiles * 16 * warps)  # of the columns computed
    features = 30 + 2  # a and c, and da
    products = (features + 49 * mean / steps) if image else features + 7 * 4 + 2
    moved = IN_PIXELS * CHANNELS * _size(arithmetic) * (2 if image else 1) + _maps(arithmetic, 1)
    return Case(
        f"stem_backward {'image' if image else 'weights'}",
        arithmetic,
        "stem_backward.cu",
        _mangled("stem_image_kernel" if image else "stem_weights_kernel", arithmetic),
        blocks * warps,
        IN_PIXELS,
        moved,
        items * warps * steps * rows * products * _products(arithmetic),
        (
            Rule(r"^:for \(int64_t item", items / blocks),
            Rule(r"^begin:", -(-(rows + 6) // rows)),
            Rule(r"^run_item:.*row (=|<)", steps),
            Rule(r"^compute:", 7),
            Rule(r"^pull:.*count", _OUTPUTS),
            Rule(r"^pull:.*tap", _OUTPUTS),
            Rule(r"^write_row:", 7),
            *_setup(32 * warps, 7 * 2 * 32 * 2 * 4),
        ),
        (
            *_image_shares(arithmetic),
            # A warp whose columns are all beyond the image skips them.
            Rule(r"^pull:", min(inside * (mean / steps if image else 1), 1)),
            Rule(r"^write_row:", mean / steps if image else 1),
        ),
        # 32-bit maps are [pixel][24]. Operands whose terms are pixels: 0, 2, 4 and 6 are in two groups of banks. Reads
        # of 16 bytes: half of a pixel's banks are its neighbour's; of write_row's three reads a step, two are such.
        (_PAIRED_STORE,)
        if arithmetic == "bfloat16"
        else (("LDS", Rule(r"^load_a:.*pixel\[|^load_b:.*gather", 2.0)), ("LDS", Rule(r"^write_row:", 5 / 3))),
    )


def _across(rows: int) -> int:
    return BATCH * -(-SIDE_OUT // rows) * -(-SIDE_OUT // 32)


def _conv(arithmetic: str, backward: bool, skip: bool) -> Case:
    stride = FILTERS * _size(arithmetic)
    limit = (32, 16, 8) if not backward else (16, 8, 4)
    height = limit[0 if stride <= 32 else 1 if stride <= 96 else 2]
    tiles = _across(height)
    blocks = min(tiles, 2 * SMS)
    units = 2 * height / 4
    chunks = FILTERS * _size(arithmetic) // 16
    short = arithmetic == "bfloat16"
    # Rows of 16 pixels: 3x3 has 9 steps by 2 column tiles; dW has 9 taps by 2.
    products = tiles * 2 * height * 18 * (2 if backward else 1) * _products(arithmetic)
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
            Rule(r"^:for \(int64_t tile", tiles / blocks),
            Rule(r"^load:.*kPixels", 34 * (height + 2) * chunks / 256),
            Rule(r"^(forward|backward_data):.*unit", units / 8),
            Rule(r"^backward_weights:", 2 * height / 8),
            Rule(r"^convolve:.*dx", 3),
            Rule(r"^convolve:.*s < kSteps", 1),
            *_setup(256, 9 * 32 * 2 * 4),
        ),
        (Rule(_EARLIER, 1 / 2), *(() if skip else (_NO_SKIP,))),
        ()
        if short
        # Pixels of 64 bytes: 0, 2, 4 and 6 are in one bank.
        else (("LDS", Rule(r"^backward_weights:", 4.0)), _WIDE_ADJOINT),
    )


def _trunk(tail: bool) -> Case:
    side = 26 if tail else 30
    tiles = BATCH * (-(-SIDE_OUT // side)) ** 2
    blocks = min(tiles, 2 * SMS)
    # 16 units of 4 rows of 16 pixels; the tail's 7x7 makes 32 pixels a product: 7 units of 4 rows, 56 taps.
    products = tiles * (16 * 72 + (7 * 4 * 56 if tail else 16 * 72))
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
            Rule(r"^:for \(int64_t tile", tiles / blocks),
            Rule(r"^load_source:", 34 * 34 * 2 / 256),
            Rule(r"^(fill_middle|finish_block):.*unit", 2),
            Rule(r"^finish_tail:.*unit", 7 / 8),
            Rule(r"^finish_tail:.*dx", 8),
            Rule(r"^load_head_weights:", 7 * 8 * 32 * 4 / 256),
            *_setup(256, 9 * 32 * 2 * 4),
        ),
        (Rule(r"^store_result:.*float\*>", 0),) if tail else (_NO_SKIP,),
        # Eight neighbouring columns are four even ones and four odd ones, 16 pixels apart: in the same banks.
        (("STS", Rule(r"^fill_middle:", 2.0)),) if tail else (),
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
            Rule(r"^:for \(int64_t i =", tiles / blocks),
            Rule(r"^load:.*kPixels", 38 * (height + 6) * chunks / 256),
            Rule(r"^load:.*kHeight", height * 32 * chunks / 256),
            Rule(r"^load:.*kTall", (height + 6) * 40 / 256),
            Rule(r"^convolve:.*dx", 8),
            Rule(r"^convolve:.*s < kSteps", 1),
            Rule(r"^data:.*part", height / 4 / 2),
            Rule(r"^data:.*s < 2", 2),
            Rule(r"^weight_products:", 2 * (height / down) / 4),
            *_setup(256, 7 * 8 * 32 * 4),
        ),
        (
            Rule(_EARLIER, 0),
            Rule(r"^load:.*read_element", 0.75),
            *(
                [Rule(r"^(read_element|store):.*const float\*|static_cast<float\*>", 0)]
                if arithmetic == "bfloat16"
                else []
            ),
        ),
        # Forward, 16 bits: of four neighbouring pixels, two even and two odd columns, the first and the last meet.
        (_PAIRED_STORE if backward else ("STS", Rule(r"^store_chunk:", 2.0)),)
        if arithmetic == "bfloat16"
        else (("LDS", Rule(r"^weight_products:.*load_pixels_b", 4.0)), _WIDE_ADJOINT),
    )


# Runs of each kernel in a call of the resizer with one block. Left out: the resize of the image (bound by DRAM) and the
# reductions.
INFERENCE = {"stem without statistics": 1, "trunk block": 1, "trunk tail": 1}
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
    return result
