"""The search on CUDA devices, with copies that overlap with the work.

Rows go over in pieces through two pinned buffers a device, each with a stream of its own: while one piece is searched,
the next one is copied. Rows that are given a name, such as an immutable shard's, stay on the device for later
searches. Four bytes per row and neighbour come back, too few for a histogram on the device to be worth its atomics.
Several devices take equal parts of the rows.

The same lines run on the CPU where ``TRITON_INTERPRET=1`` makes Triton interpret its kernels, without streams and
pinned memory: so they are tested. They have not run on a GPU yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe.kernels.devices import Device, named, usable
from pe.kernels.floating import Integers

PIECE_BYTES = 2**24
"""Rows copied at a time; two such buffers are pinned."""

PIECE_ROWS = 2**20
"""Rows searched at a time where they are on the device."""

WIDEST = 2**8
"""Rows that are kept are filled up to a multiple of it, whichever tiles they are first searched with."""

FEWEST_ROWS = 2**10
"""Rows at a time below which a device that is full is given up."""

Ids = NDArray[np.int64]


class DeviceError(Exception):
    """A device cannot do a search: it is full even for few rows at a time, or it failed."""


class CudaSearch:
    """The k best of m int8 candidates (m, d) for int8 queries, among the candidates of their group where there are any.

    Raises DeviceError where a device gives up.
    """

    def __init__(self, candidates: Integers, k: int, groups: Ids | None, devices: list[Device] | None = None) -> None:
        chosen = usable() if devices is None else devices
        self.names = named(chosen)
        self.parts = [_Part(candidates, k, groups, device) for device in chosen]

    def __call__(self, queries: Integers, found: Ids, groups: Ids | None = None, name: Hashable | None = None) -> None:
        """Write the candidates nearest to queries (n, d) into ``found``, int64 (n, k); -1 where a group has fewer."""
        count = len(self.parts)
        cuts = [len(queries) * number // count for number in range(count + 1)]

        def work(number: int) -> None:
            here = slice(cuts[number], cuts[number + 1])
            key = None if name is None else (name, here.start, here.stop)
            self.parts[number](queries[here], found[here], None if groups is None else groups[here], key)

        if count == 1:
            work(0)
            return
        with ThreadPoolExecutor(count) as pool:
            for done in [pool.submit(work, number) for number in range(count)]:
                done.result()


class _Lane:
    """A stream, and room on the device and in pinned memory for the rows that are on it."""

    def __init__(self, part: _Part, rows: int, copied: bool) -> None:
        import torch

        device, place, k = part.device, part.device.device, part.k
        self.stream = device.stream()
        tiles = rows // part.tiles.rows + len(part.spans)  # every group may need a tile that it does not fill
        slots = tiles * part.tiles.rows
        with device.on(self.stream):
            self.rows = torch.zeros((rows if copied else 0, part.width), dtype=torch.int8, device=place)
            self.order = torch.zeros(slots if part.grouped else 1, dtype=torch.int32, device=place)
            self.tiles = torch.zeros((tiles, 2), dtype=torch.int32, device=place)
            self.scores = torch.empty((slots if k > 1 else 1, k), dtype=torch.int32, device=place)
            self.places = torch.empty((slots, k), dtype=torch.int32, device=place)
        self.rows_here = device.pinned((len(self.rows), part.width), torch.int8)
        self.order_here = device.pinned((len(self.order),), torch.int32)
        self.tiles_here = device.pinned((tiles, 2), torch.int32)
        self.places_here = device.pinned((slots, k), torch.int32)
        self.capacity = rows
        self.copied = copied
        self.busy: tuple[Ids, Ids | None] | None = None

    def send(self, queries: Integers, to: Any) -> None:
        """Copy rows to ``to``, on the device; the pinned buffer must be free."""
        n, d = queries.shape
        self.rows_here.numpy()[:n, :d] = queries
        to[:n].copy_(self.rows_here[:n], non_blocking=True)


class _Part:
    """What one device does."""

    def __init__(self, candidates: Integers, k: int, groups: Ids | None, device: Device) -> None:
        self.k, self.device, self.dim = k, device, candidates.shape[1]
        self.tiles = device.tiles(k)
        self.depth = _depth(self.dim, self.tiles.depth)
        self.width = _up(max(1, self.dim), self.depth)
        self.grouped = groups is not None
        self.spans: dict[int, tuple[int, int]] = {}
        self.fewest = _up(FEWEST_ROWS, self.tiles.rows)
        self.copied = max(self.fewest, _up(PIECE_BYTES // self.width, self.tiles.rows))
        self.lanes: list[_Lane] = []
        every = np.zeros(len(candidates), np.int64) if groups is None else groups
        origin = np.empty(0, np.int64)
        for group in np.unique(every):  # one after another, each filled up to whole tiles
            own = np.flatnonzero(every == group)
            own = np.append(own, np.full(-len(own) % self.tiles.candidates, -1))
            self.spans[int(group)] = (len(origin), len(origin) + len(own))
            origin = np.append(origin, own)
        self.origin = np.append(origin, -1)  # what the place -1 leads to
        for attempt in range(2):
            try:
                with _failures():
                    self._send_candidates(candidates)
                return
            except MemoryError:
                device.forget()
                if attempt:
                    raise DeviceError("it has no memory for the candidates") from None

    def _send_candidates(self, candidates: Integers) -> None:
        import torch

        origin = self.origin[:-1]
        self.rows = torch.empty((len(origin), self.width), dtype=torch.int8, device=self.device.device)
        norms = np.full(len(origin), -1, np.int32)
        for start in range(0, len(origin), 4096):
            own = origin[start : start + 4096]
            part = np.zeros((len(own), self.width), np.int8)
            part[own >= 0, : self.dim] = candidates[own[own >= 0]]
            squares = part.astype(np.int32)
            norms[start : start + 4096][own >= 0] = np.einsum("ij,ij->i", squares, squares)[own >= 0]
            self.rows[start : start + 4096] = torch.from_numpy(part)
        self.norms = torch.from_numpy(norms).to(self.device.device)
        self.longest = int(norms.max())
        self.device.wait()

    def __call__(self, queries: Integers, found: Ids, groups: Ids | None, key: Hashable | None) -> None:
        while len(queries):
            try:
                with _failures(), self.device.current():
                    self._search(queries, found, groups, key)
                return
            except MemoryError:
                self.device.wait()
                self.lanes = []
                self.device.forget()
                if self.copied <= self.fewest:
                    raise DeviceError("it is out of memory") from None
            self.copied = max(self.fewest, _up(self.copied // 4, self.tiles.rows))
            key = None
            told = f"{self.device.name} is out of memory: the vote goes on there with fewer rows at a time"
            warnings.warn(told, RuntimeWarning, stacklevel=2)

    def _search(self, queries: Integers, found: Ids, groups: Ids | None, key: Hashable | None) -> None:
        kept = self._kept(queries, key)
        lanes = self._lanes(len(queries), copied=kept is None)
        found[:] = -1
        for number, start in enumerate(range(0, len(queries), lanes[0].capacity)):
            here = slice(start, start + lanes[0].capacity)
            lane = lanes[number % len(lanes)]
            self._finish(lane)
            with self.device.on(lane.stream):
                if kept is None:
                    lane.send(queries[here], lane.rows)
                rows = lane.rows if kept is None else kept[start:]
                self._start(lane, rows, found[here], None if groups is None else groups[here])
        for lane in lanes:
            self._finish(lane)

    def _start(self, lane: _Lane, rows: Any, found: Ids, groups: Ids | None) -> None:
        """Ask for the search of one piece."""
        import torch

        from pe.kernels.triton_nearest import search

        order, tiles = self._order(len(found), groups)
        count = len(tiles)
        if count == 0:  # no candidates of their groups
            return
        lane.tiles_here.numpy()[:count] = tiles
        lane.tiles[:count].copy_(lane.tiles_here[:count], non_blocking=True)
        if order is not None:
            np.maximum(order, 0, out=lane.order_here.numpy()[: len(order)], casting="unsafe")
            lane.order[: len(order)].copy_(lane.order_here[: len(order)], non_blocking=True)
        for packed in (True, False):
            search[(count,)](
                rows,
                lane.order,
                self.rows,
                self.norms,
                lane.tiles,
                lane.scores,
                lane.places,
                self.longest,
                self.width,
                K=self.k,
                SLOTS=1 << (self.k - 1).bit_length(),
                PACKED=packed,
                GATHER=order is not None,
                FLAT=self.tiles.flat,
                BM=self.tiles.rows,
                BN=self.tiles.candidates,
                BK=self.depth,
                num_warps=self.tiles.warps,
                num_stages=self.tiles.stages,
            )
        slots = count * self.tiles.rows
        places = lane.places[:slots]
        if self.k > 1:  # the highest score first, of equal ones the lowest place
            rank = (lane.scores[:slots].to(torch.int64) << 32) - places
            places = places.gather(1, rank.argsort(dim=1, descending=True))
        lane.places_here[:slots].copy_(places, non_blocking=True)
        lane.busy = (found, order)

    def _finish(self, lane: _Lane) -> None:
        """Wait for the piece that a lane works on, and write what it found."""
        self.device.finish(lane.stream)
        if lane.busy is None:
            return
        (found, order), lane.busy = lane.busy, None
        places = lane.places_here.numpy()
        if order is None:
            found[:] = self.origin[np.maximum(places[: len(found)], -1)]
        else:
            taken = order >= 0
            found[order[taken]] = self.origin[np.maximum(places[: len(order)][taken], -1)]

    def _order(self, n: int, groups: Ids | None) -> tuple[Ids | None, NDArray[np.int32]]:
        """Which rows the tiles hold, -1 for none, and the candidates of each: those of one group."""
        size = self.tiles.rows
        if groups is None:
            return None, np.tile(np.array(self.spans[0], np.int32), (-(-n // size), 1))
        order, spans = [np.empty(0, np.int64)], [np.empty((0, 2), np.int32)]
        by_group = np.argsort(groups, kind="stable")
        for group, span in self.spans.items():
            first, last = np.searchsorted(groups, [group, group + 1], sorter=by_group)
            own = by_group[first:last]
            order += [own, np.full(-len(own) % size, -1)]
            spans.append(np.tile(np.array(span, np.int32), (-(-len(own) // size), 1)))
        return np.concatenate(order), np.concatenate(spans)

    def _lanes(self, n: int, copied: bool) -> list[_Lane]:
        rows = min(self.copied if copied else PIECE_ROWS, _up(n, self.tiles.rows))
        if not self.lanes or self.lanes[0].copied != copied or self.lanes[0].capacity < rows:
            self.lanes = []
            self.lanes = [_Lane(self, rows, copied) for _ in range(2 if n > rows else 1)]
        elif len(self.lanes) == 1 and n > self.lanes[0].capacity:
            self.lanes.append(_Lane(self, self.lanes[0].capacity, copied))
        return self.lanes

    def _kept(self, queries: Integers, key: Hashable | None) -> Any:
        """Named rows on the device, copied there where they fit; None for others."""
        import torch

        kept = self.device.kept
        if key is None:
            return None
        key = (key, self.width)
        if key not in kept:
            n = _up(len(queries), max(WIDEST, self.tiles.rows))
            if n * self.width > self.device.room():
                return None
            rows = torch.zeros((n, self.width), dtype=torch.int8, device=self.device.device)
            self.device.wait()
            lanes = self._lanes(len(queries), copied=True)
            for number, start in enumerate(range(0, len(queries), lanes[0].capacity)):
                lane = lanes[number % len(lanes)]
                self.device.finish(lane.stream)
                with self.device.on(lane.stream):
                    lane.send(queries[start : start + lane.capacity], rows[start:])
            self.device.wait()
            self.lanes = []
            kept[key] = rows
        return kept[key]


@contextmanager
def _failures() -> Iterator[None]:
    """A device that is full raises MemoryError, one that fails DeviceError; neither tells of what it worked on."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise MemoryError from None
    except RuntimeError as error:
        raise DeviceError(f"it failed ({type(error).__name__})") from None


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _depth(width: int, most: int) -> int:
    """Entries per step: as many as the tiles want, fewer where that would mean much filling up; at least 32."""
    least = _up(max(1, width), 32)
    return next((each for each in (128, 64) if each <= most and 8 * _up(width, each) <= 9 * least), 32)
