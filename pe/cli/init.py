"""``pe init``: a commented configuration and a schema to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pe.cli.output import out, warn
from pe.privacy.budget import Adjacency

CONFIG = """\
# One run of Private Evolution. 'pe plan {config}' shows what it will do, 'pe synthesize {config} --create' does it.

[private]
path = "{data}"            # CSV, TSV, JSONL, Parquet, Arrow, npz, or a folder of images by class; relative to this file
# user = "patient_id"      # whose record it is, with privacy.unit = "user": protects all records of a user together
source = "{source}"        # the ledger's name for these data: all runs on one source share its budget
schema = "schema.toml"     # public knowledge: columns, domains, label set
{label}

[privacy]
epsilon = 1.0
delta = 1e-6               # well below 1 / (number of records)
adjacency = "{adjacency}"   # add-remove: the number of records is private; replace-one: it is public
{shares}

{api}

[evolution]
# method = "{method}"      # cross-tables (no API, no rounds), herded-tables, tab-pe, image-pe, text-pe, aug-pe,
# iterations = 10          # kernel-votes; settings of rounds, for all or one per iteration: parents, variations, keep,
# seed = 0                 # selection, threshold, degree, lookahead, nearest, vote_weights, budget_weights
# targets = ["column"]     # of tables: what models will be trained to predict, beside the label; numbers too

[output]
run = "runs/{source}"
# rows = 1000              # by default 1000; of cross-tables about as many as there are private records
# formats = ["{formats}", "parquet"]   # csv, jsonl, parquet, hf, imagefolder, npz
"""

API = """\
[api]
kind = "{kind}"             # tabular, text_render, nearest, or "package.module:Class"\
"""

TEXT_API = """\
[api]                      # writes the texts, and knows nothing but what is public
kind = "ngram"             # phrases of a public corpus, without a model or a network
corpus = "public.jsonl"    # CSV, JSONL, Parquet ..., or .txt with a text per line; never the private data
# corpus_text = "text"     # its column of texts, and of labels, where it has any: corpus_label = "stars"

# [api]
# kind = "transformers"    # a language model on this machine: a folder, or a name on the Hugging Face hub
# model = "./model"

# [api]
# kind = "openai"          # any OpenAI-compatible endpoint; the key is read from OPENAI_API_KEY
# model = "gpt-4o-mini"

# [embedder]
# kind = "sentence"        # on this machine, always; model = "./model" names another than all-MiniLM-L6-v2
# dtype = "bfloat16"       # about twice as fast where the processor has it\
"""

SCHEMA = """\
# What everyone may know about the records. Values outside are clipped or replaced by the column's default.

[columns.age]
type = "integer"
min = 0
max = 120

[columns.income]
type = "float"
min = 0.0
max = 1e6

[columns.region]
type = "categorical"     # "ordinal" where the values have an order
values = ["north", "south"]
# default = "north"      # what a missing or undeclared value becomes
# missing = true         # or: missing values stay missing

# [columns.joined]
# type = "date"          # or "datetime"
# min = "2015-01-01"
# max = "2025-12-31"

# [columns.active]
# type = "boolean"

# [columns.id]
# type = "key"           # fresh ids for the output, random ("uuid4") unless a format is named; private ones are never
# format = "P-{:06d}"    # read, so numbered ids should begin (start = 1) where no private id can be

# [[constraints]]        # what holds in every record
# kind = "order"         # order, sum or determines
# columns = ["low", "high"]

