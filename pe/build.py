"""From a configuration to the objects of a run: APIs, embedder, plan. Touches no private data."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from dataclasses import replace
from fractions import Fraction
from operator import attrgetter
from typing import Any

from pydantic import ValidationError

from pe.config import ApiConfig, BoughtShares, Config, EmbedderConfig, Geometric, problem
from pe.data.schema import Categorical, Numeric, Schema
from pe.errors import ConfigError
from pe.evolution.kernel import COUNT_SHARE, Kernel
from pe.evolution.methods import default_method, distinct, kernel_settings, settings, start
from pe.evolution.plan import Plan, Round, noise_scales
from pe.evolution.start import Start, records_needed, resolution
from pe.privacy.budget import Unit
from pe.privacy.contribution import Contribution
from pe.private.clusters import DaskExecutor, RayExecutor
from pe.private.execution import Local, Processes, ShardExecutor, cores
from pe.protocols import API, Embedder

APIS = {
    "tabular": "pe.apis.tabular:TabularAPI",
    "text_render": "pe.apis.text_render:TextRenderAPI",
    "nearest": "pe.apis.nearest:NearestAPI",
    "openai": "pe.apis.openai:OpenAIAPI",
    "ngram": "pe.apis.ngram:NGramAPI",
    "mixture": "pe.apis.mixture:MixtureAPI.of",
    "masked": "pe.apis.masked:MaskedAPI",
    "transformers": "pe.apis.transformers:TransformersAPI",
}
DEFAULT_ROWS = 1000

REMOTE = ("openai",)
"""APIs that are asked over a network; there are embedders of that kind, but not for private records."""

EMBEDDERS = {
    "tabular": "pe.embedders.tabular:TabularEmbedder",
    "pixels": "pe.embedders.pixels:PixelEmbedder",
    "sentence": "pe.embedders.sentence:SentenceEmbedder",
}

_PROMISED = {"name", "dim", "scale", "limit", "embed"}
_EXTRAS = {"text_render": "images", "pixels": "images", "sentence": "text", "openai": "openai"}
_EXTRAS |= {"transformers": "text", "masked": "text"}


def build_apis(config: Config, schema: Schema) -> list[API]:
    """One API per ``[[api]]`` section."""
    return [_api(section, schema) for section in config.api]


def _api(section: ApiConfig, schema: Schema) -> API:
    """The API of a section, or of a ``[[api.members]]`` section."""
    made = _mixture(section, schema) if section.kind == "mixture" else _construct(section, APIS, "api", schema)
    if not isinstance(made, API):
        raise ConfigError(f"api '{section.kind}' has no name, random and vary. Nothing was spent.")
    return made


def _mixture(section: ApiConfig, schema: Schema) -> API:
    """A mixture of the APIs in ``members``: each a section of its own, with a relative ``share`` (1)."""
    keys = dict(section.model_extra or {})
    members, shares = [], []
    for number, each in enumerate(keys.pop("members", None) or [], start=1):
        try:
            member = ApiConfig.model_validate(each)
        except ValidationError as error:
            raise ConfigError(f"api.members, {number}: {problem(error, 'a table')}. Nothing was spent.") from None
        own = dict(member.model_extra or {})
        share = own.pop("share", 1.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or member.rounds is not None:
            wrong = "share: expected a number" if member.rounds is None else "rounds belong to the mixture"
            raise ConfigError(f"api.members, {number} ('{member.kind}'): {wrong}. Nothing was spent.")
        members.append(_api(ApiConfig(kind=member.kind, **own), schema))
        shares.append(float(share))
    made: API = _construct(ApiConfig(kind=section.kind, **keys), APIS, "api", members, shares)
    return made


def build_embedder(config: Config, schema: Schema) -> Embedder:
    """The configured embedder; by default pixels for a schema with an image, sentence with a text, else tabular."""
    usual = "pixels" if schema.image is not None else "sentence" if schema.text is not None else "tabular"
    section = config.embedder or EmbedderConfig(kind=usual)
    if section.kind in REMOTE:
        raise ConfigError(
            f"embedder '{section.kind}' would send private records away: embed them on this machine, with 'sentence'. "
            "Nothing was spent."
        )
    embedder: Embedder = _construct(section, EMBEDDERS, "embedder", schema)
    if not set(dir(embedder)) >= _PROMISED:  # isinstance would load a model, to see whether it has a name
        raise ConfigError(f"embedder '{section.kind}' has no name, dim, scale, limit and embed. Nothing was spent.")
    return embedder


def build_executor(config: Config) -> ShardExecutor:
    """Who counts the votes; raises ConfigError where a package is missing. Starts nothing yet."""
    asked = config.execution
    workers = asked.workers or cores()
    kind = asked.executor or ("local" if asked.workers is None else "processes")
    if kind == "prefect":
        raise ConfigError("executor 'prefect' is the task runner of a flow: run it as one. Nothing was spent.")
    if kind == "local":
        return Local()
    if kind == "processes":
        return Processes(workers)
    return (DaskExecutor if kind == "dask" else RayExecutor)(workers, asked.address)


def build_plan(config: Config, schema: Schema) -> Plan:
    """The method's settings, the user's in their place, and noise that spends the whole budget."""
    evolution, rows = config.evolution, config.output.rows or DEFAULT_ROWS
    if evolution.vote_weights is not None and evolution.nearest is not None:
        raise ConfigError("evolution.vote_weights replaces evolution.nearest: set one of them. Nothing was spent.")
    method = evolution.method or default_method(schema, votes=_asks_for_votes(config))
    kernel = _kernel(config, method)
    population, rounds = _rounds(config, method, rows, len(schema.labels))
    records_needed(config.privacy.budget(), config.privacy.user_norm, config.privacy.at_least)
    begin, begin_share = _start(config, schema, method)
    shares, label_share = _label_shares(config, schema)
    if begin is not None:
        label_share = 0.0
    elif kernel is not None:  # whose means are sums over the records of each label
        label_share = max(label_share, COUNT_SHARE)
    if (begin is not None or kernel is not None) and config.privacy.label_shares == "uniform":
        shares = (1 / len(schema.labels),) * len(schema.labels)
    rest = 1 - begin_share - label_share
    if kernel is not None:
        rest, kernel = rest * (1 - kernel.share), replace(kernel, share=rest * kernel.share)
        kernel = kernel.affordable(config.privacy.budget(), config.privacy.user_norm)
    left = 1 - Fraction(begin_share) - Fraction(0 if kernel is None else kernel.share)
    labels = _add_noise(config, rounds, rest, label_share, left)
    plan = Plan(
        evolution.population or population or config.output.rows or 0,
        tuple(Round(**each) for each in rounds),
        shares,
        *labels,
        start=begin,
        start_share=begin_share,
        user_norm=config.privacy.user_norm,
        at_least=config.privacy.at_least,
        kernel=kernel,
    )
    if plan.rounds and plan.rounds[-1].population < rows:
        raise ConfigError(
            f"output.rows asks for {rows} records, the last iteration leaves {plan.rounds[-1].population}: raise "
            "evolution.parents. Nothing was spent."
        )
    return plan


def _rounds(config: Config, method: str, rows: int, labels: int) -> tuple[int, list[dict[str, Any]]]:
    """Size of the first population, and each round's settings as ``pe.evolution.methods`` has them, or the user's.

    ``budget_weight`` and ``nearest`` are set in each, for ``_add_noise``.
    """
    evolution = config.evolution
    population, rounds = settings(method, rows, labels, evolution.iterations)
    if not rounds and (given := sorted(_of_rounds(config))):
        raise ConfigError(
            f"method '{method}' has no rounds, and takes no evolution.{given[0]}: leave it out"
            f"{'; output.rows says how many records are made' if given[0] == 'population' else ''}. Nothing was spent."
        )
    for key in ("parents", "selection", "threshold", "variations", "keep", "degree", "lookahead", "nearest"):
        value = getattr(evolution, key)
        if value is not None:
            for each, chosen in zip(rounds, _spread(key, value, len(rounds)), strict=True):
                each[key] = chosen
    weights = _budget_weights(config, [each.get("budget_weight", 1.0) for each in rounds])
    for each, index, weight in zip(rounds, _stages(config, len(rounds)), weights, strict=True):
        each |= {"api": index, "budget_weight": weight, "nearest": each.get("nearest", 1)}
    if rounds:
        rounds[-1]["distinct"] = distinct(method) if evolution.distinct is None else evolution.distinct
    return population, rounds


def _start(config: Config, schema: Schema, method: str) -> tuple[Start | None, float]:
    """What makes the first population, and its share of the budget; refuses what it cannot make, or too small a one."""
    begin, share = start(method, _targets(config, schema))
    if begin is None and config.evolution.targets:
        raise ConfigError(
            f"evolution.targets belongs to method 'cross-tables' or 'herded-tables', '{method}' votes for whole "
            "records. Leave it out. Nothing was spent."
        )
    if begin is not None:
        if (other := schema.image or schema.text) is not None:
            raise ConfigError(f"method '{method}' makes tables, not {other.kind}s. Nothing was spent.")
        resolution(config.privacy.budget(), share, config.privacy.user_norm)  # raises if too small for fine counts
    return begin, share


def _add_noise(
    config: Config, rounds: list[dict[str, Any]], rest: float, label_share: float, left: Fraction
) -> tuple[Fraction | None, Contribution]:
    """Set the noise of every round, which share ``rest`` of the budget by weight; returns that of the label counts.

    ``rest`` and ``label_share`` together are ``left``, up to rounding. Without a share, no noise: nothing is released.
    """
    budget, weighted = config.privacy.budget(), config.evolution.vote_weights
    norm = config.privacy.user_norm if budget.unit is Unit.USER else None
    weights = [each.pop("budget_weight") for each in rounds]
    nearest = [each.pop("nearest") for each in rounds]
    votes = [Contribution.of(tuple(weighted or (1.0,) * k), norm) for k in nearest]
    scales: list[tuple[Fraction | None, Contribution]] = [(None, each) for each in votes]
    labels: tuple[Fraction | None, Contribution] = (None, Contribution())
    asked = [] if label_share == 0 else [(label_share, Contribution.of(norm=norm))]
    if rest > 0:
        asked += [(rest / sum(weights) * weight, each) for weight, each in zip(weights, votes, strict=True)]
    if asked:
        found = noise_scales(budget, [weight for weight, _ in asked], [each for _, each in asked], left)
        if label_share:
            labels = found.pop(0)
        scales[: len(found)] = found
    for each, (sigma, contribution) in zip(rounds, scales, strict=True):
        relative = each.pop("noise_threshold", 0.0)
        each |= {"sigma": sigma, "contribution": contribution}
        each.setdefault("threshold", relative * float(sigma or 0))
    return labels


def _kernel(config: Config, method: str) -> Kernel | None:
    """The kernel mean that the method measures, or that the user asks for beside its votes."""
    own, section = kernel_settings(method), config.evolution.kernel
    if own is None and section is None:
        return None
    if start(method)[1] == 1:
        raise ConfigError(f"method '{method}' has no iterations that a kernel could select in. Nothing was spent.")
    asked = {} if section is None else section.model_dump(exclude_none=True)
    return Kernel(**{"share": 0.5} | (own or {}) | asked)


def _asks_for_votes(config: Config) -> bool:
    """Whether something is set that only rounds of votes can follow: an API other than the default, or a round's."""
    return bool(_of_rounds(config)) or [api.kind for api in config.api] != ["tabular"] or config.embedder is not None


