"""Verification of recorded results: retrained from the record alone, refused where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrec as gr
from experiments import harness, movielens_small, retrain, verify
from experiments.content import extracted
from experiments.harness import Experiment, Row, arguments, defaults_of, run
from experiments.recording import RESULTS, read_result
from experiments.retrain import RecordedRow, Where, _defaults, features_of, kind_of
from experiments.rows import checks
from graphrec.core.errors import ConfigError, DataError, FeatureError
from graphrec.data.generated import generated_options, write_catalog
from graphrec.models import model

RECORDED = sorted(path.stem for path in RESULTS.glob("*.json"))
TRAIN = gr.TrainConfig(batch_size=256, epochs=3, progress=False)
Verifier = Callable[..., int]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generated shop, and the record of a small experiment on it."""
    folder = tmp_path_factory.mktemp("verify")
    write_catalog(folder / "shop", n_items=60, n_users=90, seed=0)
    options = {**generated_options(), "split": "random"}
    data = gr.load_dataset("table", root=folder / "shop", **options)
    tables = extracted(data, folder / "cache", image="hog-hsv", text="tfidf-svd")
    rows = [
        Row("Popularity", "popularity", model("popularity").Config(), TRAIN),
        Row("MF-BPR", "mf", model("mf").Config(dim=8), TRAIN),
        Row("FREEDOM", "freedom", model("freedom").Config(dim=8, dropout=0.5), TRAIN),
    ]
    more, pairs = checks(rows)
    more = [row for row in more if row.label in ("FREEDOM, shuffled", "FREEDOM, text only")]
    pairs = [pair for pair in pairs if pair[1] in {row.label for row in more}]
    experiment = Experiment(
        "shop", "python -m shop", data, tables, [*rows, *more], range(2), "MF-BPR", pairs=pairs, checked=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "RESULTS", folder)
        run(experiment, arguments("").parse_args(["--out", str(folder / "runs")]))
    return folder


