"""Reads times of any spelling as seconds since the epoch: numbers of a unit, dates, datetimes, text.

Whole seconds are int64. Where a fraction of a second occurs, all times are float64 and stay in the order of
the source. Text without a time zone is taken as UTC.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.frames import as_numbers, quoted, refuse

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "µs": 10**6, "ns": 10**9}
"""Ticks a second, by unit."""
LIMIT = 10**11
"""Times from here on are no seconds (the year 5138) but milliseconds since 1973; each further unit starts a
thousand times higher."""
OLDEST_MIXED = 10**8
"""A smaller number in a column of a finer unit is a time near 1970, or a placeholder such as 0."""
LATEST = 10_413_792_000
"""2300-01-01: later times are taken for another unit or spelling."""
SECONDS_PER_DAY = 86_400.0
LEADING = 0.01
"""Share of distinct times that may be wrong because of clocks in the future."""
MAX_LEAD = 180 * 86_400
"""Maximum number of seconds by which those are taken to be after all others."""
EXPECTED = (
    "; expected seconds, or a date such as 2024-05-31 or 2024-05-31T18:00:00.25Z; give another format as "
    "time_format=, such as time_format='%m/%d/%Y %H:%M'"
)
COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Dates that look like numbers, by the number of digits."""
ISO_BASIC = r"^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})"
ISO = (
    r"^(?P<date>\d{4}[-/]\d{1,2}[-/]\d{1,2})"
    r"(?:[T ](?P<minute>\d{1,2}:\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?)?"
    r" ?(?:Z|UTC|(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?)?$"
)
ZONE = r":\d{2}(?:[.,]\d+)? ?(?:Z|UTC|[+-]\d{2}:?(?:\d{2})?)$"
YEAR_LAST = r"^(\d{1,2})([./-])(\d{1,2})[./-](\d{4})\b"


def as_seconds(
    series: pl.Series,
    source: str,
    first_row: int = 1,
    *,
    unit: str | None = None,
    format: str | None = None,
) -> np.ndarray:
    """Times in seconds since the epoch ``(E,)``: int64, or float64 if there are fractions of a second.

    Args:
        series: numbers, dates, datetimes, or text with one of these.
        source: file, for messages.
        first_row: number of the first row, for messages.
        unit: unit of numbers, one of :data:`UNITS`; None recognizes it from their size.
        format: format of text, in the notation of ``strftime``; None reads ISO 8601, and dates such as
            31/05/2024 if they can be read in one way only.

    Raises:
        ConfigError: unknown unit, unusable format, or both given.
        DataError: a value is not a time, or its meaning is ambiguous; the message names the first one and its
            row.
    """
    seconds = _read(series, source, first_row, unit, format)
    problem = f" is {LIMIT:,} seconds from 1970 or more; expected an earlier one"
    refuse(np.abs(seconds) >= LIMIT, series, "time", problem, source, first_row)
    return seconds


def _read(series: pl.Series, source: str, first_row: int, unit: str | None, format: str | None) -> np.ndarray:
    if unit is not None and unit not in UNITS:
        raise ConfigError(f"{source}: time_unit={unit!r}; expected one of {list(UNITS)}")
    if unit is not None and format is not None:
        raise ConfigError(f"{source}: time_unit= is for numbers and time_format= for text; give one of them")
    dtype = series.dtype
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        series = series.cast(pl.String)
    elif dtype in (pl.Boolean, pl.Time, pl.Duration) or dtype.is_nested():
        raise DataError(
            f"{source}: time column {series.name!r} has type {dtype}; expected seconds, dates or datetimes"
        )
    if format is not None:
        return _from_datetimes(_parse_format(series, format, source, first_row))
    if series.dtype == pl.String:
        series = series.str.strip_chars()
        not_numbers = series.cast(pl.Float64, strict=False).is_null()
        if not_numbers.any() and unit is not None:
            refuse(not_numbers, series, "time", f"; expected a number of {unit}", source, first_row)
        if not_numbers.any():
            # In a column of numbers the other values are wrong, else the numbers are.
            few = 2 * int(not_numbers.sum()) <= len(series)
            refuse(not_numbers if few else pl.Series([False]), series, "time", EXPECTED, source, first_row)
            return _from_text(series, source, first_row)
    if series.dtype.is_temporal():
        if unit is not None:
            raise ConfigError(
                f"{source}: time column {series.name!r} has type {dtype}; time_unit={unit!r} is for numbers"
            )
        refuse(series.is_null(), series, "time", EXPECTED, source, first_row)
        return _from_datetimes(series)
    return _from_numbers(series, source, first_row, unit)


