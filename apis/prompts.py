"""What a language model is asked: prompts from templates that are files, of public and synthetic text alone.

Random samples are asked for by label, keyword and persona; variations by paraphrase in one of several styles, or by
blanks to fill in (Xie et al. 2024, Aug-PE). The length asked for follows the synthetic parent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pe.data.coerce import coerce
from pe.data.labels import joined, label_codes
from pe.data.read import read
from pe.data.schema import Schema, Text
from pe.data.texts import word_count
from pe.errors import ConfigError, SchemaError

SHIPPED = Path(__file__).parent / "templates"

_COMMON = {"document", "facts", "label", "instructions", "words", "degree", "demos"}
FIELDS = {
    "system": {"document", "instructions"},
    "random": _COMMON - {"degree"} | {"keyword", "persona"},
    "paraphrase": _COMMON | {"text", "style"},
    "blanks": _COMMON | {"text", "blanked"},
}
"""The templates, and the fields that each may use."""

LEAST_WORDS = 25
"""A variation is asked for with at least as many words (Aug-PE)."""


@dataclass(frozen=True)
class Prompt:
    """One request: ``system`` says who writes, ``user`` what; ``words`` is the length that is asked for."""

    system: str
    user: str
    words: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat models take it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def plain(self) -> str:
        """As one text, for models without a chat template."""
        return "\n\n".join(part for part in (self.system, self.user) if part) + "\n\n"


@dataclass(frozen=True)
class Demo:
    """A public example, with its label where it has one."""

    text: str
    label: str | None = None


class Prompts:
    """Prompts for the texts of one schema; the same random generator gives the same prompts.

    document      what a text is called, such as "restaurant review".
    variation     "paraphrase" or "blanks": what a variation is asked for.
    keywords      topics for random samples: a list, or one per label ("a / b" where several columns are the label).
    personas, styles  who writes a random sample, and how a paraphrase is told; by default the shipped lists.
    demos         public examples: a list of texts, or what ``pe.data.read`` reads with the schema's text column; its
                  label columns if it has them. Without them, blanks are shown on other synthetic parents.
    shots         how many examples a prompt shows: of the same label where there are any.
    words         length of a random sample: a number, or the lowest and highest of a uniform draw. Here, too, words
                  are what white space parts and has a letter or a digit: punctuation is none.
    length_scale  a variation has max(25, words of the parent + N(0, degree * length_scale)) words.
    most_words    no more words than this are asked for.
    instructions  a sentence of the user's in every prompt.
    templates     a folder with files of the user's in place of shipped ones: system.jinja, random.jinja,
                  paraphrase.jinja, blanks.jinja, personas.txt, styles.txt. A template is rendered in a sandbox, sees
                  the fields in ``FIELDS`` and no other file.

    In labels and other facts any run of white space becomes one space. Raises ConfigError for a template that does not
    parse or uses a field that there is not, and for settings out of range: before anything is spent.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        document: str = "text",
        variation: Literal["paraphrase", "blanks"] = "paraphrase",
        keywords: Sequence[str] | Mapping[str, Sequence[str]] = (),
        personas: Sequence[str] | None = None,
        styles: Sequence[str] | None = None,
        demos: str | Path | Sequence[str] = (),
        shots: int = 2,
        words: int | Sequence[int] = (30, 120),
        length_scale: float = 40.0,
        most_words: int | None = None,
        instructions: str = "",
        templates: str | Path | None = None,
    ) -> None:
        if variation not in ("paraphrase", "blanks"):
            raise ConfigError(
                f"expected prompts.variation 'paraphrase' or 'blanks', got {variation!r}. Nothing was spent."
            )
        span = [words, words] if isinstance(words, int) else list(words)
        if len(span) != 2 or not all(isinstance(each, int) for each in span) or not 1 <= span[0] <= span[1]:
            raise ConfigError(f"expected prompts.words as N or [LOW, HIGH], got {words!r}. Nothing was spent.")
        if shots < 0 or not length_scale >= 0 or (most_words is not None and most_words < 1):
            raise ConfigError("expected prompts.shots, length_scale >= 0 and most_words >= 1. Nothing was spent.")
        self.document, self.variation, self.instructions = document, variation, instructions
        self.words, self.length_scale, self.most_words, self.shots = span, length_scale, most_words, shots
        self.label_columns = schema.label_columns
        self._keywords = _by_label(keywords, schema)
        folder = None if templates is None else Path(templates)
        self._templates = _templates(folder)
        self.personas = _lines(folder, "personas") if personas is None else list(personas)
        self.styles = _lines(folder, "styles") if styles is None else list(styles)
        self.demos = _demos(demos, schema)
        self.public_data = f"examples in prompts, {Path(demos).name}" if isinstance(demos, (str, Path)) else ""
        if self.demos and not self.public_data:
            self.public_data = "examples in prompts, from the configuration"

    def random(self, facts: Mapping[str, str], rng: np.random.Generator) -> Prompt:
        """Ask for a fresh text; ``facts`` maps columns to values, those of the label among them."""
        words = self._at_most(int(rng.integers(self.words[0], self.words[1], endpoint=True)))
        label = self._label(facts)
        fields = {
            "persona": _one_of(self.personas, rng),
            "keyword": _one_of(self._keywords.get(label, self._keywords.get(None, [])), rng),
            "demos": [{"text": each.text} for each in self._shown(label, (), "", rng)],
        }
        return self._prompt("random", facts, words, fields)

    def vary(
        self,
        text: str,
        facts: Mapping[str, str],
        degree: float,
        rng: np.random.Generator,
        siblings: Sequence[str] = (),
    ) -> Prompt:
        """Ask for a variation of a synthetic text.

        ``siblings``: other synthetic texts of the same label, shown as examples of blanks where there are no public
        ones.
        """
        spread = float(rng.normal(0, degree * self.length_scale)) if degree * self.length_scale > 0 else 0.0
        words = self._at_most(max(LEAST_WORDS, round(word_count(text) + spread)))
        fields: dict[str, Any] = {"text": text, "degree": degree}
        label = self._label(facts)
        if self.variation == "paraphrase":
            fields |= {"style": _one_of(self.styles, rng), "demos": []}
            fields["demos"] = [{"text": each.text} for each in self._shown(label, (), text, rng)]
        else:
            shown = self._shown(label, siblings, text, rng)
            fields["demos"] = [{"text": each.text, "blanked": blanked(each.text, degree, rng)} for each in shown]
            fields["blanked"] = blanked(text, degree, rng)
        return self._prompt(self.variation, facts, words, fields)

    def _prompt(self, kind: str, facts: Mapping[str, str], words: int, fields: Mapping[str, Any]) -> Prompt:
        told = {_one_line(name): _one_line(value) for name, value in facts.items()}
        about = {"document": self.document, "instructions": self.instructions}
        label = _one_line(self._label(facts))
        filled = about | {"facts": told, "label": label, "words": words} | dict(fields)
        return Prompt(_rendered(self._templates["system"], about), _rendered(self._templates[kind], filled), words)

    def _label(self, facts: Mapping[str, str]) -> str:
        """As the label set has it; empty without a label."""
        return joined([facts[name] for name in self.label_columns if name in facts])

    def _at_most(self, words: int) -> int:
        return words if self.most_words is None else min(words, self.most_words)

    def _shown(self, label: str, siblings: Sequence[str], own: str, rng: np.random.Generator) -> list[Demo]:
        """``shots`` examples: public ones of the label, any public ones, else synthetic siblings; never the parent."""
        pool = [each for each in self.demos if each.label == label] or self.demos
        pool = [each for each in pool or map(Demo, siblings) if each.text != own]
        if not pool or not self.shots:
            return []
        return [pool[int(index)] for index in rng.choice(len(pool), min(self.shots, len(pool)), replace=False)]


