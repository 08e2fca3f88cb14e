"""What one column of a public sample is: its type, bounds and categories, or the true cause why it has none."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pe.data.forms import MARKERS, common_form
from pe.data.outcomes import wide_numbers
from pe.data.sample import SampleColumn
from pe.data.schema import BOOLEANS, Categorical, Column, Datetime, Numeric, boolean
from pe.data.times import DAY, instant, iso, seconds

MAX_CATEGORIES = 1000
"""A column with more distinct values than this has no categories that could be listed."""

FREE_CATEGORIES = 20
"""So many distinct values are categories in the smallest sample; above, at most half as many as there are records."""

MIN_RECORDS_FOR_IDS = 20
"""Records from which on it is no accident that every one has another value."""

MAX_DECIMALS = 6
"""A column whose numbers have more decimals than this is taken for continuous: it gets no step."""

MIN_DIGITS_OF_A_NUMBERING = 9
"""Whole numbers of so many digits, all of one length, are numberings (phones, accounts), not quantities."""

UNKNOWN = "unknown"
"""The value of its own that a label gets for records in which it is missing."""

_TRUTH = ({"true", "false"}, {"yes", "no"}, {"t", "f"})
_WHOLE = r"^[+-]?\d+$"
_LEADING_ZERO = r"^[+-]?0\d"
_INTERNATIONAL = r"^\+\d{7,}$"
_YEAR_MONTH_DAY = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
_YEAR_MONTH = r"^(19|20)\d\d(0[1-9]|1[0-2])$"
_NUMBERING_NAME = re.compile(
    r"(?:^|[_\W])(?:zip|zip_?code|post(?:al)?_?code|plz|phone|tel|telephone|mobile|fax|iban|ssn|isbn|ean|gtin|sku|naics|"
    r"fips|icd\w*|(?:account|phone|card|serial|customer|order|invoice|policy)_?(?:no|nr|num|number)?)(?:$|[_\W])"
    r"|(?:zip|postal)code$",
    re.IGNORECASE,
)
_EPOCH = r"^1(\d{9}|\d{12})$"
_NO_DATE = "9999-12-31"
_EARLY_DATES = ("0001-01-01", "1800-01-01", "1899-12-30", "1899-12-31", "1900-01-01", "1970-01-01")
_TRUE_DIGITS = 12
"""Significant digits that arithmetic on doubles leaves unharmed."""

_MIN_VALUES_BESIDE_A_MARKER = 4
"""Distinct numbers among which the least or the greatest may be a mark; of +1 and -1 none is."""

_OFFSET = re.compile(r":\d\d(?:[.,]\d+)? ?(?:[Zz]|[+-]\d\d(?::?\d\d)?)$")
"""How an ISO time says in which zone it is."""

_EXAMINED = 10_000
"""Distinct values that are looked at to name a cause."""

_KEY_ADVICE = 'type = "key" makes fresh ones'
_LIST_ADVICE = f"declare it with a public list of its values (values_file), or, if it is an id: {_KEY_ADVICE}"


@dataclass(frozen=True)
class Inference:
    """A column, or None with the ``cause`` of its being left out and what to do; remarks on what was drafted."""

    column: Column | None
    cause: str = ""
    remarks: tuple[str, ...] = ()


def infer(sample: SampleColumn) -> Inference:
    """The column of a schema that a sample's values are drafted as.

    Truth values are booleans, ISO dates dates, whole numbers integers, other numbers floats with the step of their
    digits, all other texts categories. Codes (leading zeros, phone numbers, calendar numbers such as 20240131) are
    never numbers. Bounds and categories are those of the sample.
    """
    if sample.classes:
        kind: Literal["categorical", "ordinal"] = "ordinal" if sample.ordered else "categorical"
        return Inference(Categorical(sample.name, sample.classes, None, kind, sample.missing > 0))
    if sample.kind is not None and _is_unreadable(sample.kind):
        return Inference(None, cause_of(sample))
    if not len(sample.present):
        return Inference(None, "it is empty: if the private data hold values, declare it by hand")
    markers = {text: count for text, count in sample.counts.items() if text in MARKERS}
    texts = [text for text in sample.counts if text not in MARKERS]
    for drafted in (_truth_values, _dates, _numbers):
        if texts and (found := drafted(sample, texts)) is not None:
            if markers and found.column is not None:
                return _with_markers(found, markers)
            return found
    return _categories(sample)


def infer_label(sample: SampleColumn) -> Inference:
    """The categories of a label, spelt as in the sample; missing ones get a value of their own."""
    kind: Literal["categorical", "ordinal"] = "ordinal" if sample.ordered else "categorical"
    values = sample.classes or tuple(sorted(sample.counts, key=natural_order))
    name = sample.name
    if not values:
        return Inference(None, f"label '{name}' is empty")
    if len(values) > MAX_CATEGORIES:
        return Inference(
            None,
            f"label '{name}' has {len(values)} different values: a label has few, such as classes, and every one costs "
            "noise. A column that models are to predict is named in evolution.targets instead",
        )
    remarks = [*_remarks_on_spelling(name, sample.counts), *_remarks_on_markers(name, sample.counts, "label")]
    if not sample.missing and values == BOOLEANS:
        return Inference(boolean(name))  # which also reads True, yes and 1
    if not sample.missing:
        return Inference(Categorical(name, values, None, kind), remarks=tuple(remarks))
    unknown = UNKNOWN if UNKNOWN not in values else f"({UNKNOWN})"
    remarks.insert(
        0,
        f"label '{name}' is missing (blank) in {sample.missing} of {len(sample)} records of the sample: it gets a "
        f"value of its own, '{unknown}', which undeclared values become too. Without that value and default they would "
        f"become '{values[0]}', the first one",
    )
    return Inference(Categorical(name, (*values, unknown), unknown, kind), remarks=tuple(remarks))


def _with_markers(found: Inference, markers: Mapping[str, int]) -> Inference:
    """The same column, in which texts that stand for missing values are missing."""
    assert isinstance(found.column, Numeric | Categorical)
    column = replace(found.column, missing=True)
    listed = ", ".join(f"'{text}' ({count})" for text, count in markers.items())
    remark = f"column '{column.name}': {listed} cannot be read as {_plural(column.kind)}, and is taken for missing"
    return Inference(column, remarks=(remark, *found.remarks))


def _plural(kind: str) -> str:
    return {"boolean": "truth values", "date": "dates", "datetime": "dates"}.get(kind, "numbers")


# -- truth values, dates -----------------------------------------------------------------------------------------------


def _truth_values(sample: SampleColumn, texts: Sequence[str]) -> Inference | None:
    spelt = {text.lower() for text in texts}
    if not any(spelt <= pair for pair in _TRUTH):
        return None
    return Inference(boolean(sample.name, missing=sample.missing > 0))


def _dates(sample: SampleColumn, texts: Sequence[str]) -> Inference | None:
    """ISO dates, or dates by the file's own type; None where some value is none."""
    kind = sample.kind
    typed = kind is not None and (pa.types.is_date(kind) or pa.types.is_timestamp(kind))
    if not typed and not all(text[:4].isdigit() and text[4:5] == "-" for text in texts):
        return None
    if typed:
        instants = wide_numbers(sample.values, Datetime(sample.name, 0, 1))
        instants = instants[~np.isnan(instants)]
    else:
        instants = seconds(pa.chunked_array([pa.array(texts)]))
        if np.isnan(instants).any():
            return None
    remarks = []
    open_ended = instants >= _seconds_of(_NO_DATE)
    if open_ended.any() and not open_ended.all():
        instants = instants[~open_ended]
        remarks.append(
            f"column '{sample.name}': {_NO_DATE} stands for no date, and was left out of the bounds: a run would read "
            "it as the last date. Write an empty field in the private data too, and set missing = true"
        )
    first, after = np.unique(instants)[:1], np.unique(instants)[1:]
    early = [iso(float(value), date=True) for value in first if len(after) > 1 and _far_below(value, after)]
    if early and early[0] in _EARLY_DATES:
        remarks.append(
            f"column '{sample.name}': {early[0]} lies far before all other dates: if it stands for no date, write an "
            "empty field in the private data too, set min to the first true date and missing = true"
        )
    date = pa.types.is_date(kind) if typed else bool(np.all(instants % DAY == 0))
    low, high = (iso(float(end), date=date) for end in (instants.min(), instants.max()))
    zone = "UTC" if not date and _tells_zone(kind, texts) else None
    column = Datetime.of(sample.name, low, high, date=date, missing=sample.missing > 0, zone=zone)
    return Inference(column, remarks=tuple(remarks))


