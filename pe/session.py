"""A run at work: configuration, ledger account, private data and directory held together, one iteration at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pe.advice import budget_warnings
from pe.build import DEFAULT_ROWS, build_apis, build_embedder, build_executor, build_plan
from pe.card import declared_public, write_card
from pe.config import Config
from pe.data.public_files import require_public
from pe.data.ranges import check_ranges
from pe.data.schema import Schema
from pe.delivery import (
    Synthetic,
    data_digests,
    examples,
    on_steps,
    public_files,
    release_folder,
    released,
    replace_folder,
    stamped,
    with_certificate,
)
from pe.errors import BudgetExceededError, ConfigError, LedgerError, PEError, RunError, RunMismatchError
from pe.evolution.candidates import CandidateEmbedder
from pe.evolution.kernel import Target, noted
from pe.evolution.loop import Evolution, Generation, label_shares
from pe.evolution.plan import Plan
from pe.export import check_formats, default_formats
from pe.files import require_folder
from pe.preflight import check_run
from pe.privacy.accountant import add, fits
from pe.privacy.budget import Budget, Unit
from pe.privacy.certificate import digests, draft, issue, simulated_certificate
from pe.privacy.ledger import Account, Ledger, canonical, charges, drawn, granted, spent, undrawn
from pe.privacy.release import Histogram, Votes
from pe.privacy.signature import signer
from pe.privacy.simulation import STAMP, WARNING, SimulatedAccount
from pe.private.dataset import PrivateDataset
from pe.private.embeddings import make_ready, on_disk
from pe.private.execution import Local, ShardExecutor
from pe.protocols import API, Embedder
from pe.rehearsal import rehearse, rehearse_workers
from pe.resumption import mechanism_settings
from pe.run import Run
from pe.shield import shielded

PATH_MAX = 4096

_LOG = logging.getLogger("pe")

APIS = "apis"
"""Under which notes name the APIs whose samples the run is made of, with the public data that each declared."""


@dataclass
class Blueprint:
    """Everything about a run that is public: checked before a ledger or a private record is touched."""

    config: Config
    schema: Schema
    apis: list[API]
    embedder: Embedder
    plan: Plan
    formats: list[str]

    @classmethod
    def of(cls, config: Config, schema: Schema) -> Blueprint:
        """Build and check; raises ConfigError or SchemaError, nothing spent."""
        if (config.privacy.unit is Unit.USER) != (config.private.user is not None):
            raise ConfigError(
                "unit = 'user' needs private.user, the column that says whose record it is, and private.user needs "
                "privacy.unit = 'user': set both, or neither. Nothing was spent."
            )
        for section in config.api:
            require_public(_texts(section.model_extra), config.private.path, f"api '{section.kind}'")
        schema = schema.with_label(config.private.label or schema.label)
        check_ranges(schema)
        formats = config.output.formats or default_formats(schema)
        check_formats(formats, schema)
        apis, embedder = build_apis(config, schema), build_embedder(config, schema)
        return cls(config, schema, apis, embedder, build_plan(config, schema), list(formats))

    @property
    def budget(self) -> Budget:
        return self.config.privacy.budget()

    @property
    def rows(self) -> int | None:
        """Records to release; None: as many as the plan's start makes."""
        return self.config.output.rows or (None if self.plan.population == 0 else DEFAULT_ROWS)

    @property
    def warnings(self) -> list[str]:
        """What should be said of the budget before any of it is spent."""
        return budget_warnings(self.budget, self.plan.at_least)

    def fingerprint(self) -> str:
        """Digest of all in configuration and schema that decides what is released, noted with every charge."""
        return sha256(
            canonical([mechanism_settings(self.config.resolved()), self.schema.to_toml()]).encode()
        ).hexdigest()


