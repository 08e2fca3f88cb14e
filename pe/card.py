"""CARD.md: the claim in words that a privacy officer can read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from pe.data.label_folders import folder_names
from pe.data.schema import Schema
from pe.evolution.plan import Plan
from pe.journal import Usage
from pe.markdown import code, plain
from pe.privacy.budget import Adjacency, Budget
from pe.privacy.simulation import STAMP

_NEIGHBOURS = {
    "add-remove": "with or without any one {unit}: the number of {unit}s is itself protected",
    "replace-one": "with any one {unit} exchanged for another: the number of {unit}s is public",
}

_USER = (
    "All records with one user id count as one: their votes are added up over all labels and scaled down together, so "
    "that no user, however many records they have, moves the result more than this."
)


def declared_public(
    schema: Schema, plan: Plan, api_notes: Sequence[str], budget: Budget, files: Sequence[str] = ()
) -> list[str]:
    """What the user declared to be public knowledge, in sentences; it stands in the certificate and on the card.

    ``files``: what a record of the private files is and how they are written, see ``pe.data.formats.public_form``.
    """
    notes = [
        "the schema: the names and types of its columns, the bounds of every number, the list of every category",
        "the settings of the run: iterations, population sizes, noise scales, epsilon and delta",
    ]
    if schema.label is not None:
        if plan.shares is not None:
            notes.append("the label shares " + ", ".join(f"{share:.4g}" for share in plan.shares))
        elif not plan.buys_labels:
            notes.append("nothing about the label shares: every label gets an equal share")
    if budget.adjacency is Adjacency.REPLACE_ONE:
        notes.append(f"the number of private {budget.unit}s")
    if plan.at_least is not None:
        notes.append(f"that there are at least {plan.at_least} private {budget.unit}s")
    notes += files
    notes += [f"what was bought before, at a cost that adds to this claim's; {purchase}" for purchase in schema.bought]
    notes += [f"that {constraint} in every record" for constraint in schema.constraints]
    return notes + [f"the public data of the API: {note}" for note in api_notes]


def write_card(
    name: str,
    certificate: Mapping[str, Any],
    schema: Schema,
    plan: Plan,
    *,
    apis: Sequence[str],
    embedder: str,
    label_sizes: Sequence[int],
    converged: bool = False,
    distance: float | None = None,
    examples: Sequence[tuple[str, str]] = (),
    usage: Usage | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Markdown text of the card.

    converged  the run ended early because further rounds would have changed nothing.
    distance   estimated squared MMD of the newest selection from the private records.
    examples   label and text of some of the released records.
    usage      what metered APIs were asked.
    warnings   of a guarantee that protects little.
    """
    iterations = certificate["iterations"]
    done = f"The run did {iterations['completed']} of {iterations['planned']} iterations."
    if iterations["completed"] != iterations["planned"]:
        reason = "when further ones brought the records no nearer" if converged else "when the budget was gone"
        done += f" It stopped early, {reason}."
    if distance is not None:
        done += (
            f" Estimated squared distance of their kernel mean from that of the private records, within labels: "
            f"{distance:.3g} (1 is far off, 0 or less is as near as the noise lets anyone tell). It follows from what "
            "was released, at no further cost, and is optimistic: the records were selected by the same release."
        )
    lines = [
        f"# Synthetic data set: {plain(name)}",
        "",
        f"{sum(label_sizes)} synthetic records. {_origin(plan, apis)}",
        "",
        *([done, ""] if plan.rounds else []),
        *(_simulation(certificate) if certificate.get("simulated") else _claim(certificate)),
        *(line for warning in warnings for line in (f"**Warning:** {warning}", "")),
        "## What was declared public",
        "",
        "The claim takes these as known to everyone; it does not protect them:",
        "",
        *(f"- {plain(note)}" for note in certificate["declared_public"]),
        "",
        "## What is not covered",
        "",
        *(f"- {note}" for note in certificate.get("not_covered", ["anything: this is a simulation"])),
        "",
        "## Columns",
        "",
        "| column | type | domain |",
        "|---|---|---|",
        *(
            f"| {plain(column.name)} | {column.kind} | {plain(column.domain())}{_or_missing(column)} |"
            for column in (*schema.keys, *schema.columns)
        ),
        "",
    ]
    lines += ["## Files", "", *(f"- {note}" for note in _file_notes(schema)), ""]
    if schema.label is not None:
        sizes = ", ".join(f"{plain(label)}: {size}" for label, size in zip(schema.labels, label_sizes, strict=True))
        source = (
            "declared"
            if plan.shares is not None
            else "equal by design"
            if not plan.buys_labels
            else "from a charged, noisy count"
        )
        lines += [f"Records by {code(schema.label_name)} ({source}): {sizes}.", ""]
    if examples:
        lines += ["## Examples", "", "Synthetic records, as released, cut short:", ""]
        lines += [f"- {f'({code(label)}) ' if label else ''}{code(text)}" for label, text in examples]
        lines.append("")
    if usage is not None:
        lines += [f"Calls of the API: {plain(usage)}.", ""]
    lines += [f"Embedder: {code(embedder)}. Versions: {code(_listed(certificate['versions']))}.", ""]
    return "\n".join(lines)