def recognize_unit(values: np.ndarray) -> str:
    """The unit of numbers ``(E,)`` that are times, from the largest of them.

    Returns:
        ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``.
    """
    largest = float(np.abs(values.astype(np.float64)).max(initial=0.0))
    return next((u for u in ("s", "ms", "us") if largest < LIMIT * UNITS[u]), "ns")


def newest_time(seconds: np.ndarray) -> float:
    """The newest of some times ``(E,)``, from which the age of the others is counted.

    It is at most :data:`MAX_LEAD` after the others' newest time, where the others are all but the newest
    :data:`LEADING` of the distinct times (at least one), so that a clock in the future does not make
    everything else old.
    """
    distinct = np.unique(seconds)
    others = distinct[: len(distinct) - math.ceil(LEADING * len(distinct))]
    newest = min(distinct[-1], others[-1] + MAX_LEAD) if len(others) else distinct[-1]
    return float(newest)


def in_seconds(values: np.ndarray, unit: str) -> np.ndarray:
    """Numbers of a unit as seconds: int64 if all are whole seconds, else float64."""
    ticks = UNITS[unit]
    if values.dtype.kind in "iu":
        seconds, rest = np.divmod(values, ticks)
        return _in_order(values, seconds + rest / ticks) if rest.any() else seconds.astype(np.int64)
    seconds = values.astype(np.float64) / ticks
    whole = bool((seconds == np.floor(seconds)).all()) and bool((np.abs(seconds) < 2.0**63).all())
    return seconds.astype(np.int64) if whole else seconds


