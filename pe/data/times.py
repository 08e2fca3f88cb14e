"""Instants as seconds since 1970-01-01 UTC, from ISO 8601 text and back; no value can fail.

Read is the extended form: ``2024-02-29``, ``2024-02-29T13:05``, ``2024-02-29 13:05:59.25+01:00``. A time without a zone
is UTC; fractions of a second are dropped. Anything else, a day that no month has included, is unreadable.
"""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

DAY = 86_400
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""Of the years 1 and 9999: what lies beyond them has no such text, and is unreadable in whatever form."""

_ISO = (
    r"^(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:[Tt ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d+)?)?"
    r" ?(?:[Zz]|(?P<sign>[+-])(?P<ahead>\d\d):?(?P<minutes>\d\d)?)?)?$"
)
_MONTHS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def seconds(texts: pa.ChunkedArray) -> NDArray[np.float64]:
    """Whole seconds since 1970-01-01 UTC of trimmed texts, float64 (n,); NaN for what is missing or unreadable."""
    found = pc.extract_regex(texts, _ISO)
    readable = pc.is_valid(found).to_numpy()

    def number(name: str) -> NDArray[np.int64]:
        digits = pc.fill_null(pc.struct_field(found, name), "")
        values: NDArray[np.int64] = pc.cast(pc.if_else(pc.equal(digits, ""), "0", digits), pa.int64()).to_numpy()
        return values

    year, month, day = number("year"), number("month"), number("day")
    hour, minute, second = number("hour"), number("minute"), number("second")
    ahead, minutes = number("ahead"), number("minutes")
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0)) & (month == 2)
    longest = _MONTHS[np.clip(month, 1, 12) - 1] + leap
    readable &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= longest)
    readable &= (hour < 24) & (minute < 60) & (second < 60) & (ahead < 24) & (minutes < 60)
    offset = ahead * 3600 + minutes * 60
    offset = np.where(pc.equal(pc.fill_null(pc.struct_field(found, "sign"), ""), "-").to_numpy(), -offset, offset)
    instants = _days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset
    return np.where(readable, instants, np.nan)


def instant(value: object) -> int | None:
    """The seconds of one declared value: ISO text, or a TOML date or date-time; None where it is neither."""
    if isinstance(value, datetime.date):  # a datetime is one, too
        value = value.isoformat()
    if not isinstance(value, str):
        return None
    found = seconds(pa.chunked_array([pa.array([value.strip()])]))[0]
    return None if np.isnan(found) else int(found)


def iso(second: float, *, date: bool) -> str:
    """ISO text of one instant, as a day or to the second."""
    return str(np.datetime64(int(second) // DAY, "D") if date else np.datetime64(int(second), "s"))


def _days(year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days since 1970-01-01 in the proleptic Gregorian calendar: years begin in March, so that leap days end them."""
    year = year - (month <= 2)
    era, within = year // 400, year % 400
    passed = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    result: NDArray[np.int64] = era * 146_097 + within * 365 + within // 4 - within // 100 + passed - 719_468
    return result
