"""One TOML file per run: parsed, checked, resolved. Unknown keys are refused."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pe.data.dialect import AUTO, CsvOptions
from pe.data.labels import as_label
from pe.data.parts import is_address
from pe.errors import ConfigError, SchemaError
from pe.privacy.accountant import accountant_from
from pe.privacy.budget import Adjacency, Budget, Unit

PerRound = int | list[int]
Name = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrivateConfig(_Section):
    """Where the private records are, and the public schema that describes them.

    ``label`` names the column, or the columns, that condition generation: by default the schema's.
    ``user`` names the column that says whose record it is; unit "user" needs it.
    ``delimiter``, ``encoding`` and ``multiline`` are for CSV and TSV files: see ``pe.data.dialect.CsvOptions``.
    """

    source: Name
    schema_: Name | None = Field(default=None, alias="schema")
    path: str | None = None
    format: str | None = None
    label: str | tuple[str, ...] | None = None
    user: Name | None = None
    columns: dict[str, str] = {}
    delimiter: str = AUTO
    encoding: str = AUTO
    multiline: bool | None = None

    @model_validator(mode="after")
    def _check_csv_options(self) -> PrivateConfig:
        self.csv_options()
        return self

    def csv_options(self) -> CsvOptions:
        return CsvOptions(self.delimiter, self.encoding, self.multiline)

    @field_validator("label", mode="before")
    @classmethod
    def _names(cls, label: Any) -> Any:
        try:
            return as_label(label)
        except SchemaError:
            raise ValueError("expected a column or a list of different ones") from None


class BoughtShares(_Section):
    """Label shares from a noisy release of the label counts, paid with this share of the squared GDP budget."""

    budget_share: Annotated[float, Field(gt=0, lt=1)]


class PrivacyConfig(_Section):
    """The claim. ``label_shares`` defaults to buying them with 2 % of the budget when there is a label; cross-tables,
    which need the counts for more, spend 3 % on them whatever is asked. A list holds a share for every label, those
    of several columns in row-major order: the last column's values vary fastest.

    user_norm   for unit "user": the L2 norm to which all votes of one user together are scaled down.
    accountant  "gdp", or "renyi:ORDER" for a source that is also charged for DP-SGD.
    at_least    how many private records (users) there are known to be, publicly: a budget that is too small to tell
                anything about fewer is then taken.
    simulate    a seed: simulate the run with noise that repeats. No ledger is opened, and nothing is private.
    """

    epsilon: float
    delta: float
    adjacency: Adjacency
    unit: Unit = Unit.RECORD
    user_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    accountant: str = "gdp"
    at_least: Annotated[int, Field(ge=1)] | None = None
    simulate: Annotated[int, Field(ge=0)] | None = None
    label_shares: Literal["uniform"] | list[Annotated[float, Field(ge=0)]] | BoughtShares = BoughtShares(
        budget_share=0.02
    )

    def budget(self) -> Budget:
        return Budget(self.epsilon, self.delta, self.adjacency, self.unit, accountant_from(self.accountant))


PATHS = ("path", "schema", "corpus", "templates", "demos")
"""Keys that are paths, in the section of the private data, an API or an embedder, and in the tables within them."""


MAIN_KEYS = {
    "nearest": "path",
    "ngram": "corpus",
    "openai": "model",
    "transformers": "model",
    "masked": "model",
    "sentence": "model",
}
"""The key that "kind:value" gives beside the kind."""


class _Kind(BaseModel):
    """A section with a kind and its own keys. "kind:value", for the kinds of ``MAIN_KEYS``, is short for both."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: Name

    @model_validator(mode="before")
    @classmethod
    def _spelt_out(cls, data: Any) -> Any:
        section = {"kind": data} if isinstance(data, str) else data
        if not isinstance(section, dict) or not isinstance(section.get("kind"), str):
            return section
        kind, colon, value = section["kind"].partition(":")
        if not colon or kind not in MAIN_KEYS:
            return section
        key = MAIN_KEYS[kind]
        if not value or key in section:
            raise ValueError(f"'{kind}:' is followed by its {key}, once")
        return section | {"kind": kind, key: value}


class ApiConfig(_Kind):
    """A kind of API, its own keys, and for how many rounds it varies (the last one: for the rest).

    ``members``, of a mixture, are such sections too, each with its ``share``.
    """

    rounds: Annotated[int, Field(ge=1)] | None = None


class EmbedderConfig(_Kind):
    """A kind of embedder and its own keys."""


class Geometric(_Section):
    """Budget shares that grow, or fall, by the same factor from each iteration to the next."""

    geometric: Annotated[float, Field(gt=0)]

    def weights(self, count: int) -> list[float]:
        return [self.geometric ** (number / max(count - 1, 1)) for number in range(count)]