def _tells_zone(kind: pa.DataType | None, texts: Sequence[str]) -> bool:
    """Whether all of a sample's instants say in which zone they are."""
    if kind is not None and pa.types.is_timestamp(kind):
        return kind.tz is not None
    return all(map(_OFFSET.search, texts))


def _seconds_of(day: str) -> int:
    found = instant(day)
    assert found is not None
    return found


def _far_below(value: float, others: NDArray[np.float64]) -> bool:
    """Whether a value lies below others by more than half of what these span."""
    return float(others.min()) - value > (float(others.max()) - float(others.min())) / 2


# -- numbers -----------------------------------------------------------------------------------------------------------


def _numbers(sample: SampleColumn, texts: Sequence[str]) -> Inference | None:
    """Integers and floats, or the codes that only look like them; None where some value is no number."""
    kind = sample.kind
    if kind is not None and not (_is_text(kind) or _is_number(kind)):
        return None
    distinct = pa.array(texts, pa.string())
    numbers = wide_numbers(pa.chunked_array([distinct]), Numeric("numbers", 0, 1))
    if np.isnan(numbers).any():
        return None
    if _all_match(distinct, _WHOLE) and np.abs(numbers).max() > 2**53:
        return Inference(
            None,
            f"its whole numbers pass 2**53 (64-bit ids?), which no integer column holds; if it is an id: {_KEY_ADVICE}",
        )
    if (code := _code(sample, distinct)) is not None:
        return code
    finite = np.isfinite(numbers) & (np.abs(numbers) < sys.float_info.max)
    if not finite.any():
        return Inference(None, "its numbers are infinite")
    numbers = np.sort(numbers[finite])
    low, high, missing = float(numbers[0]), float(numbers[-1]), sample.missing > 0
    whole = _all_match(distinct, _WHOLE) if kind is None or _is_text(kind) else pa.types.is_integer(kind)
    if not whole and missing and np.all(numbers == np.rint(numbers)):
        whole = True  # whole numbers that became floats for the sake of the missing ones
    every = wide_numbers(sample.values, Numeric("numbers", 0, 1))
    log = _skewed(every[np.isfinite(every)])
    step = None if whole else step_of(texts)
    if step is not None:  # bounds with the dust of arithmetic go to their step
        unbounded = Numeric(sample.name, 0, 0, step=step)
        low, high = unbounded.from_steps(unbounded.steps(np.array([low, high]))).tolist()
    column = Numeric(sample.name, low, high, whole, None, log, missing, step)
    remarks = [*_remarks_on_extremes(sample, numbers, every), *_remarks_on_epochs(sample.name, distinct)]
    return Inference(column, remarks=tuple(remarks))