def blanked(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with each word replaced by an underscore with probability ``share``; at least one is."""
    pieces = re.split(r"(\s+)", text.strip())
    words = range(0, len(pieces), 2)
    gone = rng.random(len(words)) < share
    gone[rng.integers(len(words))] = True
    for place, hidden in zip(words, gone, strict=True):
        if hidden:
            pieces[place] = "_"
    return "".join(pieces)


def _templates(folder: Path | None) -> dict[str, Template]:
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"prompts.templates: {folder} is no folder. Nothing was spent.")
        known = {f"{name}.jinja" for name in FIELDS}
        if strange := sorted(file.name for file in folder.glob("*.jinja") if file.name not in known):
            raise ConfigError(
                f"prompts.templates: {folder / strange[0]} is none of {', '.join(sorted(known))}. Nothing was spent."
            )
    return {name: _template(_file(folder, f"{name}.jinja"), fields) for name, fields in FIELDS.items()}


def _template(file: Path, fields: set[str]) -> Template:
    """Parse a template, and render it once with every field; raises ConfigError."""
    sandbox = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    sandbox.filters.pop("random")  # the run's own generator alone makes choices
    for name in ("lipsum", "cycler", "joiner"):
        sandbox.globals.pop(name)
    try:
        source = _text(file)
        unknown = sorted(meta.find_undeclared_variables(sandbox.parse(source)) - fields - set(sandbox.globals))
        if unknown:
            raise ConfigError(
                f"{file}: unknown field '{unknown[0]}', expected {', '.join(sorted(fields))}. Nothing was spent."
            )
        template = sandbox.from_string(source)
        sample = dict.fromkeys(fields, "x") | {"words": 50, "degree": 0.5, "facts": {"x": "x"}}
        sample["demos"] = [{"text": "x", "blanked": "_"}]
        template.render({name: sample[name] for name in fields})
    except TemplateError as error:
        number = getattr(error, "lineno", None)
        line = f", line {number}" if number else ""
        raise ConfigError(f"{file}{line}: {error.message}. Nothing was spent.") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{file}: {error}. Nothing was spent.") from None
    return template


def _rendered(template: Template, fields: Mapping[str, Any]) -> str:
    try:
        return template.render(fields).strip()
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"a prompt template failed: {error}.") from None


def _file(folder: Path | None, name: str) -> Path:
    return folder / name if folder is not None and (folder / name).exists() else SHIPPED / name


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as UTF-8 text: {type(error).__name__}. Nothing was spent.") from None


def _lines(folder: Path | None, name: str) -> list[str]:
    return [line.strip() for line in _text(_file(folder, f"{name}.txt")).splitlines() if line.strip()]


def _by_label(keywords: Sequence[str] | Mapping[str, Sequence[str]], schema: Schema) -> dict[str | None, list[str]]:
    if not isinstance(keywords, Mapping):
        return {None: list(keywords)}
    if unknown := sorted(set(keywords) - set(schema.labels)):
        raise ConfigError(f"prompts.keywords: '{unknown[0]}' is no label of the schema. Nothing was spent.")
    return {label: list(words) for label, words in keywords.items()}


def _demos(demos: str | Path | Sequence[str], schema: Schema) -> list[Demo]:
    if not isinstance(demos, (str, Path)):
        return [Demo(text) for text in demos if text.strip()]
    column = next(each for each in schema.features if isinstance(each, Text))
    plain = Schema((column,))
    if schema.label is not None:
        labelled = Schema((column, *map(schema.column, schema.label_columns)), schema.label)
        try:
            found = coerce(read(demos, labelled), labelled)
        except SchemaError:  # not all label columns
            pass
        else:
            pairs = zip(found[column.name], label_codes(found, labelled), strict=True)
            return [Demo(str(text), schema.labels[int(code)]) for text, code in pairs if str(text).strip()]
    found = coerce(read(demos, plain), plain)
    return [Demo(str(text)) for text in found[column.name] if str(text).strip()]


def _one_of(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))] if choices else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