@dataclass
class Session:
    """An open run. Use as a context manager: it holds the directory's lock.

    ``generation`` is the newest one, None before the first; ``stopped`` says why the run ended before its last
    iteration, if it did.
    """

    blueprint: Blueprint
    run: Run
    account: Account | SimulatedAccount
    private: PrivateDataset
    warnings: list[str]
    generation: Generation | None = None
    stopped: str = ""

    def __post_init__(self) -> None:
        public, self.notes, self._asked = self.blueprint, self.run.notes, False
        self._evolution = Evolution(
            self.private,
            public.apis,
            CandidateEmbedder(public.embedder),
            public.plan,
            public.budget,
            self.run.releaser(self.account),
            public.config.evolution.seed,
            self.notes,
        )

    @classmethod
    def open(
        cls,
        blueprint: Blueprint,
        data: object,
        *,
        ledger: str | Path | None = None,
        create: bool = False,
        executor: ShardExecutor | None = None,
    ) -> Session:
        """Lock the run directory, check budget and schema, then read the private data and pick up the newest iteration.

        ``create`` makes the ledger and the source if they do not exist, and grants the source exactly this run's
        budget. ``executor`` counts the votes in place of the configured one, and is closed with the session. Raises
        RunLockedError, RunMismatchError, UnknownSourceError, BudgetExceededError (before anything is spent) or
        PrivateDataError.
        """
        config, budget = blueprint.config, blueprint.budget
        executor = executor or build_executor(config)
        simulated = config.privacy.simulate is not None
        book = None if simulated else Ledger(ledger, create=create)
        run = Run.open(Path(config.output.run), config.resolved(), blueprint.schema, blueprint.plan)
        try:
            require_folder(release_folder(run.path, {"simulated": simulated}))
            account = _simulated(blueprint) if book is None else _account(blueprint, book, run, create)
            private = PrivateDataset.read(
                data,
                blueprint.schema,
                adjacency=budget.adjacency,
                format=config.private.format,
                columns=config.private.columns,
                user=config.private.user,
                options=config.private.csv_options(),
            )
            private.executor = executor
            warnings = _bind(account, private) if isinstance(account, Account) else [WARNING]
            session = cls(blueprint, run, account, private, blueprint.warnings + warnings)
            session._restore()
            session._warn_of_a_shortfall()
        except BaseException:
            run.close()
            raise
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._evolution.candidates.close()
        self.private.executor.close()
        self.run.close()

    # -- iterations ------------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        generation, plan = self.generation, self.blueprint.plan
        if generation is None:
            return False
        return bool(self.stopped) or generation.iteration == plan.iterations or self.converged

    @property
    def converged(self) -> bool:
        """Whether the run ended because further rounds without votes would change nothing for the better."""
        return self.generation is not None and self._evolution.converged(self.generation)

    @property
    def distance(self) -> float | None:
        """Estimated squared MMD of the newest choice from the private records, where the plan has a kernel."""
        return None if self.generation is None else self.notes.get(noted(self.generation.iteration))

    def advance(self) -> Generation:
        """Make and store the next generation (generation 0 first).

        When the budget does not allow another iteration, the run stops with the newest generation, if at least one
        iteration was done; otherwise BudgetExceededError is raised. Any other error says what was spent.
        """
        before, evolution = self.generation, self._evolution
        try:
            with self.run.journals(0 if before is None else before.iteration + 1, self.blueprint.apis):
                self._ready()
                made = evolution.first() if before is None else evolution.step(before)
            self.run.store_population(made.iteration, made.population)
        except BudgetExceededError as error:
            if before is None or before.iteration == 0:
                raise error.spent(self.spending()) from None
            self.stopped = str(error)
            return before
        except PEError as error:
            raise error.spent(self.spending()) from None
        self.generation = made
        return made

    def _ready(self) -> None:
        """Once, before anything is spent: try what the run needs of this machine, of its APIs and of its embedder.

        In the order of what it takes: folders and workers, a few public samples of the APIs, the private embeddings.
        """
        if self._asked:
            return
        public, newest = self.blueprint, self.generation
        completed = None if newest is None else newest.iteration
        rehearse(self.run, public.plan, public.schema, public.formats, public.rows or DEFAULT_ROWS, completed)
        votes = any(each.sigma is not None for each in public.plan.rounds[completed or 0 :])
        embeds = votes or (public.plan.kernel is not None and newest is None)
        if embeds and on_disk(self.private, public.embedder):
            rehearse_workers(self.private.executor if votes else Local())
        checked = check_run(
            public.plan,
            public.schema,
            public.apis,
            public.embedder,
            completed=completed,
            population=None if newest is None else newest.population,
        )
        self.warnings += checked.warnings
        for warning in checked.warnings:  # public, and of use before anything is spent
            _LOG.warning("%s", warning)
        if checked.embedder is not public.embedder:
            self._evolution = replace(self._evolution, candidates=CandidateEmbedder(checked.embedder))
        if embeds and newest is None and not self.run.histograms():
            ready = partial(make_ready, self.private, checked.embedder, users=public.config.private.user is not None)
            shielded("embedding the private records", ready, "Nothing was charged for it.")
        self._note_apis()
        self._asked = True

    def _note_apis(self) -> None:
        """Note which APIs make samples of this run, and what public data each declared: they may change on resume."""
        names = {api.name: str(getattr(api, "public_data", "")) for api in self.blueprint.apis}
        if not names.items() <= self.notes.get(APIS, {}).items():
            self.notes[APIS] = self.notes.get(APIS, {}) | names

    def generations(self) -> Iterator[Generation]:
        """Advance until done, yielding each new generation."""
        while not self.done:
            before = self.generation
            made = self.advance()
            if made is not before:
                yield made

    def spending(self) -> str:
        """One sentence on the budget, for errors and summaries."""
        done, planned = 0 if self.generation is None else self.generation.iteration, self.blueprint.plan.iterations
        stored = f", {done} of {planned} iterations are stored" if planned else ""
        try:
            amount = f"epsilon {self.account.epsilon_spent():.4g} of {self.blueprint.budget.epsilon:g} is spent"
        except LedgerError:  # the disk that failed may be the ledger's, too
            amount = "what is spent stands in the ledger, which cannot be read now"
        return f"Budget: {amount}{stored}; 'pe resume {self.run.path}' goes on without paying again for what is stored."

    def _warn_of_a_shortfall(self) -> None:
        """Say that a run which lost charges, or whose source gave budget to others, will stop early: before it does."""
        account, plan, budget, newest = self.account, self.blueprint.plan, self.blueprint.budget, self.generation
        if not isinstance(account, Account) or newest is None or self.done:
            return
        chain = account.ledger.chain(account.source)
        waiting = spent([entry for entry in chain if entry.kind == "grant"] + undrawn(chain, account.run))
        stored = plan.cost(budget, newest.iteration)

        def affordable(iterations: int) -> bool:
            rest = [
                cost - before - paid
                for cost, before, paid in zip(plan.cost(budget, iterations), stored, waiting, strict=True)
            ]
            return all(
                fits(add(before, tuple(rest)), limit)
                for before, limit in (
                    (spent(chain, account.run), budget.limit),
                    (spent(chain), granted(chain).limit),
                )
            )

        last = plan.iterations
        while last > newest.iteration and not affordable(last):
            last -= 1
        if last < plan.iterations:
            self.warnings.append(
                f"the budget that is left pays for iterations up to {last} of the {plan.iterations} that are planned: "
                "the run will be released from there. A charge that was lost is not refunded."
            )

    def _restore(self) -> None:
        self._refuse_unpaid()
        number = self.run.last_iteration()
        if number is None:
            return
        plan = self.blueprint.plan
        population = self.run.population(number, self.blueprint.schema)
        if number == plan.iterations and len(population) < (self.blueprint.rows or 0):
            # more records are asked for than were made: the last step is taken anew, from the same released sums
            number -= 1
            if number < 0:
                return
            population = self.run.population(number, self.blueprint.schema)
        shares = label_shares(plan, self.blueprint.schema, self.run.histogram(0))
        target = None if plan.kernel is None else self._stored_target(shares)
        self.generation = Generation(number, population, shares, self.run.histogram(number) if number else None, target)
        if isinstance(self.account, SimulatedAccount):
            self.account.resume(plan.cost(self.blueprint.budget, number))

    def _stored_target(self, shares: NDArray[np.float64]) -> Target | None:
        """The kernel mean as it was released; raises RunError where it is lost."""
        release = self._evolution.release

        def stored(votes: Votes, sigma: Fraction, iteration: int, name: str = "histogram") -> Histogram:
            if self.run.histogram(iteration, name) is None:
                raise RunError(
                    f"{self.run.iteration(iteration) / name}.npz is missing: restore it from a backup. A new one would "
                    "be drawn, and charged, in a run directory of another name. Nothing was spent by this call."
                )
            return release(votes, sigma, iteration, name)

        counts = self.run.histogram(0) if self.blueprint.plan.start is None else None
        begun = Generation(0, self.run.population(0, self.blueprint.schema), shares, counts)
        return replace(self._evolution, release=stored).aimed(begun).target

    def _refuse_unpaid(self) -> None:
        """Raise RunMismatchError for a stored histogram that this ledger did not charge to this run.

        Going on would end in a certificate without the charges behind it.
        """
        paid, noisy = {STAMP}, {STAMP}
        if isinstance(self.account, Account):
            chain = self.account.ledger.chain(self.account.source)
            paid = {entry.hash for entry in charges(chain, self.account.run)}
            noisy = drawn(chain, self.account.run)
        for number, name in self.run.histograms():
            stored = self.run.histogram(number, name)
            if stored is not None and stored.entry not in paid:
                raise RunMismatchError(
                    f"{self.run.path}: {name}.npz of iteration {number} was not charged to this run in this ledger: "
                    "name the ledger that the run was begun with. Nothing was spent by this call."
                )
            if stored is not None and stored.entry not in noisy:
                raise RunMismatchError(
                    f"{self.run.path}: {name}.npz of iteration {number} is stored, and this ledger drew no noise for "
                    "it: it was rolled back. Restore its newest copy. Nothing was spent by this call."
                )

    # -- the release -----------------------------------------------------------------------------------------------

    def finish(self) -> Synthetic:
        """Write the release folder (data files, CARD.md, certificate.json, schema.toml, contact sheet) and return it.

        Free of charge, and repeated by every call. The ledger enters what is released before it is in its place.
        """
        assert self.generation is not None
        public = self.blueprint
        schema, plan = public.schema, public.plan
        rows = public.rows or len(self.generation.population)
        seed = public.config.evolution.seed
        population = on_steps(released(self.generation.population, self.generation.shares, rows, seed), schema)
        files = public_files(population, schema, public.formats)
        apis = self.notes.get(APIS) or {api.name: getattr(api, "public_data", "") for api in public.apis}
        notes = [note for note in apis.values() if note]
        public_facts = declared_public(schema, plan, notes, public.budget, self.private.public_form)
        completed, usage = (self.generation.iteration, plan.iterations), self.run.usage()
        if isinstance(self.account, Account):
            chain = self.account.ledger.chain(self.account.source)
            certificate = draft(
                chain, run=self.run.identity, budget=public.budget, completed=completed, declared_public=public_facts
            )
        else:
            certificate = simulated_certificate(self.account, public.config.private.source, completed, public_facts)
        card = write_card(
            public.config.private.source,
            certificate,
            schema,
            plan,
            apis=list(apis) if plan.rounds or plan.start is None else [],
            embedder=public.embedder.name if plan.rounds else "none",
            label_sizes=np.bincount(population.labels, minlength=len(schema.labels)).tolist(),
            converged=self.converged,
            distance=self.distance,
            examples=examples(population, schema),
            usage=usage,
            warnings=public.warnings,
        )
        files["CARD.md"] = card.encode()
        content = self.run.store_released(population)
        ledger = None
        if isinstance(self.account, Account):
            data = data_digests(content, (self.run.path / "schema.toml").read_bytes())
            certificate = issue(self.account.ledger, certificate, files=digests(files), data=data)
            files, ledger = with_certificate(files, certificate), self.account.ledger.path
        else:
            files = stamped(files, certificate)
        replace_folder(release_folder(self.run.path, certificate), files)
        return Synthetic(
            population, schema, certificate, self.run.path, self.stopped, tuple(self.warnings), usage, ledger
        )


