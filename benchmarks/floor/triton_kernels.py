"""Triton prototypes of the stem, the 3×3 and the head for any number of filters.

Not used by the package: filters.py counts their instructions, and the tests run them under the interpreter. They do
what the kernels of csrc/core do, at a factor of 2 and bilinear with antialias, in the form that suits Triton. A
program walks down a strip of COLS columns. Each row of the input is loaded once for every horizontal shift and
multiplied by the weights of all kernel rows, into a ring of sums that are the rows not yet complete: what is applied
on loading is applied once a shift (3 or 7 times), not once a tap (9 or 49 times).

NP and NK are the number of filters n rounded up to a power of two, at least 8 as columns of a product and 16
as its terms. KP terms of a product, of CHUNKS of them, are channels of neighbouring pixels, which lie next to
each other in NHWC. Loads of the last columns read beyond a padded image, where memory must follow.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def leaky(x, slope):
    return tl.maximum(x, x * slope)


@triton.jit
def store_moments(mean, m2, valid, rows, moments, n: tl.constexpr, NP: tl.constexpr):
    """Count, mean and M2 a channel of a program, from those a column over `rows` rows (Chan, Golub & LeVeque 1983)."""
    count = tl.sum(valid, 0) * rows
    center = tl.sum(tl.where(valid[:, None] > 0, mean, 0.0), 0) * rows / count
    delta = mean - center[None, :]
    total = tl.sum(tl.where(valid[:, None] > 0, m2 + rows * delta * delta, 0.0), 0)
    c = tl.arange(0, NP)
    at = moments + tl.program_id(0) * (3 * n) + c
    tl.store(at, tl.zeros((NP,), tl.float32) + count, c < n)
    tl.store(at + n, center, c < n)
    tl.store(at + 2 * n, total, c < n)


@triton.jit
def stem_forward(
    image,  # [B, H + 6, W + 8, C], zeros around, in the arithmetic's dtype
    w0,  # [7, KP, NK], kernel row y, term dx * C + c; zero padding
    b0,  # float32 [NK]
    w1,  # [NK, NP]
    b1,  # float32 [NP]
    rows,  # float32 [tiles, OUTS, COLS]: the horizontal band matrix of each tile
    first,  # int32 [tiles, 2]: first column and first output of a tile
    weights,  # float32 [H, 2]: what an image row adds to the open output rows
    z,  # [B, h, w, n]
    moments,  # float32 [programs, 3, n]
    H,
    W,
    h,
    w,
    slope,
    n: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    NP: tl.constexpr,
    NK: tl.constexpr,
    COLS: tl.constexpr,
    OUTS: tl.constexpr,
    STRIP: tl.constexpr,  # output rows of a program
    TILES: tl.constexpr,
    STRIPS: tl.constexpr,
    STATISTICS: tl.constexpr,
):
    pid = tl.program_id(0)
    tile, strip, b = pid % TILES, pid // TILES % STRIPS, pid // (TILES * STRIPS)
    left = tl.load(first + 2 * tile)
    out_left = tl.load(first + 2 * tile + 1)
    out_right = tl.load(first + 2 * tile + 3)
    dtype: tl.constexpr = image.dtype.element_ty
    x, k, c = tl.arange(0, COLS), tl.arange(0, KP), tl.arange(0, NP)
    top = 2 * STRIP * strip - 1  # first image row whose features this strip needs
    line = image + (b * (H + 6) + top) * (W + 8) * C + (left + x[:, None]) * C + k[None, :]
    kk = tl.arange(0, NK)
    at = w0 + k[:, None] * NK + kk[None, :]
    v0, v1, v2 = tl.load(at), tl.load(at + KP * NK), tl.load(at + 2 * KP * NK)
    v3, v4, v5 = tl.load(at + 3 * KP * NK), tl.load(at + 4 * KP * NK), tl.load(at + 5 * KP * NK)
    v6 = tl.load(at + 6 * KP * NK)
    v = tl.load(w1 + kk[:, None] * NP + c[None, :])
    bias0, bias1 = tl.load(b0 + kk)[None, :], tl.load(b1 + c)[None, :]
    o = tl.arange(0, OUTS)
    band = tl.load(rows + (tile * OUTS + o[:, None]) * COLS + x[None, :])
    out_x = out_left + o
    out = z + (b * h * w + out_x[:, None]) * n + c[None, :]
    inside = (out_x < out_right)[:, None] & (c < n)[None, :]

    r0 = tl.zeros((COLS, NK), tl.float32)
    r1, r2, r3, r4, r5 = r0, r0, r0, r0, r0
    z0 = tl.zeros((COLS, NP), tl.float32)
    z1, mean, m2 = z0, z0, z0
    seen = 0.0
    for r in range(2 * STRIP + 8):
        y = top + r - 6  # the row of features that this image row completes
        a = tl.load(line, (top + r >= 0) & (top + r < H + 6), 0.0)
        line += (W + 8) * C
        r0 = tl.dot(a, v6, r0)
        r1 = tl.dot(a, v5, r1)
        r2 = tl.dot(a, v4, r2)
        r3 = tl.dot(a, v3, r3)
        r4 = tl.dot(a, v2, r4)
        r5 = tl.dot(a, v1, r5)
        r6 = tl.dot(a, v0)
        f = leaky(r0 + bias0, slope).to(dtype)
        f = leaky(tl.dot(f, v) + bias1, slope)
        r0, r1, r2, r3, r4, r5 = r1, r2, r3, r4, r5, r6
        if STATISTICS:
            # Rows and columns that belong to this program: outputs at 2x own two.
            own = ((r >= 7) & (r < 2 * STRIP + 7) & (y < H)).to(tl.float32)
            seen += own
            delta = f - mean
            mean += delta * (own / tl.maximum(seen, 1.0))
            m2 += delta * (f - mean) * own
        in_y = (y >= 0) & (y < H) & (r >= 6)
        near = tl.load(weights + 2 * y, in_y, 0.0)
        far = tl.load(weights + 2 * y + 1, in_y, 0.0)
        z0 += near * f
        z1 += far * f
        if y % 2 == 0:
            emitted = tl.dot(band, z0, input_precision="tf32").to(dtype)  # every second row
            row = y // 2 - 1  # every second row
            tl.store(out + row * w * n, emitted, inside & (r >= 9) & (row < h))  # every second row
            z0 = z1  # every second row
            z1 = tl.zeros((COLS, NP), tl.float32)  # every second row
    if STATISTICS:
        own_x = ((x + left >= 2 * out_left) & (x + left < tl.minimum(2 * out_right, W))).to(tl.float32)
        store_moments(mean, m2, own_x, seen, moments, n, NP)


@triton.jit
def conv_forward(
    t,  # [B, h, w, n]
    u,  # [B, h, w, n], the skip
    vectors,  # float32 [3, 3n]: scale, shift (of both), skip_scale, three times each
    weight,  # [3, CHUNKS * KP, NP]: kernel row, term (kernel column * n + channel), filter; zero padding
    raw,  # [B, h, w, n]
    moments,  # float32 [programs, 3, n]
    h,
    w,
    slope,
    n: tl.constexpr,
    CHUNKS: tl.constexpr,
    KP: tl.constexpr,
    NP: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    STRIPS: tl.constexpr,
    SKIP: tl.constexpr,
    STATISTICS: tl.constexpr,
):
    pid = tl.program_id(0)
    tile, strip, b = pid % TILES, pid // TILES % STRIPS, pid // (TILES * STRIPS)
    dtype: tl.constexpr = t.dtype.element_ty
    x, c = tile * COLS + tl.arange(0, COLS), tl.arange(0, NP)
    top = strip * ROWS - 1
    # The three pixels x - 1 ... x + 1 of a row are 3n neighbouring elements.
    start = ((b * h + top) * w + x[:, None] - 1) * n
    out = raw + ((b * h + top - 1) * w + x[:, None]) * n + c[None, :]
    inside = (x < w)[:, None] & (c < n)[None, :]
    vector, kernels = (), ()
    for chunk in tl.static_range(CHUNKS):
        k = chunk * KP + tl.arange(0, KP)
        at, some = vectors + k, k < 3 * n
        vector += ((tl.load(at, some, 0.0), tl.load(at + 3 * n, some, 0.0), tl.load(at + 6 * n, some, 0.0)),)
        at = weight + k[:, None] * NP + c[None, :]
        kernels += ((tl.load(at + 2 * CHUNKS * KP * NP), tl.load(at + CHUNKS * KP * NP), tl.load(at)),)
    s0 = tl.zeros((COLS, NP), tl.float32)
    s1, mean, m2 = s0, s0, s0
    seen = 0.0
    for r in range(ROWS + 2):
        y = top + r
        row = (y >= 0) & (y < h)
        s2 = tl.zeros((COLS, NP), tl.float32)
        for chunk in tl.static_range(CHUNKS):
            k = chunk * KP + tl.arange(0, KP)
            px = x[:, None] - 1 + (k // n)[None, :]
            ok = (px >= 0) & (px < w) & (k < 3 * n)[None, :] & row
            scale, shift, skip = vector[chunk]
            v = tl.load(t + start + k[None, :], ok, 0.0).to(tl.float32) * scale[None, :] + shift[None, :]
            if SKIP:
                v += tl.load(u + start + k[None, :], ok, 0.0).to(tl.float32) * skip[None, :]
            v = tl.where(ok, leaky(v, slope), 0.0).to(dtype)
            below, at_y, above = kernels[chunk]
            s0 = tl.dot(v, below, s0)
            s1 = tl.dot(v, at_y, s1)
            s2 = tl.dot(v, above, s2)
        done = (r >= 2) & (y - 1 < h)
        value = s0.to(dtype)
        tl.store(out, value, inside & done)
        if STATISTICS:
            own = done.to(tl.float32)
            seen += own
            delta = value.to(tl.float32) - mean
            mean += delta * (own / tl.maximum(seen, 1.0))
            m2 += delta * (value.to(tl.float32) - mean) * own
        s0, s1 = s1, s2
        start += w * n
        out += w * n
    if STATISTICS:
        store_moments(mean, m2, (x < w).to(tl.float32), seen, moments, n, NP)


@triton.jit
def conv_backward(
    t,  # [B, h, w, n]
    u,  # [B, h, w, n], the skip
    vectors,  # float32 [3, NK]: scale, shift (of both), skip_scale
    grad,  # [B, h, w, n], of the raw result
    raw,  # [B, h, w, n]
    terms,  # float32 [2, 3n]: g = grad + terms[1] raw + terms[0], three times each
    weight,  # [3, CHUNKS * KP, NK]: v's row below, at and above g's; term (column * n + filter), channel; zero padding
    dt,  # [B, h, w, n]
    du,  # [B, h, w, n]
    dweight,  # float32 [programs, 3, NK, CHUNKS * KP], indexed as weight, transposed
    sums,  # float32 [programs, 3, NK]: of g' t, g', g' u
    h,
    w,
    slope,
    n: tl.constexpr,
    CHUNKS: tl.constexpr,
    KP: tl.constexpr,
    NK: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    STRIPS: tl.constexpr,
    SKIP: tl.constexpr,
):
    pid = tl.program_id(0)
    tile, strip, b = pid % TILES, pid // TILES % STRIPS, pid // (TILES * STRIPS)
    dtype: tl.constexpr = t.dtype.element_ty
    x, c = tile * COLS + tl.arange(0, COLS), tl.arange(0, NK)
    scale, shift = tl.load(vectors + c)[None, :], tl.load(vectors + NK + c)[None, :]
    skip = tl.load(vectors + 2 * NK + c)[None, :]
    top = strip * ROWS - 1
    start = ((b * h + top) * w + x[:, None] - 1) * n
    own = ((b * h + top - 1) * w + x[:, None]) * n + c[None, :]  # row and column of what dv completes
    inside = (x < w)[:, None] & (c < n)[None, :]
    s0 = tl.zeros((COLS, NK), tl.float32)
    s1, sum_t, sum_g, sum_u = s0, s0, s0, s0
    # v in the rows below, at and above g's; zero outside the strip, so that a product belongs to one program.
    v0 = tl.zeros((COLS, NK), dtype)
    v1 = v0
    none = tl.zeros((NK, KP), tl.float32)
    dw, term, kernels = (), (), ()
    for chunk in tl.static_range(CHUNKS):
        k = chunk * KP + tl.arange(0, KP)
        dw += ((none, none, none),)
        term += ((tl.load(terms + k, k < 3 * n, 0.0), tl.load(terms + 3 * n + k, k < 3 * n, 0.0)),)
        at = weight + k[:, None] * NK + c[None, :]
        kernels += ((tl.load(at), tl.load(at + CHUNKS * KP * NK), tl.load(at + 2 * CHUNKS * KP * NK)),)
    for r in range(ROWS + 2):
        y = top + r
        row = (y >= 0) & (y < h)
        ahead = inside & (r < ROWS) & (y + 1 < h)
        v2 = tl.load(t + own + 2 * w * n, ahead, 0.0).to(tl.float32) * scale + shift
        if SKIP:
            v2 += tl.load(u + own + 2 * w * n, ahead, 0.0).to(tl.float32) * skip
        v2 = tl.where(ahead, leaky(v2, slope), 0.0).to(dtype)
        s2 = tl.zeros((COLS, NK), tl.float32)
        updated = ()
        for chunk in tl.static_range(CHUNKS):
            k = chunk * KP + tl.arange(0, KP)
            px = x[:, None] - 1 + (k // n)[None, :]
            ok = (px >= 0) & (px < w) & (k < 3 * n)[None, :] & row
            common, each = term[chunk]
            g = tl.load(grad + start + k[None, :], ok, 0.0).to(tl.float32) + common[None, :]
            g += tl.load(raw + start + k[None, :], ok, 0.0).to(tl.float32) * each[None, :]
            g = tl.where(ok, g, 0.0).to(dtype)
            above, at_y, below = kernels[chunk]
            s0 = tl.dot(g, above, s0)
            s1 = tl.dot(g, at_y, s1)
            s2 = tl.dot(g, below, s2)
            d0, d1, d2 = dw[chunk]
            updated += ((tl.dot(v0.T, g, d0), tl.dot(v1.T, g, d1), tl.dot(v2.T, g, d2)),)
        dw = updated
        done = inside & (r >= 2) & (y - 1 < h)
        g = tl.where(done, tl.where(v0 > 0, s0, s0 * slope), 0.0)
        value = tl.load(t + own, done, 0.0).to(tl.float32)
        sum_t += g * value
        sum_g += g
        tl.store(dt + own, (g * scale).to(dtype), done)
        if SKIP:
            sum_u += g * tl.load(u + own, done, 0.0).to(tl.float32)
            tl.store(du + own, (g * skip).to(dtype), done)
        s0, s1 = s1, s2
        v0, v1 = v1, v2
        start += w * n
        own += w * n
    q = tl.arange(0, NK)
    for chunk in tl.static_range(CHUNKS):
        k = chunk * KP + tl.arange(0, KP)
        for i in tl.static_range(3):
            at = dweight + ((pid * 3 + i) * NK + q[:, None]) * (CHUNKS * KP) + k[None, :]
            tl.store(at, dw[chunk][i])
    tl.store(sums + pid * 3 * NK + c, tl.sum(sum_t, 0))
    tl.store(sums + (pid * 3 + 1) * NK + c, tl.sum(sum_g, 0))
    tl.store(sums + (pid * 3 + 2) * NK + c, tl.sum(sum_u, 0))


@triton.jit
def head_prologue(
    t,  # [B, h, w, n]
    u,  # [B, h, w, n]
    vectors,  # float32 [3, n]: scale, shift (of both), skip_scale
    v,  # [B, h + 6, w + 8, n], zeros around
    h,
    w,
    total,
    n: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """v = scale t + skip_scale u + shift, to memory: Triton cannot read shifted windows of what it computed."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c, x, y = i % n, i // n % w, i // n // w
    ok = i < total
    value = tl.load(t + i, ok, 0.0).to(tl.float32) * tl.load(vectors + c) + tl.load(vectors + n + c)
    value += tl.load(u + i, ok, 0.0).to(tl.float32) * tl.load(vectors + 2 * n + c)
    b, y = y // h, y % h
    at = v + ((b * (h + 6) + y + 3) * (w + 8) + x + 3) * n + c
    tl.store(at, value.to(v.dtype.element_ty), ok)


