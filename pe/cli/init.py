"""``pe init``: a commented configuration and a schema to start from."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from pe.cli.output import out, warn
from pe.cli.templates import API, CONFIG, SCHEMA, TEXT_API, toml_value
from pe.privacy.budget import Adjacency

DATA = "private.csv"


def init(
    folder: Path = Path(),
    *,
    from_public: Path | None = None,
    from_private: Path | None = None,
    columns: str | None = None,
    header: Path | None = None,
    label: list[str] | None = None,
    text: str | None = None,
    labels: list[str] | None = None,
    data: str = DATA,
    delimiter: str | None = None,
    encoding: str | None = None,
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
    columns
        Without a public sample: the columns as NAME:TYPE with what is public about each, such as
        'age:integer:0:120,price:float:0:999.99:0.01,joined:date:2015-01-01:2025-12-31,plan:categorical:basic|pro,
        zip:categorical:@zips.txt,note:text,id:key'. What is left out is asked for at a terminal, or left to fill in.
    header
        Private data from which the names of the columns are taken, and nothing else; --columns may give their types.
    label
        The column that conditions generation; repeat for several, every combination of whose values is then a label.
    text
        The column of free text, which is all that is synthesised beside the label.
    labels
        With --text and one --label: every value of the label, in public; by default those of --from-public.
    data
        Path of the private data, for the configuration.
    delimiter
        Of CSV files, the public sample and the private data, where the header does not tell: one character.
    encoding
        Of CSV and TSV files that are not UTF-8, such as 'latin-1' or 'cp1252'.
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
    from pe.data.dialect import AUTO, CsvOptions
    from pe.data.labels import label_names
    from pe.errors import ConfigError
    from pe.files import refusals, write_atomically
    from pe.privacy.certificate import certificate_bytes

    config, target = folder / "pe.toml", folder / "schema.toml"
    own, options = label_names(label), CsvOptions(delimiter or AUTO, encoding or AUTO)
    if labels is not None and text is None:
        raise ConfigError("--labels goes with --text, which names the column of free text. Nothing was written.")
    if text is not None and label is not None and len(label) > 1 and from_public is None:
        raise ConfigError(
            "several labels of a text need the values of each: draft them from public records (--from-public) or buy "
            "them (--from-private), or add columns to the schema.toml of one label. Nothing was written."
        )
    if from_private is not None and text is not None:
        raise ConfigError("--from-private takes the text column from --schema: leave --text out. Nothing was spent.")
    origins = {"--from-public": from_public, "--from-private": from_private, "--columns or --header": columns or header}
    if len(given := [name for name, value in origins.items() if value is not None]) > 1:
        raise ConfigError(f"expected {given[0]} or {given[1]}, not both. Nothing was written, nothing was spent.")
    for path in (config, target):
        if path.exists() and not force:
            raise ConfigError(f"{path} exists: name another folder, or pass --force. Nothing was written.")
    content, method, formats, multiline = SCHEMA, "cross-tables", "csv", False
    api = API.format(kind="tabular")
    remarks: list[str] = []
    certificate: dict[str, Any] | None = None
    if from_private is not None:
        asked = {"epsilon": epsilon, "delta": delta, "adjacency": adjacency, "source": source, "schema": schema}
        if absent := [name for name, value in asked.items() if value is None]:
            raise ConfigError(f"--from-private needs --{absent[0]}. Nothing was spent.")
        with refusals(folder):  # before anything is paid for
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".pe-init").touch()
            (folder / ".pe-init").unlink()
        from pe.buy import buy_schema

        bought = buy_schema(
            from_private,
            **_purchase(asked),
            user=user,
            delimiter=options.delimiter,
            encoding=options.encoding,
            ledger=ledger,
            create=create,
            again=again,
        )
        remarks += bought.remarks
        own = own or bought.schema.label_columns
        data, content = str(from_private.resolve()), bought.to_toml()
        certificate = bought.certificate
        if bought.schema.text is not None:
            api, method, formats = TEXT_API, "text-pe", "jsonl"
    elif from_public is not None:
        from pe.data.draft import draft

        found = draft(from_public, own or None, text, labels, options)
        drafted, multiline = found.schema, found.multiline
        remarks += found.remarks
        if (folder / data).resolve() == from_public.resolve():
            remarks.append(
                f"{from_public} is named as public and as private: the drafted schema shows its bounds and categories, "
                "and nothing protects what it shows. Name another sample, or buy the bounds (--from-private)."
            )
        own = drafted.label_columns
        if drafted.image is not None:
            api, method, formats = API.format(kind="text_render"), "image-pe", "imagefolder"
        drafted_from = f"# Drafted from {toml_value(from_public.name)}, declared public."
        content = f"{drafted_from}\n\n{drafted.with_label(None).to_toml()}"
    elif columns is not None or header is not None or (text is None and _at_a_terminal()):
        from pe.cli.columns import declare

        declared = declare(columns, header, own, folder, options, ask=_at_a_terminal())
        if declared is not None:
            content, notes = declared
            remarks += notes
            data = str(header.resolve()) if header is not None and data == DATA else data
    elif text is not None:
        from pe.synthesis import text_schema

        declared_text = text_schema(text, own or None, labels).with_label(None)
        content = f"# What everyone may know about the records.\n\n{declared_text.to_toml()}"
    if text is not None:
        api, method, formats = TEXT_API, "text-pe", "jsonl"
    given_form = {"delimiter": delimiter, "encoding": encoding, "multiline": multiline or None}
    reading = {key: value for key, value in given_form.items() if value is not None}
    name = source or _source_of(data)
    lines = CONFIG.format(
        config=config.name,
        data=toml_value(data),
        source=toml_value(name),
        run=toml_value(f"runs/{_as_folder(name)}"),
        reading="".join(f"{key} = {toml_value(value)}\n" for key, value in reading.items()),
        adjacency=adjacency or "add-remove",
        label=f"label = {toml_value(own[0] if len(own) == 1 else own)}"
        if own
        else '# label = "column"       # conditions generation; categorical, or a list of such columns',
        shares='label_shares = { budget_share = 0.02 }   # or "uniform", or a list in the order of the label set'
        if own
        else "",
        api=api,
        method=method,
        formats=formats,
    )
    try:
        encoded = {target: content.encode(), config: lines.encode()}
    except UnicodeEncodeError:
        raise ConfigError(
            "a name is not UTF-8 text, which a configuration is written in: rename the file, or make a link to it "
            "under another name. Nothing was written."
        ) from None
    with refusals(config):
        folder.mkdir(parents=True, exist_ok=True)
        for path, written in encoded.items():
            write_atomically(path, written)
        if certificate is not None:
            write_atomically(folder / "schema.certificate.json", certificate_bytes(certificate))
    for remark in remarks:
        warn(remark)
    command = shlex.quote(str(config))
    out.print(
        f"Wrote {config} and {target}. Next: read through {target.name} (all of it is public, and must hold for the "
        f"private data too), then 'pe check {command}' and 'pe plan {command}'.",
        highlight=False,
        markup=False,
    )


def _at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _source_of(data: str) -> str:
    """The ledger's name for data, from the name of their file; without what would be a pattern."""
    name = PurePosixPath(data).name if "://" in data else Path(data).name
    stem = re.sub(r"(?i)(\.(csv|tsv|jsonl|ndjson|parquet|pq|arrow|feather|ipc|npz|txt|gz|bz2|zst))+$", "", name)
    return re.sub(r"[*?\[\]]", "-", stem) or "private"


def _as_folder(name: str) -> str:
    """A source's name as the name of one folder."""
    return re.sub(r"[/\\\0]", "-", name)


def _purchase(asked: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``pe.buy_schema``."""
    return {("wanted" if name == "schema" else name): value for name, value in asked.items()}