def _of_rounds(config: Config) -> set[str]:
    """The settings of rounds of votes that are given."""
    return set(config.evolution.model_dump(exclude={"method", "targets", "seed"}, exclude_none=True))


def _targets(config: Config, schema: Schema) -> tuple[str, ...]:
    """The declared targets beside the label; raises SchemaError for what is no column, ConfigError for an image."""
    targets = tuple(dict.fromkeys(config.evolution.targets or ()))
    for name in targets:
        if not isinstance(schema.column(name), (Categorical, Numeric)):
            raise ConfigError(f"evolution.targets: '{name}' is neither numbers nor categories. Nothing was spent.")
    return tuple(name for name in targets if name not in schema.label_columns)


def _label_shares(config: Config, schema: Schema) -> tuple[tuple[float, ...] | None, float]:
    choice = config.privacy.label_shares
    if schema.label is None or choice == "uniform":
        return None, 0.0
    if isinstance(choice, BoughtShares):
        return None, choice.budget_share
    if len(choice) != len(schema.labels) or sum(choice) <= 0:
        raise ConfigError(
            f"privacy.label_shares: expected {len(schema.labels)} shares, one per label and not all zero, got "
            f"{len(choice)}. Nothing was spent."
        )
    return tuple(float(share) / sum(choice) for share in choice), 0.0