class KernelConfig(_Section):
    """A noisy kernel mean by which every iteration selects, see ``pe.evolution.kernel.Kernel``.

    share  of the budget that is left for the iterations, the rest is for votes; by default all of it with method
           "kernel-votes", whose iterations then need no votes, and half of it with the others.
    """

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    features: Annotated[int, Field(ge=1, le=20_000)] | None = None
    bandwidth: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    columns: Annotated[int, Field(ge=0)] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    family: Annotated[int, Field(ge=0)] | None = None
    repulsion: Annotated[float, Field(ge=0, le=1)] | None = None
    contrast: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class EvolutionConfig(_Section):
    """The method, and settings that replace its own: one value for all iterations, or one per iteration.

    vote_weights    votes for the nearest candidate, the second nearest, ...; replaces ``nearest`` (one for each).
    targets         columns beside the label that models will be trained to predict, numbers too: cross-tables count
                    above all what hangs together with them.
    budget_weights  how the budget is split over the iterations: "constant"; {"geometric": 3} (the last gets three times
                    the first one's share); or a list of relative shares.
    distinct        cosine of embeddings above which two candidates of a label are near-duplicates, of which only the
                    better one is released; 1: any are. Free of charge.
    """

    method: str | None = None
    targets: list[Name] | None = None
    iterations: Annotated[int, Field(ge=1)] | None = None
    population: Annotated[int, Field(ge=1)] | None = None
    parents: PerRound | None = None
    selection: Literal["sample", "rank"] | list[Literal["sample", "rank"]] | None = None
    threshold: float | list[float] | None = None
    variations: PerRound | None = None
    keep: bool | list[bool] | None = None
    degree: float | list[float] | None = None
    lookahead: PerRound | None = None
    nearest: PerRound | None = None
    vote_weights: list[float] | None = None
    budget_weights: Literal["constant"] | Geometric | list[float] | None = None
    distinct: Annotated[float, Field(gt=0, le=1)] | None = None
    kernel: KernelConfig | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class OutputConfig(_Section):
    """Where the run goes, how many records it releases, and in which formats (default: by the schema).

    rows  by default 1000; with a method that measures first and does not vote, about as many as there are private ones.
    """

    run: Name
    rows: Annotated[int, Field(ge=1)] | None = None
    formats: list[Name] | None = None


class ExecutionConfig(_Section):
    """Who counts the votes. It decides no result, and may be another one when a run is resumed.

    executor  "local", this process (the default without workers); "processes", of this machine (the default with
              workers); "dask", "ray"; or "prefect", the task runner of the flow that the run is.
    workers   how many processes, or workers of a local cluster; at an address: how many to cut the work for.
    address   of a running Dask scheduler or Ray cluster; without one a local cluster is started, and stopped.

    All but "local" keep the private embeddings in PE_CACHE, which every worker must reach under the same path.
    """

    executor: Literal["local", "processes", "dask", "ray", "prefect"] | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    address: Name | None = None

    @model_validator(mode="after")
    def _fits(self) -> ExecutionConfig:
        if self.executor == "local" and self.workers is not None:
            raise ValueError("'local' has no workers: the search itself uses every core")
        if self.address is not None and self.executor not in ("dask", "ray"):
            raise ValueError("an address belongs to executor 'dask' or 'ray'")
        return self


class Config(_Section):
    private: PrivateConfig
    privacy: PrivacyConfig
    api: list[ApiConfig]
    embedder: EmbedderConfig | None = None
    evolution: EvolutionConfig = EvolutionConfig()
    execution: ExecutionConfig = ExecutionConfig()
    output: OutputConfig

    @model_validator(mode="before")
    @classmethod
    def _one_api_is_a_list_of_one(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("api"), (dict, str)):
            return data | {"api": [data["api"]]}
        return data

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Config:
        """Check settings; raises ConfigError naming the first key that is wrong."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(f"{problem(error, 'configuration')}. Nothing was spent.") from None

    @classmethod
    def read(cls, path: str | Path) -> Config:
        """Read a TOML file; relative paths in it are relative to its folder."""
        place = Path(path)
        try:
            settings = tomllib.loads(place.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{place} cannot be read: {error.strerror}. Nothing was spent.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{place} is not valid TOML: {error}. Nothing was spent.") from None
        try:
            return cls.of(settings).anchored(place.parent.resolve())
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None

    def anchored(self, folder: Path) -> Config:
        """The same configuration with relative paths made absolute."""

        def absolute(path: Any) -> Any:
            if isinstance(path, list):
                return [absolute(each) for each in path]
            return str(folder / path) if isinstance(path, str) and not is_address(path) else path

        data = self.resolved()
        data["output"]["run"] = absolute(self.output.run)
        for section in _nested([data["private"], data["api"], data.get("embedder")]):
            for key in PATHS:
                if key in section and not (key == "demos" and isinstance(section[key], list)):  # those are texts
                    section[key] = absolute(section[key])
            if str(section.get("model")).startswith(("./", "../")):  # any other may be a name on a hub
                section["model"] = absolute(section["model"])
        return Config.model_validate(data)

    def resolved(self) -> dict[str, Any]:
        """Plain values, ready for TOML: what a run directory stores."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _nested(value: Any) -> Iterator[dict[str, Any]]:
    """Every table among settings, however deep."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nested(each)


def problem(error: ValidationError, whole: str) -> str:
    """The first thing that pydantic found wrong, in our words; ``whole`` names what was checked."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or whole
    reason = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(first["type"], first["msg"])
    got = "" if first["type"] in ("missing", "extra_forbidden") else f", got {first['input']!r}"
    return f"{where}: {reason.removeprefix('Value error, ')}{got}"
