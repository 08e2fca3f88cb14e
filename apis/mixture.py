"""Several APIs as one (WASP, Zou et al. 2025): each makes a share of the samples, fixed or led by votes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.population import Population, concatenate
from pe.errors import APIError, ConfigError
from pe.evolution.select import apportion
from pe.journal import Journal, Usage
from pe.protocols import API, Metered, Piecemeal

PARAMETERS = "packed"
"""The one parameter of a sample: the member's own, as an Arrow stream of one row, or null."""


@dataclass(frozen=True)
class MixtureAPI:
    """Shares samples out among its members; ``origin`` says which member made each.

    members  the APIs; those of equal names are told apart as "openai", "openai-2", ...
    share    float64 (members,), what each makes at first; adds up to 1.
    follow   "votes": in each round, the share of a member is what share of the candidates it made, times the mean votes
             of its candidates over the mean of all members', before ``floor``. What tells members' means apart by
             less than the noise counts for nothing, and a member that made none of them has its first share. "nothing":
             the shares stay.
    floor    the least share of a member, so that none is lost for good.
    parents  "any": the samples to vary are shared out at random. "own": each goes to the member that made it, for
             simulators that can vary no others; only what none of them made is shared out, and shares move as the
             selection does.

    Shares are computed anew in every round from what was released (``pe.protocols.Adaptive``): no round remembers
    another, and a resumed run continues as it would have.
    """

    members: tuple[API, ...]
    share: NDArray[np.float64]
    follow: Literal["votes", "nothing"] = "votes"
    floor: float = 0.05
    parents: Literal["any", "own"] = "any"

    @classmethod
    def of(
        cls,
        members: Sequence[API],
        shares: Sequence[float] | None = None,
        *,
        follow: str = "votes",
        floor: float = 0.05,
        parents: str = "any",
    ) -> MixtureAPI:
        """Check the settings; ``shares`` are relative, equal by default. Raises ConfigError, nothing spent."""
        given = np.ones(len(members)) if shares is None else np.asarray(shares, np.float64)
        if len(members) < 2 or len(given) != len(members):
            raise ConfigError(
                f"a mixture: expected two members or more, and a share of each, got {len(members)} members and "
                f"{len(given)} shares. Nothing was spent."
            )
        if not (np.isfinite(given).all() and (given > 0).all()):
            raise ConfigError(f"a mixture: expected shares > 0, got {given.tolist()}. Nothing was spent.")
        if not 0 <= floor * len(members) <= 1:
            raise ConfigError(
                f"a mixture: expected a floor in [0, {1 / len(members):.3g}], one share for each of {len(members)} "
                f"members, got {floor}. Nothing was spent."
            )
        for key, value, known in (("follow", follow, ("votes", "nothing")), ("parents", parents, ("any", "own"))):
            if value not in known:
                raise ConfigError(
                    f"a mixture: expected {key} '{known[0]}' or '{known[1]}', got {value!r}. Nothing was spent."
                )
        return cls(tuple(members), given / given.sum(), follow, floor, parents)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        return f"mixture of {', '.join(self.names)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, each once: the ``origin`` of their samples."""
        names: list[str] = []
        for member in self.members:
            same = sum(each.name == member.name for each in self.members[: len(names)])
            names.append(f"{member.name}-{same + 1}" if same else member.name)
        return tuple(names)

    @property
    def public_data(self) -> str:
        """What the members declare as public, once each."""
        return "; ".join(dict.fromkeys(note for each in self.members if (note := getattr(each, "public_data", ""))))

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        """See ``pe.protocols.Piecemeal``: passed on to the members that hand samples over."""
        for member in self.members:
            if isinstance(member, Piecemeal):
                member.listen(callback)

    def record(self, journal: Journal | None) -> None:
        """See ``pe.protocols.Metered``: each member that is metered gets a journal of its own."""
        for index, member in enumerate(self.members):
            if isinstance(member, Metered):
                member.record(None if journal is None else journal.part(str(index)))

    def ready(self) -> None:
        """See ``pe.protocols.Metered``."""
        for member in self.members:
            if isinstance(member, Metered):
                member.ready()

    def estimate(self, fresh: int, varied: int) -> Usage:
        """See ``pe.protocols.Metered``: by the shares that members have at first."""
        sizes = zip(self.members, apportion(fresh, self.share), apportion(varied, self.share), strict=True)
        found = (each.estimate(int(new), int(old)) for each, new, old in sizes if isinstance(each, Metered))
        return sum(found, Usage())

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        sizes, parts = apportion(n, self.share), []
        for index, (member, size) in enumerate(zip(self.members, sizes, strict=True)):
            own = np.random.default_rng(rng.integers(2**63))
            if size:
                parts.append(self._marked(member.random(int(size), label, own), index, int(size)))
        return concatenate(parts)

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        makers = self._makers(parents)
        chosen = rng.permutation(np.repeat(np.arange(len(self.members)), apportion(len(parents), self.share)))
        if self.parents == "own":
            chosen = np.where(makers >= 0, makers, chosen)
        parts, places = [parents.take(np.empty(0, np.int64))], [np.empty(0, np.int64)]
        for index, member in enumerate(self.members):
            own = np.random.default_rng(rng.integers(2**63))
            mine = chosen == index
            # parameters are the maker's own affair: no other member sees them
            for rows, given in ((mine & (makers == index), _unpacked), (mine & (makers != index), _without)):
                where = np.flatnonzero(rows)
                if len(where):
                    made = member.vary(given(parents.take(where)), degree, own)
                    parts.append(self._marked(made, index, len(where)))
                    places.append(where)
        return concatenate(parts).take(np.argsort(np.concatenate(places), kind="stable"))

    def adapted(self, candidates: Population, votes: NDArray[np.float64], sigma: float) -> MixtureAPI:
        """The mixture with the shares that the released votes ask for: see ``pe.protocols.Adaptive``."""
        makers = self._makers(candidates)
        made = np.bincount(makers[makers >= 0], minlength=len(self.members)).astype(np.float64)
        if self.follow == "nothing" or (made == 0).all():
            return self
        won = np.bincount(makers[makers >= 0], votes[makers >= 0], len(self.members))
        mean = won.sum() / made.sum()
        if mean <= 0:
            return self
        # a mean that differs by no more than its noise is taken for the mean of all (positive-part James-Stein)
        noise = sigma / np.sqrt(np.maximum(made, 1))
        away = np.where(made > 0, won / np.maximum(made, 1) - mean, 0.0)
        away *= np.maximum(0.0, 1 - noise**2 / np.maximum(away**2, 1e-300))
        moved = made * np.maximum(mean + away, 0.0)
        if moved.sum() <= 0:
            return self
        untried = np.where(made == 0, self.share, 0.0)
        share = untried + (1 - untried.sum()) * moved / moved.sum()
        return replace(self, share=self.floor + (1 - self.floor * len(self.members)) * share)

    def _makers(self, population: Population) -> NDArray[np.int64]:
        """Position of the member that made each sample, -1 where none did; int64 (n,)."""
        position = {name: index for index, name in enumerate(self.names)}
        return np.array([position.get(name, -1) for name in population.origin.to_pylist()], np.int64)

    def _marked(self, made: Population, index: int, n: int) -> Population:
        """A member's ``n`` samples under its name, their parameters packed."""
        name = self.names[index]
        if len(made) != n:
            raise APIError(f"API '{name}', of a mixture: expected {n} samples, got {len(made)}.")
        held = made.parameters
        packed = [None] * n if held is None else [_packed(held.slice(row, 1)) for row in range(n)]
        return replace(
            made,
            origin=pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([name])),
            parameters=pa.table({PARAMETERS: pa.array(packed, pa.binary())}),
        )


def _packed(row: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_table(row)
    return bytes(sink.getvalue())


def _unpacked(samples: Population) -> Population:
    """A member's samples with the parameters it gave them; another API's of its name, as they are."""
    held = samples.parameters
    if held is None or held.column_names != [PARAMETERS]:
        return samples
    rows = held.column(PARAMETERS).to_pylist()
    if None in rows:
        return _without(samples)
    return replace(samples, parameters=pa.concat_tables([pa.ipc.open_stream(row).read_all() for row in rows]))


def _without(samples: Population) -> Population:
    return replace(samples, parameters=None)