def _account(blueprint: Blueprint, book: Ledger, run: Run, create: bool) -> Account:
    """The run's account of its source, granted if asked for; refused if the source cannot pay the whole plan."""
    source, budget = blueprint.config.private.source, blueprint.budget
    if create and source not in book.sources():
        book.create(source, budget)
    account = book.account(source, run=run.identity, budget=budget, config=blueprint.fingerprint())
    _check_affordable(blueprint.plan, account)
    signer(book.key_path)  # what it lacks is said before anything is spent
    book.declare(source, blueprint.schema.with_label(None).fingerprint())
    return account


def _texts(value: object) -> Iterator[str]:
    """Every text among settings that may be a path, however deep."""
    if isinstance(value, str):
        if len(value) < PATH_MAX and "\0" not in value:
            yield value
    elif isinstance(value, (Mapping, list)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _simulated(blueprint: Blueprint) -> SimulatedAccount:
    assert blueprint.config.privacy.simulate is not None
    return SimulatedAccount(blueprint.budget, blueprint.config.privacy.simulate)


def _check_affordable(plan: Plan, account: Account) -> None:
    """Refuse a new run whose plan the source cannot pay in full, before anything is spent."""
    chain = account.ledger.chain(account.source)
    if charges(chain, account.run):
        return  # begun before: it goes on for as long as the budget lasts
    grant = granted(chain)
    total = add(spent(chain), plan.cost(account.budget))
    if not fits(total, grant.limit):
        raise BudgetExceededError(
            f"with this run source '{account.source}' would have spent epsilon {grant.epsilon_of(total):.4g} of "
            f"{grant.epsilon:g} at delta {grant.delta:g}: lower privacy.epsilon, or grant more with 'pe budget grant "
            f"{account.source}'. Nothing was spent."
        )


def _bind(account: Account, private: PrivateDataset) -> list[str]:
    """Compare the data with those of the run's start; return warnings about other sources that hold the same."""
    fingerprint = account.ledger.fingerprint(private.content_digest())
    before, others = account.ledger.bind(account.source, account.run, fingerprint)
    if before not in (None, fingerprint):
        raise RunMismatchError(
            "the private data changed since this run was started: restore them, or name another run directory. "
            "Nothing was spent by this call."
        )
    return [
        f"source '{other}' was charged for the same data: what the two sources release adds up for the same people"
        for other in others
    ]