def _code(sample: SampleColumn, distinct: pa.Array) -> Inference | None:
    """What whole numbers are that count nothing: codes, phone numbers, calendar numbers; None for others."""
    name, texts = sample.name, sample.kind is None or _is_text(sample.kind)
    if texts and _any_match(distinct, _LEADING_ZERO):
        return _categories(sample, "its values are codes with leading zeros, not numbers")
    if texts and _any_match(distinct, _INTERNATIONAL):
        return _categories(sample, "its values are phone numbers")
    if not _all_match(distinct, _WHOLE):
        return None
    for pattern, form in ((_YEAR_MONTH_DAY, "yyyymmdd"), (_YEAR_MONTH, "yyyymm")):
        if _all_match(distinct, pattern):
            example = iso(float(_seconds_of("2024-01-31")), date=True)
            found = _categories(
                sample,
                f"its values are calendar numbers ({form}), not quantities: write ISO dates, such as {example}",
                "",
            )
            if isinstance(found.column, Categorical):
                found = Inference(
                    replace(found.column, kind="ordinal"),
                    remarks=(
                        f"column '{name}' holds calendar numbers ({form}), drafted as categories in their order: ISO "
                        f"dates such as {example}, in the private data too, would be dates",
                    ),
                )
            return found
    lengths = pc.utf8_length(distinct)
    shortest, longest = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    named = _NUMBERING_NAME.search(name) is not None and shortest >= 3
    numbering = (
        shortest == longest >= MIN_DIGITS_OF_A_NUMBERING
        and len(sample.present) >= MIN_RECORDS_FOR_IDS
        and len(distinct) >= 0.9 * len(sample.present)
        and not _all_match(distinct, _EPOCH)
    )
    if named or numbering:
        return _categories(sample, "its whole numbers look like a numbering (codes, phones, accounts), not quantities")
    return None


