"""Neighbouring data sets, with candidates chosen to tell them apart: what ``pe.audit`` attacks the mechanism with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.arrays import to_numpy, to_table
from pe.data.population import Population
from pe.data.schema import Categorical, Numeric, Schema
from pe.privacy.budget import Adjacency
from pe.privacy.contribution import Contribution
from pe.privacy.release import Votes
from pe.private.dataset import PrivateDataset
from pe.private.measure import FourierMean, Marginals, measure
from pe.private.vote import cast_votes, count_labels, embed_candidates

Record = tuple[int, int]
"""A private record or a candidate: x in [-9, 9], and its label. ``UNREADABLE`` as x cannot be embedded."""

UNREADABLE = 9


@dataclass(frozen=True)
class Variant:
    """A pair of neighbours, and what is asked of them in every round.

    unit        the records of the unit of privacy that D' holds and D does not; they come before the ``others``.
    instead     the records that D holds in their place, under replace-one.
    candidates  the same in every round.
    per_user    the unit is a user who owns all of ``unit``; each of the others belongs to a user of its own.
    crash       in every round the process dies around the write of the histogram and resumes: "before" it, so that
                the histogram is lost and its charge stays, or "after".
    """

    about: str
    unit: tuple[Record, ...]
    others: tuple[Record, ...]
    candidates: tuple[Record, ...]
    instead: tuple[Record, ...] = ()
    adjacency: Adjacency = Adjacency.ADD_REMOVE
    asks: Literal["votes", "label counts", "marginals", "kernel mean"] = "votes"
    contribution: Contribution = field(default_factory=Contribution)
    per_user: bool = False
    labels: int = 2
    crash: Literal["before", "after"] | None = None

    def votes(self, *, inside: bool) -> Votes:
        """What the real code would have the ledger pay for and then release, of D' if ``inside``, else of D."""
        schema = Schema((_X, Categorical("label", tuple(str(label) for label in range(self.labels)))), "label")
        own = self.unit if inside else self.instead
        users = np.array([0] * len(own) + list(range(1, len(self.others) + 1)), np.int64) if self.per_user else None
        private = PrivateDataset(*_table((*own, *self.others), schema), schema, users)
        if self.asks == "label counts":
            return count_labels(private, self.adjacency, self.contribution)
        if self.asks == "marginals":
            sets = (("x",), ("label",), ("x", "label"))
            # a user may count as one record
            finer, norm = (64, len(sets) ** 0.5) if self.per_user else (1, None)
            return measure(private, Marginals(schema, sets, 4, finer), adjacency=self.adjacency, norm=norm)
        if self.asks == "kernel mean":
            mean = FourierMean(_Line(), np.array([[np.pi / 4]]), self.labels, amplitude=1)
            norm = mean.bound_squared**0.5 if self.per_user else None  # a user may count as one record
            return measure(private, mean, adjacency=self.adjacency, norm=norm)
        table, labels = _table(self.candidates, schema)
        candidates = Population.of(table, labels, "audit")
        vectors = embed_candidates(table, _Line())
        return cast_votes(
            private, candidates, vectors, _Line(), adjacency=self.adjacency, contribution=self.contribution
        )


class _Line:
    """Embeds a record as its x; fails on one that it cannot read, and on every table that holds one."""

    name, dim, scale, limit = "audit", 1, 1.0, 127

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        x = to_numpy(table, _X)
        if (x == UNREADABLE).any():
            raise ValueError("unreadable")
        return x[:, None].astype(np.float32)


_X = Numeric("x", -9, 9, integer=True)


def _table(records: Sequence[Record], schema: Schema) -> tuple[pa.Table, NDArray[np.int32]]:
    x, labels = np.array(records, np.int64).reshape(-1, 2).T
    return to_table({"x": x}, schema), labels.astype(np.int32)


_OTHERS: tuple[Record, ...] = ((-3, 0), (-3, 0), (0, 0), (1, 0), (3, 0), (-3, 1), (2, 1), (2, 1))
_SPREAD: tuple[Record, ...] = tuple((x, label) for label in (0, 1) for x in (-4, -2, 0, 2, 4))
_LABELS: tuple[Record, ...] = tuple((0, label) for label in range(32))
_ADDED = Variant("one vote, a record added", unit=((4, 0),), others=_OTHERS, candidates=_SPREAD)
_THREE = Contribution((1.0,) * 3)
_USER = Variant(
    "a user added",
    unit=_LABELS * 2,
    others=_LABELS,
    candidates=_LABELS,
    contribution=Contribution.of(norm=1.0),
    per_user=True,
    labels=32,
)
_REPLACED = replace(_ADDED, about="one vote, a record replaced", instead=((-4, 0),), adjacency=Adjacency.REPLACE_ONE)