def _in_order(values: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The seconds ``(E,)``, moved by the least amounts so that different values stay different."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    ascending = seconds[first]
    for at in (np.flatnonzero(np.diff(ascending) <= 0) + 1).tolist():
        while at < len(ascending) and ascending[at] <= ascending[at - 1]:
            ascending[at] = np.nextafter(ascending[at - 1], np.inf)
            at += 1
    return ascending[inverse.reshape(-1)]


def _from_numbers(series: pl.Series, source: str, first_row: int, unit: str | None) -> np.ndarray:
    whole = series.dtype.is_integer() or series.dtype == pl.String
    integers = series.cast(pl.Int64, strict=False) if whole else None
    if integers is not None and not integers.null_count():
        values = integers.to_numpy()
    else:
        values = as_numbers(series, "time", source, first_row)
        refuse(np.abs(values) >= 2.0**63, series, "time", EXPECTED, source, first_row)
    if unit is None:
        unit = recognize_unit(values)
        _refuse_compact_dates(values, series, source, first_row)
        if unit != "s":
            coarser = (np.abs(values) < LIMIT * UNITS[unit] / 10**3) & (np.abs(values) >= OLDEST_MIXED)
            refuse(
                coarser, series, "time",
                f" is no number of {unit}, unlike later ones of the column; expected one unit, or set "
                "time_unit= (s, ms, us, ns) if it is one", source, first_row,
            )  # fmt: skip
            late = np.abs(values) > LATEST * UNITS[unit]
            refuse(
                late, series, "time",
                " is after 2300 in every unit; expected seconds, ms, us or ns since 1970: set time_unit=, or "
                "time_format= for dates", source, first_row,
            )  # fmt: skip
    return in_seconds(values, unit)


def _refuse_compact_dates(values: np.ndarray, series: pl.Series, source: str, first_row: int) -> None:
    """Refuses a column such as 20240531, which has the size of a time in August 1970."""
    digits = len(str(int(abs(values[0])))) if len(values) else 0
    if digits not in COMPACT or values.dtype.kind not in "iu" or len(values) < 2:
        return
    low = 1900 * 10 ** (digits - 4)
    high = 2100 * 10 ** (digits - 4)
    if values.min() < low or values.max() >= high:
        return
    text = pl.Series(values).cast(pl.String)
    format = COMPACT[digits]
    if _parse(text, format).null_count() == 0:
        raise DataError(
            f"{source}, row {first_row}: time {series[0]} and all others could be dates or numbers; set "
            f"time_format={format!r} if they are dates, else time_unit='{recognize_unit(values)}'"
        )


def _from_text(series: pl.Series, source: str, first_row: int) -> np.ndarray:
    """Text that is not all numbers."""
    zoned = series.str.contains(ZONE).fill_null(False)
    if zoned.any():
        refuse(
            ~zoned, series, "time", " has no time zone, unlike others; expected one in all", source, first_row
        )
    seconds = _parse_iso(series)
    bad = seconds.is_null()
    if bad.any():
        year_last = series.str.contains(YEAR_LAST).fill_null(False)
        refuse(bad & ~year_last, series, "time", EXPECTED, source, first_row)
        refuse(
            ~year_last,
            series,
            "time",
            ", unlike others with the year at the end" + EXPECTED,
            source,
            first_row,
        )
        seconds = _read_year_last(series, source, first_row)
    values = seconds.to_numpy()
    return in_seconds(values, "us")


def _read_year_last(series: pl.Series, source: str, first_row: int) -> pl.Series:
    """Dates such as 31/05/2024 or 05/31/2024, if all rows agree on one of the two; with dots, day first."""
    day_first = _parse_iso(series.str.replace(YEAR_LAST, "$4-$3-$1"))
    month_first = _parse_iso(series.str.replace(YEAR_LAST, "$4-$1-$3"))
    dotted = series.str.contains(r"^\d+\.")
    month_first = month_first.set(dotted, None)
    refuse(day_first.is_null() & month_first.is_null(), series, "time", EXPECTED, source, first_row)
    if not day_first.null_count() and not month_first.null_count():
        refuse(
            day_first != month_first, series, "time",
            " can be read day first or month first, as can all others; set time_format='%d/%m/%Y' or "
            "time_format='%m/%d/%Y' (with the time, such as ' %H:%M:%S', where there is one)",
            source, first_row,
        )  # fmt: skip
    if day_first.null_count():
        row = int(day_first.is_null().arg_max() or 0)
        refuse(
            month_first.is_null(), series, "time",
            f" has the day first, and {quoted(series[row])} in row {row + first_row} has the month first; "
            "expected one order", source, first_row,
        )  # fmt: skip
        return month_first
    return day_first


def _parse_iso(series: pl.Series) -> pl.Series:
    """Microseconds since the epoch of ISO 8601 text, null for other text."""
    basic = series.str.replace(ISO_BASIC, "$1-$2-${3}T$4:$5:$6")
    parts = basic.str.extract_groups(ISO).struct.unnest()
    clock = parts["minute"].fill_null("00:00") + ":" + parts["second"].fill_null("00")
    moment = _parse(parts["date"].str.replace_all("/", "-", literal=True) + " " + clock, "%Y-%m-%d %H:%M:%S")
    fraction = parts["fraction"].fill_null("0").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    hours, minutes = (parts[name].fill_null("0").cast(pl.Int64) for name in ("hours", "minutes"))
    east = parts.select(pl.when(pl.col("sign") == "-").then(-60).otherwise(60)).to_series()
    return (moment.dt.epoch("s") - (hours * 60 + minutes) * east) * UNITS["us"] + fraction


def _parse_format(series: pl.Series, format: str, source: str, first_row: int) -> pl.Series:
    if not (series.dtype.is_integer() or series.dtype in (pl.String, pl.Null)):
        raise ConfigError(
            f"{source}: time column {series.name!r} has type {series.dtype}, and time_format= is for text"
        )
    text = series.cast(pl.String).str.strip_chars()
    try:
        moments = _parse(text, format)
    except pl.exceptions.PolarsError as cause:
        raise ConfigError(
            f"{source}: time_format={format!r} is not usable ({cause}); expected one such as '%d/%m/%Y %H:%M'"
        ) from cause
    refuse(
        moments.is_null(),
        series,
        "time",
        f"; expected the format {format!r} (time_format=)",
        source,
        first_row,
    )
    return moments


def _parse(text: pl.Series, format: str) -> pl.Series:
    return text.str.to_datetime(format, time_unit="us", strict=False)


def _from_datetimes(series: pl.Series) -> np.ndarray:
    if series.dtype == pl.Date:
        series = series.cast(pl.Datetime("us"))
    return in_seconds(series.dt.epoch("us").to_numpy(), "us")
