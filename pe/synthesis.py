"""``pe.synthesize``: private data in, differentially private synthetic data out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from pe.check import Check
from pe.check import check as check_data
from pe.config import Config, PrivateConfig
from pe.data.labels import label_names
from pe.data.parts import place_of
from pe.data.schema import Categorical, Schema, Text
from pe.delivery import Synthetic
from pe.errors import ConfigError, SchemaError
from pe.session import Blueprint, Session

Progress = Callable[[Session], None]
"""Called after every stored generation."""


def synthesize(
    data: object,
    *,
    schema: Schema | str | Path | None = None,
    text: str | None = None,
    epsilon: float,
    delta: float,
    adjacency: str,
    source: str | None = None,
    user: str | None = None,
    user_norm: float = 1.0,
    label: str | Sequence[str] | None = None,
    labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    label_shares: Any = None,
    api: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
    embedder: str | Mapping[str, Any] | None = None,
    rows: int | None = None,
    iterations: int | None = None,
    method: str | None = None,
    seed: int = 0,
    run: str | Path | None = None,
    formats: list[str] | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str = "auto",
    encoding: str = "auto",
    multiline: bool | None = None,
    ledger: str | Path | None = None,
    create: bool = False,
    check: bool = False,
    simulate: int | None = None,
    at_least: int | None = None,
    execution: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **evolution: Any,
) -> Synthetic:
    """Synthesise a data set under an (epsilon, delta) budget, and return it with its certificate.

    data       a path (CSV, JSONL, Parquet, Arrow, npz, image folder), an Arrow table, a pandas DataFrame or a mapping
               of arrays: see ``pe.data.read``.
    schema     public knowledge about the columns: a Schema, or the path of a TOML file. Never inferred from the data.
    text       in place of a schema: the one column of free text, cut at ``pe.Text.max_length`` characters; with a
               ``label`` also the public list of its values, ``labels``; of several columns {column: values}.
    rows       how many records to release; see ``pe.config.OutputConfig``.
    adjacency  "add-remove" (the number of records is private) or "replace-one" (it is public).
    delimiter, encoding, multiline  of CSV and TSV files: see ``pe.data.dialect.CsvOptions``.
    source     name of the private source in the ledger; by default the file's name. All its runs share one budget.
    user       column that says whose record it is: the guarantee is then per user, not per record, and each user's
               votes together are scaled down to L2 norm ``user_norm``.
    create     grant the source exactly this budget if the ledger does not know it yet.
    check      before the first charge, show on standard error which private values do not fit the schema, and why. What
               is shown is not private, is kept nowhere and changes no result (``pe.check``).
    simulate   a seed: simulate the run with noise that repeats, for data that are not private. No ledger is opened,
               nothing is certified, and every file says so.
    at_least   how many private records there are known to be, publicly: a very small budget is refused without.
    label      name of the categorical column that conditions generation; or a list of them, every combination of whose
               values is then a label.
    label_shares  "uniform", a list (in the order of ``pe.Schema.labels``), or {"budget_share": 0.02} (the default):
               bought with that share of the budget.
    execution  who counts the votes, such as {"workers": 4}: see ``pe.config.ExecutionConfig``. Decides no result.
    api, embedder  a kind, "kind:value" such as "ngram:public.jsonl" or "openai:gpt-4o-mini", "package.module:Class",
               or a mapping of ``kind`` and its keys; by default chosen by the schema. Texts need an API named.
    run        the run directory, by default ``runs/SOURCE``; a stored one is resumed without paying twice.
    evolution  further settings of the method (see ``pe.config.EvolutionConfig``), such as ``targets``.

    Raises a PEError whose text says what to do and whether budget was spent.
    """
    path = place_of(data) if isinstance(data, (str, Path)) else None
    name = source or (PurePath(path).stem if path else None)
    if not name or set(name) & set("*?[]"):
        raise ConfigError("expected a source name for data that are not one file. Nothing was spent.")
    if text is not None:
        if schema is not None:
            raise ConfigError("expected a schema, or the name of its text column, not both. Nothing was spent.")
        schema = text_schema(text, label, labels)
    elif labels is not None:
        raise ConfigError("labels go with text=...; a schema declares its label set itself. Nothing was spent.")
    if schema is None:
        raise ConfigError("expected a schema, or text=... for a column of free text. Nothing was spent.")
    declared = schema if isinstance(schema, Schema) else Schema.read(schema, private=path)
    if api is None and declared.text is not None:
        raise ConfigError(
            "texts need an API that writes them: api='ngram:public.jsonl' (a public corpus, no model), "
            "'transformers:FOLDER', 'openai:MODEL' or your own 'package.module:Class'. Nothing was spent."
        )
    usual = "tabular" if declared.image is None else "text_render"
    settings: dict[str, Any] = {
        "private": {
            "source": name,
            "path": path,
            "label": label,
            "format": format,
            "delimiter": delimiter,
            "encoding": encoding,
            "multiline": multiline,
        },
        "privacy": {
            "epsilon": epsilon,
            "delta": delta,
            "adjacency": adjacency,
            "simulate": simulate,
            "at_least": at_least,
        },
        "api": _sections(api or usual),
        "evolution": {"iterations": iterations, "method": method, "seed": seed, **evolution},
        "output": {"run": str(Path(run or Path("runs") / name).resolve()), "rows": rows, "formats": formats},
    }
    if execution is not None:
        settings["execution"] = dict(execution)
    settings["private"]["columns"] = dict(columns or {})
    if user is not None:
        settings["private"]["user"] = user
        settings["privacy"] |= {"unit": "user", "user_norm": user_norm}
    if label_shares is not None:
        settings["privacy"]["label_shares"] = label_shares
    if embedder is not None:
        settings["embedder"] = embedder if isinstance(embedder, str) else dict(embedder)
    blueprint = Blueprint.of(Config.of(settings), declared)

    def show_check() -> None:
        for line in check_private(blueprint.config.private, blueprint.schema, data).lines():
            print(line, file=sys.stderr)

    before_charge = show_check if check else None
    return complete(blueprint, data, ledger=ledger, create=create, progress=progress, before_charge=before_charge)


def complete(
    blueprint: Blueprint,
    data: object,
    *,
    ledger: str | Path | None = None,
    create: bool = False,
    progress: Progress | None = None,
    before_charge: Callable[[], None] | None = None,
) -> Synthetic:
    """Open the run, go on to its end, and write the release.

    ``before_charge`` is called once the data are read and the account is open, unless a stored run goes on.
    """
    with Session.open(blueprint, data, ledger=ledger, create=create) as session:
        if before_charge is not None and session.generation is None:
            before_charge()
        if progress:
            progress(session)
        for _ in session.generations():
            if progress:
                progress(session)
        return session.finish()


def check_private(private: PrivateConfig, schema: Schema, data: object) -> Check:
    """What of the private data does not fit the schema: not private, for the holder of the data alone."""
    return check_data(
        data,
        schema,
        format=private.format,
        columns=private.columns,
        user=private.user,
        options=private.csv_options(),
    )


def blueprint_of(config: Config) -> Blueprint:
    """The blueprint of a configuration whose schema and data are files."""
    if config.private.schema_ is None or config.private.path is None:
        raise ConfigError("private.path and private.schema must name files. Nothing was spent.")
    return Blueprint.of(config, Schema.read(config.private.schema_, private=config.private.path))


def text_schema(
    text: str, label: str | Sequence[str] | None, labels: Sequence[str] | Mapping[str, Sequence[str]] | None
) -> Schema:
    """The schema of one column of free text, and of a label whose values are declared; raises SchemaError.

    ``labels`` are the values of one column, or {column: values} of each of the label's columns.
    """
    if label is None and labels is not None:
        raise SchemaError("labels are the values of a label column: name it with label=.... Nothing was spent.")
    if label is not None and labels is None:
        form = "[...]" if isinstance(label, str) else "{column: [...]}"
        raise SchemaError(
            f"the values of label {label!r} are public and must be declared: labels={form}; or bought, with "
            "pe.buy_schema. Nothing was spent."
        )
    try:
        names = label_names(label)
        values = labels if isinstance(labels, Mapping) else dict.fromkeys(names[:1], labels or ())
        if set(values) != set(names):
            raise SchemaError(f"expected labels as {{column: values}} of {', '.join(names)}, got {labels!r}.")
        found = (Categorical(name, tuple(map(str, values[name]))) for name in names)
        return Schema((Text(text), *found), label)
    except SchemaError as error:
        raise SchemaError(f"{str(error).removesuffix(' Nothing was spent.')} Nothing was spent.") from None


def _sections(api: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> list[Any]:
    given = [api] if isinstance(api, (str, Mapping)) else api
    return [each if isinstance(each, str) else dict(each) for each in given]
