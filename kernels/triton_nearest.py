"""The search on a GPU: int8 products, their scores and the best of each row in one Triton kernel.

The scores exist tile by tile in registers alone. A score 2 p.s - |s|**2 and its column within a block of BN candidates
fit into one int32 while BN (3 max|q|**2 + 1) <= 2**31, as they do for embeddings of unit vectors: the largest such key
is the best candidate and, among equal ones, the first. Where rows are longer, score and column are compared apart, at
more instructions an entry. Every tile of rows takes the one or the other by its own longest row: both are exact.
"""

# No postponed annotations: Triton reads those of a kernel, which knows no other types.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

import triton
import triton.language as tl

LOWEST = tl.constexpr(-(2**31 - 1))
"""Below every score, and every key."""

PADDING = tl.constexpr(-1)
"""The squared norm of a candidate that is none."""


@triton.jit(do_not_specialize=["longest"])
def search(
    queries,
    order,
    candidates,
    norms,
    spans,
    scores,
    places,
    longest,
    width,
    K: tl.constexpr,
    SLOTS: tl.constexpr,
    PACKED: tl.constexpr,
    GATHER: tl.constexpr,
    FLAT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """The K best candidates for each tile of BM rows, in no order; one program per tile.

    queries     int8 (n, width), width a multiple of BK; entries beyond the vectors' own are zeros.
    order       int32 (tiles BM,), with GATHER: which rows the tiles hold; else the tiles hold all of them in turn.
    candidates  int8 (m, width), m a multiple of BN.
    norms       int32 (m,), their |s|**2, or ``PADDING``.
    spans       int32 (tiles, 2): first and last + 1 of the candidates of a tile; multiples of BN.
    longest     the largest of ``norms``.
    scores      int32 (tiles BM, K), written for K > 1 alone.
    places      int32 (tiles BM, K), the rows of ``candidates`` found; negative where a span has fewer than K.
    K           at most SLOTS, a power of two.
    PACKED      which tiles this launch answers: those whose keys fit into int32, or the others.
    """
    tile = tl.program_id(0)
    at = tile.to(tl.int64) * BM + tl.arange(0, BM)
    rows = tl.load(order + at).to(tl.int64) if GATHER else at
    inner = tl.arange(0, BK)
    left = queries + rows[:, None] * width + inner[None, :]
    squares = tl.zeros((BM,), tl.int32)
    for k in tl.range(0, width, BK):
        part = tl.load(left + k).to(tl.int32)
        squares += tl.sum(part * part, 1)
    longest = tl.maximum(tl.max(squares, 0), longest)
    limit = (2**31 // BN - 1) // 3
    asked = longest <= limit if PACKED else longest > limit
    if asked:
        columns = tl.arange(0, BN)
        # empty slots are below every candidate; slots beyond K are above, so that nothing replaces them
        lowest = -(2**31 // BN) if PACKED else LOWEST
        slots = tl.arange(0, SLOTS)[None, :] + tl.zeros((BM, 1), tl.int32)
        best = tl.where(slots < K, lowest, 2**31 - 1)
        place = -1 - slots
        if K == 1:
            best, place = tl.full((BM,), lowest, tl.int32), tl.full((BM,), -1, tl.int32)
        first, last = tl.load(spans + 2 * tile), tl.load(spans + 2 * tile + 1)
        for start in tl.range(first, last, BN, flatten=FLAT):
            products = tl.zeros((BM, BN), tl.int32)
            right = candidates + (start + columns).to(tl.int64)[None, :] * width + inner[:, None]
            for k in tl.range(0, width, BK):
                products = tl.dot(tl.load(left + k), tl.load(right + k), products, out_dtype=tl.int32)
            norm = tl.load(norms + start + columns)
            if PACKED:
                keys = products * (2 * BN) + tl.where(norm == PADDING, LOWEST, BN - 1 - columns - norm * BN)[None, :]
            else:
                keys = products * 2 + tl.where(norm == PADDING, LOWEST, -norm)[None, :]
            high, column = _highest(keys, PACKED, BN)
            if K == 1:
                better = high > best  # an equal one has a higher index
                best = tl.where(better, high, best)
                place = tl.where(better, start + column, place)
            else:
                worst = tl.min(best, 1)
                while tl.max((high > worst).to(tl.int32), 0) > 0:
                    # out goes the lowest score, of equal ones the highest index; no place is there twice
                    tied = best == worst[:, None]
                    out = tl.max(tl.where(tied, place, LOWEST), 1)
                    into = tied & (place == out[:, None]) & (high > worst)[:, None]
                    best = tl.where(into, high[:, None], best)
                    place = tl.where(into, (start + column)[:, None], place)
                    keys = tl.where(columns[None, :] == column[:, None], LOWEST, keys)
                    high, column = _highest(keys, PACKED, BN)
                    worst = tl.min(best, 1)
        if K == 1:
            tl.store(places + at, place)
        else:
            kept = slots < K
            tl.store(scores + at[:, None] * K + slots, best, mask=kept)
            tl.store(places + at[:, None] * K + slots, place, mask=kept)


@triton.jit
def _highest(keys, PACKED: tl.constexpr, BN: tl.constexpr):
    """The highest score of each row and its column, the first of equal ones."""
    if PACKED:
        key = tl.max(keys, 1)
        column = key & (BN - 1)  # counted from the last one
        high = (key - column) // BN
        column = BN - 1 - column
    else:
        high, column = tl.max(keys, 1, return_indices=True, return_indices_tie_break_left=True)
    return high, column