@pytest.fixture
def verified(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verifier:
    """Runs the command on a record, changed by a function, and returns its exit status."""
    monkeypatch.setattr(verify, "RESULTS", tmp_path)

    def status(
        *options: str, change: Callable[[dict[str, Any]], None] | None = None, root: Any = None
    ) -> int:
        record = json.loads((shop / "shop.json").read_text())
        if change is not None:
            change(record)
        (tmp_path / "shop.json").write_text(json.dumps(record))
        more = ["--root", str(root or shop / "shop"), "--store", str(shop / "cache"), *options]
        monkeypatch.setattr("sys.argv", ["verify", "shop", *more])
        with pytest.raises(SystemExit) as left:
            verify.main()
        assert isinstance(left.value.code, int)
        return left.value.code

    return status


@pytest.mark.parametrize(
    "label", ["Popularity", "MF-BPR", "FREEDOM", "FREEDOM, shuffled", "FREEDOM, text only"]
)
def test_a_row_is_trained_again_from_its_record_to_the_recorded_value(
    label: str, verified: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified("--row", label) == 0
    assert capsys.readouterr().out.count("for this seed equal") == 4, "on one machine it is the same number"


def test_a_tampered_record_fails_with_recorded_and_new_value(
    verified: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    new = []

    def better(record: dict[str, Any]) -> None:
        for seed in record["rows"]["FREEDOM"]["runs"]:
            new.append(seed["test"]["recall@20"])
            seed["test"]["recall@20"] *= 10

    assert verified("--row", "FREEDOM", change=better) == 1
    out, err = capsys.readouterr()
    line = next(line for line in out.splitlines() if line.startswith("OUTSIDE"))
    values = [10 * value for value in new]
    assert f"recall@20 is {new[0]:.6f}" in line
    assert f"recorded {np.mean(values):.6f} ± {np.std(values, ddof=1):.6f} over seeds 0, 1" in line
    assert "recall@20 of FREEDOM" in err

    def last_digit(record: dict[str, Any]) -> None:
        for seed in record["rows"]["Popularity"]["runs"]:
            seed["test"]["ndcg@10"] *= 1 + 1e-5

    assert verified("--row", "Popularity", change=last_digit) == 1, "nothing is drawn: it has to match"


@pytest.mark.parametrize("where", ["options", "defaults", "control", "train"])
def test_what_the_record_says_is_trained_and_not_what_the_script_or_the_model_says_now(
    where: str, verified: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(record: dict[str, Any]) -> None:
        row = record["rows"]["FREEDOM"]
        if where == "options":
            row["options"]["dropout"] = 0.9
        elif where == "control":
            row["control"] = {"text": "noise", "image": "noise"}
        elif where == "train":
            record["defaults"]["train"]["learning_rate"] = 0.1
        else:
            record["defaults"]["freedom"]["n_ui_layers"] = 1

    verified("--row", "FREEDOM", change=other)
    assert capsys.readouterr().out.count("for this seed equal") < 4


def test_typing_errors_are_named_with_what_there_is(
    verified: Verifier, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verified("--row", "FREEDOM, shufled") == 2
    assert "'FREEDOM, shuffled'" in capsys.readouterr().err.rpartition("Did you mean")[2]
    monkeypatch.setattr("sys.argv", ["verify", "shp"])
    with pytest.raises(SystemExit) as left:
        verify.main()
    assert left.value.code == 2
    assert "Did you mean 'shop'" in capsys.readouterr().err


def test_missing_or_other_data_is_no_verdict(
    verified: Verifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified(root=tmp_path / "nowhere") == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
    write_catalog(tmp_path / "other", n_items=60, n_users=90, seed=1)
    assert verified(root=tmp_path / "other") == 2
    assert "shop was recorded on" in capsys.readouterr().err


def test_other_features_are_refused_unless_they_are_wanted(
    verified: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(record: dict[str, Any]) -> None:
        record["features"]["text"]["sha256"] = "0" * 64
        record["features"]["text"]["extractor"]["versions"]["scipy"] = "0.1"

    assert verified("--row", "MF-BPR", change=other) == 0, "it reads no features"
    assert verified("--row", "FREEDOM", change=other) == 2
    err = capsys.readouterr().err
    assert "features text" in err
    assert "000000000000" in err
    assert "scipy 0.1 there" in err
    assert verified("--row", "FREEDOM", "--other-features", change=other) == 0


def test_a_package_that_features_need_is_named(
    verified: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(record: dict[str, Any]) -> None:
        record["features"]["image"]["extractor"]["versions"]["scikit-nothing"] = "1.0"

    assert verified("--row", "FREEDOM", change=other) == 2
    assert "features image need scikit-nothing" in capsys.readouterr().err
    assert verified("--row", "FREEDOM, text only", change=other) == 0
    assert verified("--list", change=other) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if " be verified" in line]
    lines = {line.removeprefix("shop, ").partition(": ")[0]: line for line in listed}
    assert "cannot be verified here: features image need" in lines["FREEDOM"]
    assert lines["MF-BPR"].endswith("can be verified")


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"rows": {}, "masked": "train"}'])
def test_a_damaged_record_is_no_verdict(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    monkeypatch.setattr("sys.argv", ["verify", str(path)])
    with pytest.raises(SystemExit) as left:
        verify.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_runs_that_are_kept_are_not_trained_twice(verified: Verifier, tmp_path: Path) -> None:
    out = tmp_path / "kept"
    assert verified("--row", "MF-BPR", "--seed", "1", "--out", str(out)) == 0
    (facts,) = out.rglob("facts.json")
    before = facts.stat().st_mtime_ns
    assert verified("--row", "MF-BPR", "--seed", "1", "--out", str(out)) == 0
    assert facts.stat().st_mtime_ns == before


def test_a_seed_that_is_not_recorded_is_compared_with_the_spread(
    verified: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified("--row", "MF-BPR", "--seed", "7") in (0, 1)
    out = capsys.readouterr().out
    assert "seed 7, which is not recorded" in out
    assert "for this seed" not in out


def test_records_of_earlier_versions_take_what_they_lack_from_their_script() -> None:
    old = {"experiment": "x", "command": movielens_small.COMMAND}
    rows = [row for row in movielens_small.ROWS if row.model == "freedom"]
    found = defaults_of(rows)
    found["train"] = {name: value for name, value in found["train"].items() if name not in retrain.NEWER}
    assert _defaults(old, "freedom") == found
    with pytest.raises(ConfigError, match="os"):
        _defaults({**old, "command": "python -m experiments.os"}, "freedom")


def test_options_that_came_later_are_as_training_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "NEWER", {"patience": None, "not_yet": 3})
    assert retrain.completed({"epochs": 3}) == {"epochs": 3, "patience": None}, "it lacks patience"
    assert retrain.completed({"patience": 5}) == {"patience": 5}, "what is recorded stands"


def bounds(values: list[float], trained: bool = True) -> tuple[float, float]:
    row = RecordedRow({"m": dict(enumerate(values))}, trained, 1.0)
    check = verify.checked("m", row, values[0])
    assert check.within
    return check.low, check.high


def test_bounds_by_hand() -> None:
    assert bounds([0.1, 0.2, 0.3]) == pytest.approx((0.2 - 0.3, 0.2 + 0.3))
    assert bounds([0.2, 0.2, 0.2001]) == pytest.approx((0.19803, 0.20203), abs=1e-5), "one percent at least"
    assert bounds([0.2]) == pytest.approx((0.19, 0.21))
    assert bounds([0.2, 0.2], trained=False) == pytest.approx((0.2, 0.2), rel=1e-5)
    fixed = RecordedRow({"m": {0: 0.2}}, False, None)
    assert not verify.checked("m", fixed, 0.2001).within
    assert verify.checked("m", fixed, 0.2001, other_features=True).within
    assert not verify.checked("m", fixed, 0.203, other_features=True).within
    row = RecordedRow({"m": {0: 0.2}}, True, None)
    assert not verify.checked("m", row, float("nan")).within
    assert not verify.checked("m", row, 0.211).within


def test_the_tolerance_of_one_seed_covers_the_spread_of_nearly_all_rows_with_several() -> None:
    spreads = []
    for name in RECORDED:
        result = read_result(RESULTS / f"{name}.json")
        kind = kind_of(result)
        if "masked" not in result or kind is None:
            continue
        for row in kind.rows(result).values():
            values = list(row.values["recall@20"].values())
            if row.trained and len(values) > 1:
                spreads.append(np.std(values, ddof=1) / np.mean(values))
    assert len(spreads) > 100
    assert np.quantile(spreads, 0.95) < verify.ONE_SEED


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_result_can_be_verified(name: str, tmp_path: Path) -> None:
    result = verify.opened(name)
    where = Where(str(tmp_path), tmp_path, tmp_path)
    kind = kind_of(result)
    assert kind is not None
    rows = kind.rows(result)
    assert verify.quickest(rows) in rows
    for row in rows.values():
        assert row.seeds
        assert all(list(of) == row.seeds for of in row.values.values())
        if len(row.seeds) > 1:
            for metric, of in row.values.items():
                for value in of.values():
                    assert verify.checked(metric, row, value).within, "a recorded value is within its spread"
    text = verify.listed([name], where, rows=True)
    assert len(text.splitlines()) == len(rows)
    assert all("cannot be verified here: " in line for line in text.splitlines()), "there are no data"


CHEAP = [
    ("movielens_small", "Popularity"),
    ("movielens_small_cold", "ItemKNN"),
    ("amazon_scientific", "ItemKNN (content)"),
    ("amazon_scientific_cold", "ItemKNN (content)"),
    ("xwines", "ItemKNN"),
    ("amazon_scientific", "EASE"),
    ("amazon_scientific", "ContentEASE"),
    ("contributions_db", "Popularity"),
    ("neighbors", "amazon-scientific image"),
    ("time_splits", "Git histories, DB: one time for all: ItemKNN"),
    ("contributions_cuts_db", "Co-change: cut 2"),
    ("published_rlmrec_amazon_book", "Popularity"),
    pytest.param("movielens_small_cold", "MF-BPR", marks=pytest.mark.slow),
]
"""Rows that take seconds and need no encoder: they are trained again in every test run that has the data."""


@pytest.mark.parametrize(("name", "label"), CHEAP)
def test_recorded_numbers_are_still_what_comes_out(
    name: str, label: str, real_data: Path, tmp_path: Path
) -> None:
    result = verify.opened(name)
    where = Where(str(real_data), tmp_path / "cache", tmp_path / "runs")
    outside = [str(check) for check in verify.verify(result, label, 0, where) if not check.within]
    assert outside == []


def test_ready_features_of_another_dataset_are_refused(real_data: Path, tmp_path: Path) -> None:
    result = verify.opened("amazon_scientific")
    where = Where(str(real_data), tmp_path / "cache", tmp_path / "runs")
    row = Row("x", "freedom", model("freedom").Config(), TRAIN)
    data = gr.load_dataset("amazon-scientific", root=real_data)
    assert set(features_of(result, row, data, where)) == {"image", "text"}
    result["features"]["text"]["sha256"] = "f" * 64
    with pytest.raises(FeatureError, match="text"):
        features_of(result, row, data, where)
    result["dataset"]["fingerprint"] = "f" * 12
    with pytest.raises(DataError, match="ffffffffffff"):
        verify.verify(result, "Popularity", 0, where)