def _skewed(numbers: NDArray[np.float64]) -> bool:
    """Positive, over three decades, and half of them in the lowest twentieth of the range."""
    low, high = float(numbers.min()), float(numbers.max())
    return low > 0 and high >= 1000 * low and float(np.median(numbers)) - low <= (high - low) / 20


def step_of(texts: Iterable[str]) -> float | None:
    """The power of ten of which all numbers are multiples, as their digits tell: 0.01 for "12.50"; None for more than
    ``MAX_DECIMALS`` digits after the point.

    A number such as 0.30000000000000004 counts as the 0.3 that arithmetic made it of.
    """
    most = 0
    fractional = False
    for text in texts:
        try:
            number = Decimal(text)
        except InvalidOperation:
            continue
        if not number.is_finite():
            continue
        decimals = max(-int(number.as_tuple().exponent), 0)
        if decimals > MAX_DECIMALS:
            number = Decimal(repr(float(f"{number:.{_TRUE_DIGITS}g}")))
            decimals = max(-int(number.as_tuple().exponent), 0)
        if decimals > MAX_DECIMALS:
            return None
        fractional |= number != number.to_integral_value()
        most = max(most, decimals)
    return float(Decimal(1).scaleb(-most)) if fractional else 1.0


def _remarks_on_extremes(
    sample: SampleColumn, distinct: NDArray[np.float64], every: NDArray[np.float64]
) -> Iterator[str]:
    """Numbers that may stand for missing values: 999 far above all others, -1 as the only negative one."""
    if len(distinct) < _MIN_VALUES_BESIDE_A_MARKER:
        return
    for value, others, bound in ((distinct[-1], distinct[:-1], "max"), (distinct[0], distinct[1:], "min")):
        if np.count_nonzero(every == value) < 2:
            continue
        nearest = float(others[-1] if bound == "max" else others[0])
        if bound == "max":
            odd = bool(re.fullmatch(r"9{2,}(?:\.0)?|8{3,}(?:\.0)?", f"{value:.15g}")) and _far_below(-value, -others)
        else:
            odd = bool(re.fullmatch(r"-(?:1|[789]|9{2,}|8{2,})", f"{value:.15g}")) and nearest >= 0
        if odd:
            yield (
                f"column '{sample.name}': {value:.15g} may stand for a missing value, the next number is "
                f"{nearest:.15g}: a run reads it as a number. If so, write an empty field in the private data too, set "
                f"{bound} = {nearest:.15g} and missing = true"
            )


def _remarks_on_epochs(name: str, distinct: pa.Array) -> Iterator[str]:
    """Whole numbers that may count seconds or milliseconds since 1970."""
    if _all_match(distinct, _EPOCH):
        unit = "s" if _all_match(distinct, r"^\d{10}$") else "ms"
        yield (
            f"column '{name}': its numbers may count {'seconds' if unit == 's' else 'milliseconds'} since 1970: then "
            f'type = "datetime" with epoch = "{unit}" and bounds such as "2020-01-01" says so'
        )


# -- categories --------------------------------------------------------------------------------------------------------