VARIANTS: dict[str, Variant] = {
    "add-remove": _ADDED,
    "replace-one": _REPLACED,
    "three-votes": replace(_ADDED, about="three votes, a record added", contribution=_THREE),
    "rank-weights": replace(
        _ADDED, about="votes of 1, 1/2 and 1/3, a record added", contribution=Contribution.of((1.0, 0.5, 1 / 3))
    ),
    "three-replaced": replace(
        _REPLACED,
        about="three votes, a record replaced",
        contribution=_THREE,
        candidates=tuple((x, 0) for x in (-4, -4, -4, 0, 4, 4, 4)),
    ),
    "label-counts": replace(_ADDED, about="label counts, a record added", asks="label counts"),
    "labels-replaced": replace(
        _REPLACED, about="label counts, a record changes its label", asks="label counts", instead=((-4, 1),)
    ),
    "empty-bins": replace(
        _ADDED,
        about="the only vote among empty bins",
        others=((-4, 0),) * 8,
        candidates=tuple((x, 0) for x in range(-4, 5)) * 4,
    ),
    "only-record": replace(_ADDED, about="the only record there is", others=()),
    "duplicates": replace(
        _ADDED,
        about="64 equal candidates, all records equal",
        unit=((0, 0),),
        others=((0, 0),) * 8,
        candidates=((0, 0),) * 64,
    ),
    "candidates-near": replace(
        _ADDED, about="malicious candidates: on the record, or far off", candidates=(*((-9, 0),) * 8, *((4, 0),) * 8)
    ),
    "candidates-far": replace(
        _ADDED,
        about="malicious candidates: all at the far end",
        candidates=tuple((x, label) for label in (0, 1) for x in (-9, -8, -7)),
    ),
    "many-labels": replace(
        _REPLACED,
        about="32 labels, a record changes its label",
        unit=((0, 0),),
        instead=((0, 31),),
        others=_LABELS,
        candidates=_LABELS,
        labels=32,
    ),
    "user": replace(
        _USER, about="a user with 50 records in one place", unit=((4, 0),) * 50, others=_OTHERS, candidates=_SPREAD
    ),
    "user-within": replace(
        _USER,
        about="a user with as many records as the norm admits",
        unit=((4, 0),) * 4,
        others=_OTHERS,
        candidates=_SPREAD,
        contribution=Contribution.of(norm=4.0),
    ),
    "user-in-labels": replace(_USER, about="a user with a record in each of 32 labels"),
    "user-replaced": replace(
        _USER,
        about="a user with records in 16 labels becomes one in 16 others",
        unit=tuple((0, label) for label in range(16)),
        instead=tuple((0, label) for label in range(16, 32)) * 3,
        adjacency=Adjacency.REPLACE_ONE,
    ),
    "user-label-counts": replace(_USER, about="label counts, a user in 32 labels", asks="label counts"),
    "marginals": replace(_ADDED, about="three marginals, a record added", asks="marginals"),
    "marginals-replaced": replace(
        _REPLACED, about="three marginals, a record replaced", asks="marginals", instead=((-4, 1),)
    ),
    "user-marginals": replace(_USER, about="three marginals, a user in 32 labels", asks="marginals"),
    "kernel-mean": replace(_ADDED, about="Fourier features, a record added", asks="kernel mean", unit=((1, 0),)),
    "kernel-mean-replaced": replace(
        _REPLACED,
        about="Fourier features, a record replaced by its opposite",
        asks="kernel mean",
        unit=((1, 0),),
        instead=((5, 0),),
    ),
    "user-kernel-mean": replace(
        _USER, about="Fourier features, a user with 50 records in one place", asks="kernel mean", unit=((1, 0),) * 50
    ),
    "no-candidates": replace(_ADDED, about="no candidate of the record's label", unit=((4, 2),), labels=3),
    "unreadable": replace(_ADDED, about="the record cannot be embedded", unit=((UNREADABLE, 0),)),
    "resume-stored": replace(_ADDED, about="crash after every write, then resumed", crash="after"),
    "resume-lost": replace(_ADDED, about="crash before every write, then resumed", crash="before"),
}