@triton.jit
def head_forward(
    v,  # [B, h + 6, w + 8, n], zeros around
    weight,  # [7, CHUNKS * KP, 8]: kernel row, term (column * n + channel, 8 columns), pixel of a pair * C + c
    bias,  # float32 [8]: twice
    base,  # [B, h, w, C]
    out,  # [B, h, w, C]
    h,
    w,
    n: tl.constexpr,
    C: tl.constexpr,
    CHUNKS: tl.constexpr,
    KP: tl.constexpr,
    NP: tl.constexpr,
    PAIRS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    STRIPS: tl.constexpr,
):
    """A row of a product is a pair of pixels, a column one of the pair's 2 C results; 8 columns of taps for 7."""
    pid = tl.program_id(0)
    tile, strip, b = pid % TILES, pid // TILES % STRIPS, pid // (TILES * STRIPS)
    p, c = tile * PAIRS + tl.arange(0, PAIRS), tl.arange(0, NP)
    top = strip * ROWS
    start = ((b * (h + 6) + top) * (w + 8) + 2 * p[:, None]) * n
    own = ((b * h + top - 6) * w + 2 * p[:, None]) * C + c[None, :]
    inside = (2 * p[:, None] * C + c[None, :] < w * C) & (c < 2 * C)[None, :]
    shift = tl.load(bias + c)[None, :]
    r0 = tl.zeros((PAIRS, NP), tl.float32)
    r1, r2, r3, r4, r5 = r0, r0, r0, r0, r0
    for r in range(ROWS + 6):
        row = (2 * p < w)[:, None] & (top + r < h + 6)
        r6 = tl.zeros((PAIRS, NP), tl.float32)
        for chunk in tl.static_range(CHUNKS):
            k = chunk * KP + tl.arange(0, KP)
            a = tl.load(v + start + k[None, :], row & (k < 8 * n)[None, :], 0.0)
            kernel = weight + k[:, None] * NP + c[None, :]
            r0 = tl.dot(a, tl.load(kernel + 6 * CHUNKS * KP * NP), r0)
            r1 = tl.dot(a, tl.load(kernel + 5 * CHUNKS * KP * NP), r1)
            r2 = tl.dot(a, tl.load(kernel + 4 * CHUNKS * KP * NP), r2)
            r3 = tl.dot(a, tl.load(kernel + 3 * CHUNKS * KP * NP), r3)
            r4 = tl.dot(a, tl.load(kernel + 2 * CHUNKS * KP * NP), r4)
            r5 = tl.dot(a, tl.load(kernel + CHUNKS * KP * NP), r5)
            r6 = tl.dot(a, tl.load(kernel), r6)
        done = inside & (r >= 6) & (top + r - 6 < h)
        value = r0 + shift + tl.load(base + own, done, 0.0).to(tl.float32)
        tl.store(out + own, value.to(out.dtype.element_ty), done)
        r0, r1, r2, r3, r4, r5 = r1, r2, r3, r4, r5, r6
        start += (w + 8) * n
        own += w * C