def _file_notes(schema: Schema) -> list[str]:
    """How values are written in the files, in sentences: what a reader of this schema's records has to know."""
    notes = ["Rows stand in random order, shuffled by a public seed."]
    columns = (*schema.keys, *schema.columns)
    if any(column.missing for column in columns):
        notes.append("A missing value is an empty cell in CSV, and null in the other formats.")
    if any(column.kind == "datetime" for column in columns):
        notes.append("Dates and times are ISO 8601; a time without a zone is as the private data have it, or in UTC.")
    if any(column.kind in ("categorical", "ordinal", "text", "key") for column in columns):
        notes.append(
            "In CSV a text or category that begins with `=`, `+`, `-`, `@`, a tab or a line break, and is no number, "
            "stands behind an apostrophe, so that no spreadsheet runs it as a formula; the other formats hold it as it "
            "is."
        )
    if schema.image is not None and len(schema.label_columns) == 1:
        changed = [(n, v) for n, v in zip(folder_names(schema.labels), schema.labels, strict=True) if n != v]
        named = ", ".join(f"{code(name)} for {code(label)}" for name, label in changed[:20])
        more = f", and {len(changed) - 20} more" if len(changed) > 20 else ""
        notes.append(
            "Pictures of the format imagefolder lie in one folder per label"
            + (f", percent-encoded where a label is no safe name: {named}{more}" if changed else "")
            + "; `images/labels.toml` lists them."
        )
    return notes


def _or_missing(column: Any) -> str:
    return ", or missing" if column.missing else ""


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _origin(plan: Plan, apis: Sequence[str]) -> str:
    drawn = "from a density that was fitted to noisy counts of the private records (maximum entropy)"
    if plan.start is not None and not plan.rounds:
        return f"Every one was drawn {drawn}."
    made = f"Every one was proposed by {', '.join(map(code, apis))}, which never saw the private records,"
    first = "" if plan.start is None else f" The first of them were drawn {drawn}."
    if plan.start is not None and not any(each.variations for each in plan.rounds):
        made, first = f"Every one was drawn {drawn}", ""
    if plan.kernel is not None:
        votes = " and their noisy vote (Lin et al. 2024)" if any(each.sigma is not None for each in plan.rounds) else ""
        return (
            f"{made} and selected by kernel herding towards a noisy mean of {plan.kernel.features} random Fourier "
            f"features of the private records' embeddings, one for every label{votes}.{first}"
        )
    return f"{made} and selected by their noisy vote (Private Evolution, Lin et al. 2024).{first}"


def _simulation(certificate: Mapping[str, Any]) -> list[str]:
    would = certificate["would_claim"]
    return [
        f"## {STAMP}: no claim",
        "",
        f"**{certificate['warning']}** The noise repeats from seed {certificate['seed']}: whoever knows the seed can "
        f"take it off. With real noise the same run would claim epsilon {would['epsilon']:g} at delta "
        f"{would['delta']:g}.",
        "",
    ]


def _claim(certificate: Mapping[str, Any]) -> list[str]:
    claim, spent = certificate["claim"], certificate["spent"]
    unit = claim["unit"]
    charges = [row for row in certificate["entries"] if row["kind"] == "reserve" and row["run"] == certificate["run"]]
    lines = [
        "## The claim",
        "",
        f"These files are **({claim['epsilon']:g}, {claim['delta']:g})-differentially private** for each {unit} of "
        f"source {code(certificate['source'])}, under {claim['adjacency']} adjacency.",
        "",
        "In words: whatever anyone concludes from these files, they would have concluded with nearly the same "
        f"probability from private data {_NEIGHBOURS[claim['adjacency']].format(unit=unit)}. Any probability changes "
        f"by at most a factor of e^{claim['epsilon']:g} plus {claim['delta']:g}.",
        *(["", _USER] if unit == "user" else []),
        "",
        f"Its charges amount to epsilon {spent['epsilon']:.6g} at delta {claim['delta']:g}; the claim is the budget "
        "fixed beforehand.",
        "",
        f"Groups are protected less: {', '.join(_group(group, unit) for group in certificate['groups'])}.",
        "",
        "## What was released with noise",
        "",
        "| iteration | what | noise (standard deviation, votes) | L2 sensitivity (votes) | bins |",
        "|---|---|---|---|---|",
    ]
    for row in charges:
        grid = row["grid"]
        sigma = float(Fraction(row["sigma"])) / grid
        sensitivity = math.sqrt(Fraction(row["sensitivity_squared"])) / grid
        lines.append(
            f"| {row['iteration']} | {plain(row['purpose'])} | {sigma:.4g} | {sensitivity:.4g} | {row['bins']} |"
        )
    return [
        *lines,
        "",
        "Noise is discrete Gaussian, drawn from the operating system's generator; charges are lines of a ledger that "
        "was written before the data were counted. `pe budget verify certificate.json` recomputes all of it.",
        "",
    ]


def _group(group: Mapping[str, Any], unit: str) -> str:
    return f"any {group['size']} {unit}s together have epsilon {group['epsilon']:.4g} at delta {group['delta']:.3g}"