def _budget_weights(config: Config, default: list[float]) -> list[float]:
    """Relative shares of the budget, one per iteration."""
    choice = config.evolution.budget_weights
    if choice is None:
        return default
    if isinstance(choice, Geometric):
        return choice.weights(len(default))
    return _spread("budget_weights", 1.0 if choice == "constant" else choice, len(default))


def _stages(config: Config, count: int) -> list[int]:
    """Which API varies in each round: every one but the last says for how many rounds."""
    stages: list[int] = []
    if count == 0:
        return stages
    for index, section in enumerate(config.api):
        final = index == len(config.api) - 1
        if section.rounds is None and not final:
            raise ConfigError(f"api {index + 1} ('{section.kind}') needs 'rounds'. Nothing was spent.")
        stages += [index] * (count - len(stages) if final else section.rounds or 0)
    if len(stages) != count or len(set(stages)) != len(config.api):
        raise ConfigError(f"the rounds of the APIs do not fit {count} iterations. Nothing was spent.")
    return stages


def _spread(key: str, value: Any, count: int) -> list[Any]:
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ConfigError(
            f"evolution.{key}: expected one value, or one per iteration ({count}), got {len(value)}. Nothing was spent."
        )
    return value


def _construct(section: ApiConfig | EmbedderConfig, known: dict[str, str], what: str, *given: object) -> Any:
    module, _, name = known.get(section.kind, section.kind).partition(":")
    if not name:
        kinds = ", ".join([*known, "'package.module:Class'"])
        raise ConfigError(f"{what}.kind: expected one of {kinds}, got '{section.kind}'. Nothing was spent.")
    try:
        maker = attrgetter(name)(_import(module))
    except (ImportError, AttributeError) as error:
        extra = _EXTRAS.get(section.kind, "text")
        hint = f" It needs an extra: pip install 'pe-synth[{extra}]'." if section.kind in known else ""
        raise ConfigError(f"{what} '{section.kind}' cannot be imported: {error}.{hint} Nothing was spent.") from None
    keys = section.model_extra or {}
    try:
        inspect.signature(maker).bind(*given, **keys)
    except TypeError as error:
        raise ConfigError(f"{what} '{section.kind}': {error}. Nothing was spent.") from None
    return maker(*given, **keys)


def _import(module: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:  # a class of the user's beside the configuration; the pe command itself does not see it
        sys.path.append(here)
    return importlib.import_module(module)