@triton.jit
def head_backward(
    grad,  # [B, h + 6, w + 8, C], zeros around
    weight,  # [7, KP, NK]: kernel row, term (7 - 1 - kernel column) * C + c, channel; zero padding
    t,  # [B, h, w, n]
    u,  # [B, h, w, n]
    vectors,  # float32 [3, NK]: scale, shift (of both), skip_scale
    dt,  # [B, h, w, n]
    du,  # [B, h, w, n]
    dweight,  # float32 [programs, 7, KP, NK], indexed as weight
    sums,  # float32 [programs, 3, NK]: of dv t, dv, dv u
    h,
    w,
    n: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    NK: tl.constexpr,
    COLS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    STRIPS: tl.constexpr,
):
    pid = tl.program_id(0)
    tile, strip, b = pid % TILES, pid // TILES % STRIPS, pid // (TILES * STRIPS)
    dtype: tl.constexpr = t.dtype.element_ty
    x, k, c = tile * COLS + tl.arange(0, COLS), tl.arange(0, KP), tl.arange(0, NK)
    scale, shift = tl.load(vectors + c)[None, :], tl.load(vectors + NK + c)[None, :]
    skip = tl.load(vectors + 2 * NK + c)[None, :]
    at = weight + k[:, None] * NK + c[None, :]
    w0, w1, w2 = tl.load(at), tl.load(at + KP * NK), tl.load(at + 2 * KP * NK)
    w3, w4, w5 = tl.load(at + 3 * KP * NK), tl.load(at + 4 * KP * NK), tl.load(at + 5 * KP * NK)
    w6 = tl.load(at + 6 * KP * NK)
    top = strip * ROWS
    line = grad + ((b * (h + 6) + top) * (w + 8) + x[:, None]) * C + k[None, :]
    own = ((b * h + top) * w + x[:, None]) * n + c[None, :]
    inside = (x < w)[:, None] & (c < n)[None, :]
    r0 = tl.zeros((COLS, NK), tl.float32)
    r1, r2, r3, r4, r5 = r0, r0, r0, r0, r0
    sum_t, sum_g, sum_u = r0, r0, r0
    v0 = tl.zeros((COLS, NK), dtype)
    v1, v2, v3, v4, v5 = v0, v0, v0, v0, v0
    d0 = tl.zeros((KP, NK), tl.float32)
    d1, d2, d3, d4, d5, d6 = d0, d0, d0, d0, d0, d0
    for r in range(ROWS + 6):
        a = tl.load(line, (x < w)[:, None] & (top + r < h + 6), 0.0)
        line += (w + 8) * C
        ahead = inside & (r < ROWS) & (top + r < h)
        v6 = tl.load(t + own, ahead, 0.0).to(tl.float32) * scale + shift
        v6 += tl.load(u + own, ahead, 0.0).to(tl.float32) * skip
        v6 = tl.where(ahead, v6, 0.0).to(dtype)
        r0 = tl.dot(a, w6, r0)
        r1 = tl.dot(a, w5, r1)
        r2 = tl.dot(a, w4, r2)
        r3 = tl.dot(a, w3, r3)
        r4 = tl.dot(a, w2, r4)
        r5 = tl.dot(a, w1, r5)
        r6 = tl.dot(a, w0)
        turned = a.T
        d0 = tl.dot(turned, v6, d0)
        d1 = tl.dot(turned, v5, d1)
        d2 = tl.dot(turned, v4, d2)
        d3 = tl.dot(turned, v3, d3)
        d4 = tl.dot(turned, v2, d4)
        d5 = tl.dot(turned, v1, d5)
        d6 = tl.dot(turned, v0, d6)
        done = inside & (r >= 6) & (top + r - 6 < h)
        g = tl.where(done, r0, 0.0)
        behind = own - 6 * w * n
        sum_t += g * tl.load(t + behind, done, 0.0).to(tl.float32)
        sum_u += g * tl.load(u + behind, done, 0.0).to(tl.float32)
        sum_g += g
        tl.store(dt + behind, (g * scale).to(dtype), done)
        tl.store(du + behind, (g * skip).to(dtype), done)
        r0, r1, r2, r3, r4, r5 = r1, r2, r3, r4, r5, r6
        v0, v1, v2, v3, v4, v5 = v1, v2, v3, v4, v5, v6
        own += w * n
    at = dweight + pid * 7 * KP * NK + k[:, None] * NK + c[None, :]
    tl.store(at, d0)
    tl.store(at + KP * NK, d1)
    tl.store(at + 2 * KP * NK, d2)
    tl.store(at + 3 * KP * NK, d3)
    tl.store(at + 4 * KP * NK, d4)
    tl.store(at + 5 * KP * NK, d5)
    tl.store(at + 6 * KP * NK, d6)
    tl.store(sums + pid * 3 * NK + c, tl.sum(sum_t, 0))
    tl.store(sums + (pid * 3 + 1) * NK + c, tl.sum(sum_g, 0))
    tl.store(sums + (pid * 3 + 2) * NK + c, tl.sum(sum_u, 0))