def _categories(sample: SampleColumn, code: str = "", advice: str = _LIST_ADVICE) -> Inference:
    """Categories where there are few, else why there are none. ``code``: what is known about the values."""
    distinct = sorted(sample.counts, key=natural_order)
    kind = sample.kind
    listable = kind is None or _is_text(kind) or pa.types.is_boolean(kind) or _is_number(kind)
    if not listable or len(distinct) > min(MAX_CATEGORIES, max(FREE_CATEGORIES, len(sample) // 2)):
        return Inference(None, cause_of(sample, code, advice))
    remarks = list(_remarks_on_spelling(sample.name, sample.counts))
    form = common_form(distinct[:MAX_CATEGORIES], 0.9)
    if form is not None and form.name != "ranges" and not code:
        remarks.append(f"column '{sample.name}' holds {form.name}, drafted as categories: {form.advice}")
    remarks += _remarks_on_markers(sample.name, sample.counts, "column")
    return Inference(Categorical(sample.name, tuple(distinct), missing=sample.missing > 0), remarks=tuple(remarks))


def _remarks_on_spelling(name: str, counts: Mapping[str, int]) -> Iterator[str]:
    """Categories that differ in case or inner white space alone."""
    alike: dict[str, list[str]] = {}
    for text in counts:
        alike.setdefault(" ".join(text.casefold().split()), []).append(text)
    for texts in alike.values():
        if len(texts) > 1:
            listed = ", ".join(f"'{text}' ({counts[text]})" for text in sorted(texts))
            yield f"column '{name}': {listed} are different values for a run, as they are written differently"


def _remarks_on_markers(name: str, counts: Mapping[str, int], what: str) -> Iterator[str]:
    """Categories that often stand for a missing value; ``what``: "column" or "label"."""
    instead = "set missing = true" if what == "column" else f"let default name a value such as '{UNKNOWN}'"
    for text in sorted(MARKERS & set(counts)):
        yield (
            f"{what} '{name}': '{text}' ({counts[text]}) is drafted as a category: if it stands for a missing value, "
            f"take it out of values and {instead}"
        )


def cause_of(sample: SampleColumn, code: str = "", advice: str = _LIST_ADVICE) -> str:
    """Why a column has no place in a drafted schema, and what to do."""
    kind = sample.kind
    if kind is not None and pa.types.is_nested(kind):
        return "it holds lists or objects: give every part a column of its own"
    if kind is not None and pa.types.is_time(kind):
        return "it holds times of day: write minutes or seconds since midnight, as a number"
    if kind is not None and pa.types.is_temporal(kind):
        return "it holds durations: write a number in one unit"
    texts = [text for text in sample.counts if text not in MARKERS] or list(sample.counts)
    some = texts[:_EXAMINED]
    different = f"{len(sample.counts)} different values"
    if code:
        return f"{code}; it has {different}, too many to list here" + (f": {advice}" if advice else "")
    form = common_form(some)
    if form is not None:
        example = next(text for text in some if form.pattern.match(text))
        return f"it holds {form.name}, such as '{_cut(example)}', which are not read: {form.advice}"
    numbers = ~np.isnan(wide_numbers(pa.chunked_array([pa.array(some, pa.string())]), Numeric("numbers", 0, 1)))
    if 0.05 < numbers.mean() < 1:
        number, text = some[int(np.argmax(numbers))], some[int(np.argmin(numbers))]
        return (
            f"its values are of mixed types, numbers such as {number} and texts such as '{_cut(text)}': write numbers "
            "alone, and an empty field where there is none"
        )
    spaced = sum(" " in text for text in some) > len(some) / 2
    if spaced:
        return f"it looks like free text ({different}): --text names a column of free text"
    if sample.missing + len(sample.counts) == len(sample):
        return f"no two of its values are equal: if it is an id, {_KEY_ADVICE}; --text names a column of free text"
    return f"it has {different}, too many for categories: {_LIST_ADVICE}; --text names a column of free text"


def like_ids(sample: SampleColumn) -> bool:
    """Whether values are whole numbers or texts without spaces, no two alike."""
    if len(sample.present) < MIN_RECORDS_FOR_IDS or len(sample.counts) < len(sample.present):
        return False
    kind = sample.kind
    if kind is not None and not (_is_text(kind) or pa.types.is_integer(kind)):
        return False
    if _all_match(sample.present, _EPOCH):
        return False
    if _any_match(sample.present, r"\s"):
        return False
    return _all_match(sample.present, _WHOLE) or bool(
        np.isnan(wide_numbers(pa.chunked_array([sample.present]), Numeric("numbers", 0, 1))).all()
    )


def natural_order(text: str) -> tuple[float, str]:
    """Sort key: numbers in numeric order, before other text."""
    try:
        number = float(text)
    except ValueError:
        return (math.inf, text)
    return (number, text) if number == number else (math.inf, text)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _is_unreadable(kind: pa.DataType) -> bool:
    """Whether no column of a schema is read from a type of a file: lists, times of day, durations."""
    held = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    return bool(pa.types.is_nested(kind) or (pa.types.is_temporal(kind) and not held))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py())


def _any_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern), min_count=0).as_py())
