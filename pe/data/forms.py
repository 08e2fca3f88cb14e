"""Forms in which values are often written and which the readers do not take, each with what to do about it.

Used where the holder of data, or of a public sample, is told why values do not fit: no reader depends on it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_MARKERS = r"""
    ? - -- . \N NA N/A n/a na NaN nan NaT <NA> NULL Null null None none NONE #N/A #NA #NULL! #DIV/0! #REF! #VALUE!
    (null) (none) (blank) missing Missing MISSING
"""
MARKERS = frozenset(_MARKERS.split())
"""Texts that often stand for a missing value."""

_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zé]*\.?"
_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[ap]\.?m\.?)?"
_AFTER = rf"(?:,?[ T]+{_CLOCK})?"
_AMOUNT = r"(?:\d{1,3}(?:[., '’\u00a0\u202f]\d{3})+|\d+)(?:[.,]\d+)?"
_CURRENCY = r"(?:[$€£¥₹₽₺₩]|us\$|usd|eur|gbp|chf|jpy|cny|inr|cad|aud|sek|nok|dkk|pln|czk|brl|kr|zł|fr\.)"
_UNIT = (
    r"(?:[kmµ]?g|lbs?|oz|t|[kcmµn]?m[²³23]?|mi|ft|in|yd|[mcd]?l|m?sec|min|hrs?|yrs?|years?|months?|weeks?|wks?|bpm|mmhg"
    r"|[kmg]?wh?|m?[va]|[kmg]?hz|[kmgt]b|k|mn|mio|bn|°[cf]?|px|pcs|x|mmol/l|mg/dl|km/h|mph|m/s|kg/m[²2])"
)
_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"


@dataclass(frozen=True)
class Form:
    """A way to write values: what to call it, what matches it, and what to do."""

    name: str
    pattern: re.Pattern[str]
    advice: str


def _form(name: str, pattern: str, advice: str) -> Form:
    return Form(name, re.compile(rf"(?:{pattern})\Z", re.IGNORECASE), advice)


_ISO_ADVICE = "write them in ISO form, such as 2024-01-31"
_PLAIN_NUMBER = "write plain numbers, such as 1234.5"

FORMS = (
    _form("dates as dd.mm.yyyy", rf"\d{{1,2}}\. ?\d{{1,2}}\. ?\d{{4}}{_AFTER}", _ISO_ADVICE),
    _form("dates as dd/mm/yyyy", rf"(?:1[3-9]|2\d|3[01])/\d{{1,2}}/\d{{4}}{_AFTER}", _ISO_ADVICE),
    _form("dates as mm/dd/yyyy", rf"\d{{1,2}}/(?:1[3-9]|2\d|3[01])/\d{{4}}{_AFTER}", _ISO_ADVICE),
    _form("dates as dd/mm/yyyy or mm/dd/yyyy", rf"\d{{1,2}}/\d{{1,2}}/\d{{4}}{_AFTER}", _ISO_ADVICE),
    _form("dates as dd-mm-yyyy or mm-dd-yyyy", rf"\d{{1,2}}-\d{{1,2}}-\d{{4}}{_AFTER}", _ISO_ADVICE),
    _form("dates as yyyy/mm/dd", rf"\d{{4}}[/.]\d{{1,2}}[/.]\d{{1,2}}{_AFTER}", _ISO_ADVICE),
    _form("dates with two-digit years", rf"\d{{1,2}}([./-])\d{{1,2}}\1\d\d{_AFTER}", _ISO_ADVICE),
    _form(
        "dates with names of months",
        rf"(?:\d{{1,2}}\.?[ -])?{_MONTH}[ -](?:\d{{1,2}}(?:st|nd|rd|th)?,?[ -])?(?:\d{{4}}|\d\d){_AFTER}"
        rf"|\d{{4}}[ -]{_MONTH}[ -]\d{{1,2}}{_AFTER}",
        _ISO_ADVICE,
    ),
    _form("calendar numbers (yyyymmdd)", r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])", _ISO_ADVICE),
    _form("months as yyyy-mm", r"\d{4}[-/](?:0?[1-9]|1[0-2])", "write the first day of the month, such as 2024-01-01"),
    _form(
        "dates that no calendar has, or times without seconds or minutes",
        r"\d{4}-\d{1,2}-\d{1,2}(?:[T ].*)?",
        _ISO_ADVICE + " or 2024-01-31T13:05",
    ),
    _form("times of day", _CLOCK, "write minutes or seconds since midnight, as a number"),
    _form(
        "durations",
        r"-?\d+ days?(?:,? [\d:.]+)?|P(?:\d+[YMWD])*(?:T(?:\d+[HMS])+)?|\d{1,4}:\d\d:\d\d|(?:\d+ ?[dhms] ?)+",
        "write a number in one unit",
    ),
    _form(
        "amounts with a currency sign",
        rf"[-(]?{_CURRENCY} ?-?{_AMOUNT}\)?|[-(]?{_AMOUNT} ?{_CURRENCY}\)?",
        _PLAIN_NUMBER,
    ),
    _form("percentages", r"[-+]?\d+(?:[.,]\d+)? ?%", "write numbers without the sign, such as 12.5 or 0.125"),
    _form(
        "numbers with thousands separators",
        r"[-+(]?\d{1,3}(?:(?:,\d{3})+(?:\.\d+)?|(?:\.\d{3})+(?:,\d+)?|(?:['’\u00a0\u202f ]\d{3})+(?:[.,]\d+)?)\)?",
        _PLAIN_NUMBER + ", not 1,234.5",
    ),
    _form("numbers with decimal commas", r"[-+]?\d*,\d+", "write a decimal point, such as 1234.5"),
    _form("numbers with the sign in another place", rf"\({_NUMBER}\)|{_NUMBER} ?-|[−–] ?{_NUMBER}", "write -12.5"),
    _form(
        "ranges",
        rf"[-+]?{_NUMBER} ?(?:-|–|—|to|bis|\.\.) ?[-+]?{_NUMBER}|[<>≤≥]=? ?{_NUMBER}|{_NUMBER} ?\+"
        rf"|[\[(]{_NUMBER}, ?{_NUMBER}[\])]",
        'declare them as categories (type = "ordinal" and their values in order), or write one number',
    ),
    _form("numbers in hexadecimal", r"0x[0-9a-f]+", 'write decimal numbers; an id is type = "key"'),
    _form("numbers with a unit", rf"[-+]?{_NUMBER} ?{_UNIT}", "write the number alone, in one unit for all"),
    _form(
        "unique ids (UUID)",
        r"\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?",
        'give the column type = "key": that makes fresh ones',
    ),
    _form("e-mail addresses", r"[^@\s]+@[^@\s]+\.[a-z]+", 'give the column type = "key", or leave it out'),
    _form("web addresses", r"(?:https?://|www\.)\S+", 'give the column type = "key", or leave it out'),
    _form("network addresses", r"(?:\d{1,3}\.){3}\d{1,3}", 'give the column type = "key", or leave it out'),
    _form(
        "phone numbers",
        r"\+\d[\d ()/.-]{5,}|\(?0\d[\d ()/.-]{6,}|\(?\d{3}\)?[ .-]?\d{3}[ .-]\d{4}",
        'give the column type = "key", or leave it out',
    ),
    _form("lists or objects", r"[\[{].*[\]}]", "give every part a column of its own"),
)


_DAY_FIRST, _MONTH_FIRST, _DAY_OR_MONTH_FIRST = FORMS[1:4]
_THOUSANDS = next(form for form in FORMS if form.name == "numbers with thousands separators")
_DECIMAL_COMMAS = next(form for form in FORMS if form.name == "numbers with decimal commas")


def common_form(texts: Iterable[str], share: float = 0.5) -> Form | None:
    """The form of at least that share of the texts, if there is one; a text counts for the first that it matches.

    What one text leaves open all of them decide: one day above 12 says whether days or months come first, one
    "12,5" that "1,234" has a decimal comma.
    """
    held = list(texts)
    counts = Counter(next((form for form in FORMS if form.pattern.match(text)), None) for text in held)
    del counts[None]
    if bool(counts[_DAY_FIRST]) != bool(counts[_MONTH_FIRST]):
        counts[_DAY_FIRST if counts[_DAY_FIRST] else _MONTH_FIRST] += counts.pop(_DAY_OR_MONTH_FIRST, 0)
    else:
        counts[_DAY_OR_MONTH_FIRST] += counts.pop(_DAY_FIRST, 0) + counts.pop(_MONTH_FIRST, 0)
    if counts[_DECIMAL_COMMAS]:
        counts[_DECIMAL_COMMAS] += counts.pop(_THOUSANDS, 0)
    form, count = counts.most_common(1)[0]
    return form if form is not None and count >= max(share * len(held), 1) else None


def outline(text: str, longest: int = 24) -> str:
    """A text's shape without its content: digits as 9, letters as a or A; cut where it is long."""
    shape = "".join("9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text)
    return shape if len(shape) <= longest else shape[:longest] + "..."
