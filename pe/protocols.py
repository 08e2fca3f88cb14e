"""The seams a user can fill: an API that proposes samples, an embedder that maps records to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pe.data.population import Population
from pe.journal import Journal, Usage


@runtime_checkable
class API(Protocol):
    """Proposes synthetic samples; never sees private data (Lin et al. 2024, RANDOM_API and VARIATION_API).

    A run asks for a few samples before it spends anything, and throws them away: what is returned must follow from the
    arguments and from how the API was made, not from earlier calls.
    """

    @property
    def name(self) -> str: ...

    def random(self, n: int, label: int, rng: np.random.Generator) -> Population:
        """Return ``n`` fresh samples of one label (a position in the schema's label set)."""
        ...

    def vary(self, parents: Population, degree: float, rng: np.random.Generator) -> Population:
        """Return one variation of each parent, in order, with the parent's label.

        ``degree`` in [0, 1] says how far a variation may go; 0 is closest to the parent.
        """
        ...


@runtime_checkable
class Piecemeal(Protocol):
    """An API that makes its samples one after another and hands them over as they are finished.

    Not asked of an API: where there is a ``listen``, a run sets it while the samples to come will be embedded.
    """

    def listen(self, callback: Callable[[pa.Table], None] | None) -> None:
        """From now on call ``callback`` with every sample that is finished; None ends it.

        The callback takes a table of the schema's features, of one row or several, in any order, from any thread; it
        returns at once and raises nothing. What is handed over is a hint: ``random`` and ``vary`` return all samples
        as ever, and one that was never handed over, or changed since, is embedded after them.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """An API whose answers cost money or much time. Not asked of an API: a run lends it a place to keep them."""

    def record(self, journal: Journal | None) -> None:
        """From now on write every call and its answer to ``journal``; None ends it.

        The samples asked for next are those of the journal's iteration, from its beginning. What it holds already was
        paid for by an attempt that came to no end: the same questions, asked again, are answered from there.
        """
        ...

    def ready(self) -> None:
        """Raise ConfigError or APIError where no call could succeed: a run asks once, before it spends anything.

        One call may be made to find out. Its answer is judged as those of the run are, and kept in the journal.
        """
        ...

    def estimate(self, fresh: int, varied: int) -> Usage:
        """What so many fresh samples and variations will come to, about; calls nobody."""
        ...


@runtime_checkable
class Capped(Protocol):
    """A metered API with caps on what it may use. Not asked of an API."""

    def check_caps(self, fresh: int, varied: int) -> list[str]:
        """Compare the caps with what so many fresh samples and variations will come to, about; calls nobody.

        Raises ConfigError where not even the fresh samples fit; returns a warning where the rest does not.
        """
        ...


@runtime_checkable
class Composite(Protocol):
    """An API made of others. Not asked of an API: a run tries each member before it spends anything."""

    @property
    def members(self) -> Sequence[API]: ...


@runtime_checkable
class Adaptive(Protocol):
    """An API that makes its variations otherwise after a vote. Not asked of an API."""

    def adapted(self, candidates: Population, votes: NDArray[np.float64], sigma: float) -> API:
        """Return the API that varies the parents which this vote selects; of its own accord this one changes nothing.

        candidates  what was voted on.
        votes       float64 (m,), the *released noisy* votes of each; where the round has none, how often the candidate
                    was selected.
        sigma       standard deviation of the noise in them, in votes; 0 where there are none.

        What it returns must follow from these and from how the API was made, not from earlier calls: a resumed run
        calls it again with the stored histogram.
        """
        ...


@runtime_checkable
class Embedder(Protocol):
    """A record-wise map to vectors: each output row depends on its own record alone.

    ``scale`` and ``limit`` are public: a vector x enters the vote as the integers clip(round(scale * x), +-limit).
    ``name`` identifies the map and everything it was configured with, the revision of a model among it.

    An embedder may have an attribute ``costly`` that is true: embeddings of private records are then stored in the
    private cache, and each is made once for all runs.
    """

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def limit(self) -> int: ...

    def embed(self, table: pa.Table) -> NDArray[np.float32]:
        """Return float32 (n, dim) for a table of the schema's features."""
        ...


@runtime_checkable
class Blocked(Protocol):
    """An embedder that keeps the columns of a record apart. Not asked of one: kernel votes look at few at a time."""

    @property
    def blocks(self) -> Sequence[slice]:
        """The entries of each column, in public: disjoint slices of 0 .. dim."""
        ...