@triton.jit
def stem_backward(
    image,  # [B, H + 6, W + 8, C], zeros around
    w0,  # [7, KP, NK], as in stem_forward
    b0,  # float32 [NK]
    w1,  # [NK, NK]: of a (rows) to c
    w1t,  # [NK, NK]: transposed
    b1,  # float32 [NK]
    rows,  # [tiles, COLS, OUTS]: the transposed horizontal band matrix of each tile, in the arithmetic's dtype
    first,  # int32 [tiles]: first output of a tile
    weights,  # float32 [H, 2]: of the two output rows that an image row adds to
    grad,  # [B, h, w, n]
    terms,  # float32 [2, NK]: dc = R^T grad + terms[1] c + terms[0]
    dw0,  # float32 [programs, 7, KP, NK], indexed as w0
    dw1,  # float32 [programs, NK, NK], indexed as w1
    db,  # float32 [programs, 2, NK]
    H,
    W,
    h,
    w,
    slope,
    n: tl.constexpr,
    C: tl.constexpr,
    KP: tl.constexpr,
    NK: tl.constexpr,
    COLS: tl.constexpr,
    OUTS: tl.constexpr,
    ROWS: tl.constexpr,  # image rows of a program, an even number
    TILES: tl.constexpr,
    STRIPS: tl.constexpr,
):
    pid = tl.program_id(0)
    tile, strip, b = pid % TILES, pid // TILES % STRIPS, pid // (TILES * STRIPS)
    dtype: tl.constexpr = image.dtype.element_ty
    x, k, c = tile * COLS + tl.arange(0, COLS), tl.arange(0, KP), tl.arange(0, NK)
    o = tl.arange(0, OUTS)
    top = strip * ROWS
    line = image + ((b * (H + 6) + top) * (W + 8) + x[:, None]) * C + k[None, :]
    at = w0 + k[:, None] * NK + c[None, :]
    k0, k1, k2 = tl.load(at), tl.load(at + KP * NK), tl.load(at + 2 * KP * NK)
    k3, k4, k5 = tl.load(at + 3 * KP * NK), tl.load(at + 4 * KP * NK), tl.load(at + 5 * KP * NK)
    k6 = tl.load(at + 6 * KP * NK)
    mix = tl.load(w1 + c[:, None] * NK + c[None, :])
    unmix = tl.load(w1t + c[:, None] * NK + c[None, :])
    bias0, bias1 = tl.load(b0 + c)[None, :], tl.load(b1 + c)[None, :]
    common, each = tl.load(terms + c)[None, :], tl.load(terms + NK + c)[None, :]
    band = tl.load(rows + (tile * COLS + tl.arange(0, COLS)[:, None]) * OUTS + o[None, :])
    out_x = tl.load(first + tile) + o
    pulled = grad + (b * h * w + out_x[:, None]) * n + c[None, :]
    near_out = ((out_x >= 0) & (out_x < w))[:, None] & (c < n)[None, :]
    r0 = tl.zeros((COLS, NK), tl.float32)
    r1, r2, r3, r4, r5 = r0, r0, r0, r0, r0
    u0, u1, sum0, sum1 = r0, r0, r0, r0
    g0 = tl.zeros((COLS, NK), dtype)
    g1, g2, g3, g4, g5 = g0, g0, g0, g0, g0
    d0 = tl.zeros((KP, NK), tl.float32)
    d1, d2, d3, d4, d5, d6 = d0, d0, d0, d0, d0, d0
    dmix = tl.zeros((NK, NK), tl.float32)
    for r in range(ROWS + 12):
        y = top + r - 6
        if y % 2 != 0 or r == 4:
            row = (y + 1) // 2  # every second row
            ok = near_out & (row >= 0) & (row < h)  # every second row
            u0 = u1  # every second row
            u1 = tl.dot(band, tl.load(pulled + row * w * n, ok, 0.0))  # every second row
        a = tl.load(line, (x < W)[:, None] & (top + r < H + 6), 0.0)
        r0 = tl.dot(a, k6, r0)
        r1 = tl.dot(a, k5, r1)
        r2 = tl.dot(a, k4, r2)
        r3 = tl.dot(a, k3, r3)
        r4 = tl.dot(a, k2, r4)
        r5 = tl.dot(a, k1, r5)
        r6 = tl.dot(a, k0)
        f = leaky(r0 + bias0, slope)
        narrow = f.to(dtype)
        q = leaky(tl.dot(narrow, mix) + bias1, slope)
        r0, r1, r2, r3, r4, r5 = r1, r2, r3, r4, r5, r6
        own = (x < W)[:, None] & (r >= 6) & (r < ROWS + 6) & (y < H)
        dc = u0 * tl.load(weights + 2 * y, (y >= 0) & (y < H), 0.0)
        dc += u1 * tl.load(weights + 2 * y + 1, (y >= 0) & (y < H), 0.0) + common + each * q
        dc = tl.where(own, tl.where(q > 0, dc, dc * slope), 0.0)
        sum1 += dc
        gc = dc.to(dtype)
        dmix = tl.dot(narrow.T, gc, dmix)
        da = tl.dot(gc, unmix)
        da = tl.where(f > 0, da, da * slope)
        sum0 += da
        g6 = da.to(dtype)
        # The image row that the six rows before and this one all read.
        old = tl.load(line - 6 * (W + 8) * C, (x < W)[:, None] & (r >= 6) & (top + r - 6 < H + 6), 0.0).T
        line += (W + 8) * C
        d0 = tl.dot(old, g6, d0)
        d1 = tl.dot(old, g5, d1)
        d2 = tl.dot(old, g4, d2)
        d3 = tl.dot(old, g3, d3)
        d4 = tl.dot(old, g2, d4)
        d5 = tl.dot(old, g1, d5)
        d6 = tl.dot(old, g0, d6)
        g0, g1, g2, g3, g4, g5 = g1, g2, g3, g4, g5, g6
    at = dw0 + pid * 7 * KP * NK + k[:, None] * NK + c[None, :]
    tl.store(at, d0)
    tl.store(at + KP * NK, d1)
    tl.store(at + 2 * KP * NK, d2)
    tl.store(at + 3 * KP * NK, d3)
    tl.store(at + 4 * KP * NK, d4)
    tl.store(at + 5 * KP * NK, d5)
    tl.store(at + 6 * KP * NK, d6)
    tl.store(dw1 + pid * NK * NK + c[:, None] * NK + c[None, :], dmix)
    tl.store(db + pid * 2 * NK + c, tl.sum(sum0, 0))
    tl.store(db + (pid * 2 + 1) * NK + c, tl.sum(sum1, 0))