# [columns.image]
# type = "image"
# height = 28
# width = 28
# channels = 1
"""


def init(
    folder: Path = Path(),
    *,
    from_public: Path | None = None,
    from_private: Path | None = None,
    label: list[str] | None = None,
    text: str | None = None,
    labels: list[str] | None = None,
    data: str = "private.csv",
    source: str | None = None,
    schema: Path | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    adjacency: Adjacency | None = None,
    user: str | None = None,
    ledger: Path | None = None,
    create: bool = False,
    again: bool = False,
    force: bool = False,
) -> None:
    """Write pe.toml and schema.toml into a folder.

    Parameters
    ----------
    folder
        Where to write; by default here.
    from_public
        A sample that you declare to be public; the schema is drafted from its columns, bounds and categories. Never
        name private data here: what it shows is not protected.
    from_private
        Private data from which the columns of --schema that say bounds = "buy" or values = "buy" are completed, by one
        noisy release that is charged to --source. Needs --epsilon, --delta, --adjacency, --source and --schema.
    label
        The column that conditions generation; repeat for several, every combination of whose values is then a label.
    text
        The column of free text, which is all that is synthesised beside the label.
    labels
        With --text and one --label: every value of the label, in public; by default those of --from-public.
    data
        Path of the private data, for the configuration.
    source
        The ledger's name for the private data; by default the file's name.
    schema
        With --from-private: the schema to complete.
    epsilon
        With --from-private: what the purchase may cost.
    delta
        With --from-private: the delta at which it may cost that.
    adjacency
        With --from-private: 'add-remove' or 'replace-one'.
    user
        With --from-private: the column that says whose record it is; the guarantee is then per user.
    ledger
        The ledger file; by default PE_LEDGER, else the user's data directory.
    create
        Grant the source exactly the purchase's budget if the ledger does not know it.
    again
        Pay once more where the charge of the same purchase was lost in a crash, or the data changed since. Without it
        the same command never pays twice.
    force
        Overwrite existing files.
    """
    from pe.data.labels import label_names
    from pe.errors import ConfigError
    from pe.files import refusals, write_atomically

    config, target = folder / "pe.toml", folder / "schema.toml"
    own = label_names(label)
    if labels is not None and text is None:
        raise ConfigError("--labels goes with --text, which names the column of free text. Nothing was written.")
    if text is not None and label is not None and len(label) > 1 and from_public is None:
        raise ConfigError(
            "several labels of a text need the values of each: draft them from public records (--from-public) or buy "
            "them (--from-private), or add columns to the schema.toml of one label. Nothing was written."
        )
    if from_private is not None and text is not None:
        raise ConfigError("--from-private takes the text column from --schema: leave --text out. Nothing was spent.")
    for path in (config, target):
        if path.exists() and not force:
            raise ConfigError(f"{path} exists: name another folder, or pass --force. Nothing was written.")
    content, method, formats = SCHEMA, "cross-tables", "csv"
    api = API.format(kind="tabular")
    remarks: list[str] = []
    if from_private is not None:
        asked = {"epsilon": epsilon, "delta": delta, "adjacency": adjacency, "source": source, "schema": schema}
        if absent := [name for name, value in asked.items() if value is None]:
            raise ConfigError(f"--from-private needs --{absent[0]}. Nothing was spent.")
        if from_public is not None:
            raise ConfigError("expected --from-public or --from-private, not both. Nothing was spent.")
        with refusals(folder):  # before anything is paid for
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".pe-init").touch()
            (folder / ".pe-init").unlink()
        from pe.buy import buy_schema

        bought = buy_schema(from_private, **_purchase(asked), user=user, ledger=ledger, create=create, again=again)
        remarks += bought.remarks
        own = own or bought.schema.label_columns
        data, content = str(from_private.resolve()), bought.to_toml()
        if bought.schema.text is not None:
            api, method, formats = TEXT_API, "text-pe", "jsonl"
    elif from_public is not None:
        from pe.data.draft import draft

        drafted, notes = draft(from_public, own or None, text, labels)
        remarks += notes
        if (folder / data).resolve() == from_public.resolve():
            remarks.append(
                f"{from_public} is named as public and as private: the drafted schema shows its bounds and categories, "
                "and nothing protects what it shows. Name another sample, or buy the bounds (--from-private)."
            )
        own = drafted.label_columns
        if drafted.image is not None:
            api, method, formats = API.format(kind="text_render"), "image-pe", "imagefolder"
        content = f"# Drafted from {from_public.name}, declared public.\n\n{drafted.with_label(None).to_toml()}"
    elif text is not None:
        from pe.synthesis import text_schema

        declared = text_schema(text, own or None, labels).with_label(None)
        content = f"# What everyone may know about the records.\n\n{declared.to_toml()}"
    if text is not None:
        api, method, formats = TEXT_API, "text-pe", "jsonl"
    lines = CONFIG.format(
        config=config.name,
        data=data,
        source=source or Path(data).stem,
        adjacency=adjacency or "add-remove",
        label=f"label = {_toml(own)}"
        if own
        else '# label = "column"       # conditions generation; categorical, or a list of such columns',
        shares='label_shares = { budget_share = 0.02 }   # or "uniform", or a list in the order of the label set'
        if own
        else "",
        api=api,
        method=method,
        formats=formats,
    )
    with refusals(config):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content.encode())
        write_atomically(config, lines.encode())
    for remark in remarks:
        warn(remark)
    out.print(f"Wrote {config} and {target}: edit them, then 'pe plan {config}'.", highlight=False, markup=False)


def _toml(names: tuple[str, ...]) -> str:
    """One name or a list of them, in TOML's spelling, which is JSON's."""
    return json.dumps(names[0] if len(names) == 1 else names, ensure_ascii=False)


def _purchase(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``pe.buy_schema``."""
    return {("wanted" if name == "schema" else name): value for name, value in asked.items()}
