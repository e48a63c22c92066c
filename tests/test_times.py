"""Times of any spelling become seconds; what they mean is recognized or refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from graphrec import Dataset
from graphrec.code.cochange import times_in_days
from graphrec.core.errors import ConfigError, DataError
from graphrec.data.interactions import Interactions
from graphrec.data.query import Histories
from graphrec.data.readers import load_dataset
from graphrec.data.splits import LeaveOneOut, TimeCut, TimeSplit
from graphrec.data.times import as_seconds

NOON = 1_588_680_528  # 2020-05-05 12:08:48 UTC
PARTS = (0.3, 0.1, 0.2)


def shop(times, **options):
    columns = {"user": ["u"] * len(times), "item": list("abcdefgh")[: len(times)], "t": times}
    return Dataset.from_frame(columns, time="t", **{"split": "leave-one-out", **options})


@pytest.mark.parametrize(
    "times",
    [
        [f"2020-05-05 12:08:48.{round(10 * p)}00" for p in PARTS],
        [f"2020-05-05T12:08:48,{round(10 * p)}Z" for p in PARTS],
        [f"2020-05-05T14:08:48.{round(10 * p)}+02:00" for p in PARTS],
        [f"2020-05-05 07:08:48.{round(10 * p)}-0500" for p in PARTS],
        [f"20200505T120848.{round(10 * p)}Z" for p in PARTS],
        [f"05/05/2020 12:08:48.{round(10 * p)}" for p in PARTS],
        [NOON + p for p in PARTS],
        [str(NOON + p) for p in PARTS],
        [round((NOON + p) * 1000) for p in PARTS],
        [str(round((NOON + p) * 1000)) for p in PARTS],
        [round((NOON + p) * 10) * 10**5 for p in PARTS],
        [round((NOON + p) * 10) * 10**8 for p in PARTS],
        [datetime(2020, 5, 5, 12, 8, 48, round(p * 10**6)) for p in PARTS],
        [datetime(2020, 5, 5, 12, 8, 48, round(p * 10**6), UTC) for p in PARTS],
        pl.Series([round((NOON + p) * 10) * 10**8 for p in PARTS]).cast(pl.Datetime("ns")),
    ],
)  # fmt: skip
def test_fractions_of_a_second_decide_which_item_is_the_last(times, tmp_path):
    data = shop(times)
    assert (data.train + data.valid + data.test).times.tolist() == pytest.approx([NOON + p for p in PARTS])
    assert [data.items[int(part.items[0])] for part in (data.train, data.valid, data.test)] == ["b", "c", "a"]
    again = Dataset.load(data.save(tmp_path))
    assert again.resplit("leave-one-out").test == again.test == data.test
    assert Histories.from_interactions(data.train + data.valid + data.test).items.tolist() == [1, 2, 0]


def test_pandas_times(tmp_path):
    pandas = pytest.importorskip("pandas")
    times = pandas.to_datetime([f"2020-05-05 12:08:48.{round(10 * p)}" for p in PARTS])
    frame = pandas.DataFrame({"user": "u", "item": list("abc"), "t": times})
    assert Dataset.from_frame(frame, time="t", split="leave-one-out").test.items.tolist() == [0]
    frame.to_csv(tmp_path / "interactions.csv", index=False)
    assert load_dataset("table", tmp_path, time="t", split="leave-one-out").test.items.tolist() == [0]


def test_whole_seconds_stay_integers():
    assert shop([3.0, 1.0, 2.0]).train.times.dtype == np.int64
    assert shop([f"2020-05-05 12:08:4{s}" for s in (3, 1, 2)]).train.times.dtype == np.int64
    assert shop([1_600_000_000_000, 0, 1_600_000_001_000]).train.times.tolist() == [0]  # 0: no time known


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_unit_is_recognized_and_can_be_set(unit):
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = [(NOON + s) * ticks for s in (0, 86_400, 2 * 86_400)]
    for chosen in (None, unit):
        data = shop(times, time_unit=chosen, split={"name": "cut", "valid": NOON + 1, "test": NOON + 86_401})
        assert [len(data.train), len(data.valid), len(data.test)] == [1, 1, 1]
        assert times_in_days(data.train + data.valid + data.test).tolist() == [
            NOON / 86_400 + d for d in range(3)
        ]
    assert as_seconds(pl.Series([1, 2]), "file", unit=unit).tolist() == [1 / ticks, 2 / ticks]


@pytest.mark.parametrize(
    ("times", "options", "facts"),
    [
        (["05/06/2020", "06/07/2020", "01/02/2020"], {}, ["row 1", "05/06/2020", "time_format"]),
        (["05/05/2020", "05/06/2020", "01/01/2020"], {}, ["row 2", "05/06/2020"]),
        (["13/06/2020", "06/13/2020", "01/02/2020"], {}, ["row 2", "06/13/2020", "row 1", "13/06/2020"]),
        (["2020-05-05", "06/13/2020", "2020-05-06"], {}, ["row 1", "2020-05-05"]),
        (["2020-05-05", "May 6, 2020", "2020-05-06"], {}, ["row 2", "May 6, 2020", "time_format"]),
        (["2020-05-05", "2020-02-30", "2020-05-06"], {}, ["row 2", "2020-02-30"]),
        ([20200531, 20200601, 20200530], {}, ["20200531", "%Y%m%d", "time_unit"]),
        ([202005311200, 202006011200, 202005301200], {}, ["%Y%m%d%H%M"]),
        (["20200531120000", "20200601120000", "20200530120000"], {}, ["%Y%m%d%H%M%S"]),
        ([NOON * 1000, NOON, NOON * 1000], {}, ["row 2", str(NOON), "ms"]),
        ([NOON * 10**6, NOON * 1000, NOON * 10**6], {}, ["row 2", str(NOON * 1000), "us"]),
        ([11 * 10**12, 1, 2], {}, ["row 1", str(11 * 10**12), "2300"]),
        ([NOON * 1000, 1, 2], {"time_unit": "s"}, ["row 1", str(NOON * 1000)]),
        (["2020-05-05", "9999-12-31", "2020-05-06"], {}, ["row 2", "9999-12-31"]),
        (["5/6/20", "x", "5/7/20"], {"time_format": "%d/%m/%y"}, ["row 2", "'x'", "%d/%m/%y"]),
        (["1", "2020-05-06", "3"], {"time_unit": "ms"}, ["row 2", "2020-05-06"]),
    ],
)
def test_ambiguous_or_mixed_times_are_refused(times, options, facts):
    with pytest.raises(DataError) as caught:
        shop(times, **options)
    assert all(fact in str(caught.value) for fact in facts), caught.value


@pytest.mark.parametrize(
    ("times", "options"),
    [
        (["05/06/2020", "06/07/2020", "01/02/2020"], {"time_format": "%d/%m/%Y"}),
        (["06/05/2020", "07/06/2020", "02/01/2020"], {"time_format": "%m/%d/%Y"}),
        (["05.06.2020", "06.07.2020", "01.02.2020"], {}),
        ([20200605, 20200706, 20200201], {"time_format": "%Y%m%d"}),
        (["6/5/20 12:00 AM", "7/6/20 12:00 AM", "2/1/20 12:00 AM"], {"time_format": "%m/%d/%y %I:%M %p"}),
    ],
)
def test_a_format_is_taken_as_given(times, options):
    days = [datetime(2020, month, day, tzinfo=UTC) for day, month in ((5, 6), (6, 7), (1, 2))]
    data = shop(times, **options)
    assert (data.train + data.valid + data.test).times.tolist() == [int(d.timestamp()) for d in days]


def test_the_only_possible_order_of_day_and_month_is_taken():
    for times in (["05/31/2020", "06/01/2020", "01/02/2020"], ["31/05/2020", "01/06/2020", "02/01/2020"]):
        data = shop(times)
        assert data.items[int(data.test.items[0])] == "b"


@pytest.mark.parametrize(
    "options",
    [
        {"time_unit": "h"},
        {"time_unit": "s", "time_format": "%Y"},
        {"time_format": "day"},
        {"time_unit": "ms"},
    ],
)
def test_unusable_options(options):
    times = [datetime(2020, 5, d) for d in (1, 2, 3)] if options == {"time_unit": "ms"} else ["1", "2", "3"]
    with pytest.raises((ConfigError, DataError), match=re.escape("time_")):
        shop(times, **options)
    with pytest.raises(ConfigError, match="time="):
        Dataset.from_frame({"user": [1], "item": [1]}, time_unit="s")


def test_what_counts_in_seconds_refuses_other_units():
    made = Interactions([0, 0], [0, 1], 1, 2, [NOON * 1000, NOON * 1000 + 1], "clicks")
    for use in (times_in_days, lambda m: TimeCut(1, 2).assign(m, 0)):
        with pytest.raises(DataError, match=r"clicks.*ms"):
            use(made)
    assert TimeSplit(0, 0.5).assign(made, 0).tolist() == [0, 2], "only the order counts"
    assert LeaveOneOut().assign(made, 0).tolist() == [0, 0]


def test_a_dataset_saved_with_milliseconds_is_read_in_seconds(tmp_path):
    data = shop([1, 2, 3])
    parts = [
        Interactions(p.users, p.items, 1, 3, [NOON * 1000 + 500 * i], p.name)
        for i, p in enumerate((data.train, data.valid, data.test))
    ]
    again = Dataset.load(data.with_splits(*parts).save(tmp_path))
    assert [p.times.tolist() for p in (again.train, again.valid, again.test)] == [
        [NOON],
        [NOON + 0.5],
        [NOON + 1],
    ]


def test_times_closer_than_a_float_can_tell_stay_in_order():
    start = NOON * 10**9
    times = [start + 3, start + 1, start, start + 2, start + 10**6]
    seconds = as_seconds(pl.Series(times), "file")
    assert np.argsort(seconds).tolist() == np.argsort(times).tolist()
    assert len(set(seconds)) == 5
    assert np.abs(seconds - NOON).max() < 0.0011
