"""Recorded results: every comparison belongs to one set of seeds, and the tables print what is recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import conversations, llm_augmentation, paper_claims
from experiments.recording import MOST_TRIALS, RESULTS, TEST, read_result, write_result
from experiments.rendering import compared, corrected_p, details, key_of, pair_table, shared_seeds, values_of
from graphrec.evaluation.metrics import holm

RECORDED = sorted(path.stem for path in RESULTS.glob("*.json"))
ROUNDED = 2e-8  # means of numbers that are recorded with eight digits
ROOT = Path(__file__).parent.parent


def recorded(name: str) -> dict[str, Any]:
    result: dict[str, Any] = read_result(RESULTS / f"{name}.json")
    return result


def is_ranking(name: str) -> bool:
    return "pairs" in recorded(name) and "comparisons" in recorded(name)


RANKINGS = [name for name in RECORDED if is_ranking(name)]


def means(result: Mapping[str, Any], c: Mapping[str, Any], view: str = "test") -> tuple[float, float]:
    """Means over the seeds that both rows of a comparison have."""
    seeds = shared_seeds(result, c)
    assert seeds, f"{c['model']} and {c['baseline']} have no seed in common"
    ours, theirs = (
        values_of(result["rows"][c[side]], view, c["metric"], seeds=seeds) for side in ("model", "baseline")
    )
    assert len(ours) == len(theirs) == len(seeds)
    return float(np.mean(ours)), float(np.mean(theirs))


@pytest.mark.parametrize("name", RANKINGS)
def test_a_recorded_difference_is_that_of_the_seeds_both_rows_have(name: str) -> None:
    """The mean over users of each user's mean over seeds is the mean over seeds of the runs' means."""
    result = recorded(name)
    for c in compared(result):
        ours, theirs = means(result, c)
        assert c["mean"] == pytest.approx(ours, abs=ROUNDED), c
        assert c["baseline_mean"] == pytest.approx(theirs, abs=ROUNDED), c
        assert c["difference"] == pytest.approx(ours - theirs, abs=ROUNDED), c
        assert c["relative"] == pytest.approx(ours / theirs - 1, rel=1e-4, abs=1e-6), c


@pytest.mark.parametrize("name", [name for name in RECORDED if "contributions" in recorded(name)])
def test_a_recorded_difference_of_contributions_likewise(name: str) -> None:
    result = recorded(name)
    for c in result["contributions"]:
        ours, theirs = means(result, c, "intra")
        assert c["difference"] == pytest.approx(ours - theirs, abs=ROUNDED), c
        assert c["relative"] == pytest.approx(ours / theirs - 1, rel=1e-4, abs=1e-6), c


def lines_of(table: str) -> Iterator[dict[str, list[str]]]:
    """The rows of the tables that have relative differences: heading -> its cells, as some occur twice."""
    heads: list[str] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or "relative" not in (heads or cells):
            heads = []
        elif not heads:
            heads = cells
        elif not set(line) <= set("|-: "):
            row: dict[str, list[str]] = {}
            for head, cell in zip(heads, cells, strict=True):
                row.setdefault(head.partition(" (")[0], []).append(cell)
            yield row


def mean_of(cell: str) -> float:
    return float(cell.partition(" ±")[0])


def assert_relative(printed: str, ours: str, theirs: str) -> None:
    """It is what can be computed from the columns as printed, to one unit of its last digit."""
    ratio = mean_of(ours) / mean_of(theirs)
    if printed.endswith(" times"):
        assert float(printed.removesuffix(" times")) == pytest.approx(ratio, abs=0.1001)
    else:
        assert float(printed.removesuffix("%")) == pytest.approx(100 * (ratio - 1), abs=0.1001), printed


def all_pair_tables() -> Iterator[tuple[list[str], str]]:
    """The tables of the pages that show rows beside their checks, with the results they are made from."""
    for name in RANKINGS:
        yield [name], details(recorded(name))
    for page in (ROOT / "docs").glob("**/*.md"):
        text = page.read_text(encoding="utf-8")
        for group, names in re.findall(r"<!-- table: (parts|modalities|shuffled) (.+?) -->", text):
            results = {name: recorded(name) for name in names.split()}
            yield list(results), paper_claims.checks(results, group)


def test_every_printed_pair_shows_both_rows_over_the_seeds_it_names() -> None:
    tables = list(all_pair_tables())
    assert len(tables) > len(RANKINGS), "the pages have tables of pairs"
    shown = 0
    for names, table in tables:
        for row in lines_of(table):
            if "check" not in row:
                continue
            result = recorded(row["dataset"][0] if "dataset" in row else names[0])
            pair = next(p for p in result["pairs"] if key_of(p)[:2] == (row["model"][0], row["check"][0]))
            seeds = shared_seeds(result, pair)
            assert row["seeds"] == ["one seed" if len(seeds) == 1 else str(len(seeds))]
            for cell, mean in zip(row["R@20"], means(result, pair), strict=True):
                assert mean_of(cell) == pytest.approx(mean, abs=6e-6)
                assert ("±" in cell) == (len(seeds) > 1), "one seed has no spread"
            assert_relative(row["relative"][0], *row["R@20"])
            assert float(row["difference"][0]) == pytest.approx(pair["difference"], abs=6e-5)
            assert row["p"] == [f"{corrected_p(result)[key_of(pair)]:.2g}"]
            shown += 1
    assert shown > 50


@pytest.mark.parametrize("name", [name for name in RANKINGS if name.endswith("augmented")])
def test_every_printed_row_of_augmentation_agrees_with_its_relative_difference(name: str) -> None:
    result = recorded(name)
    rows = {}
    for table in (llm_augmentation.parts, llm_augmentation.added):
        if not any(row["model"] == "llmrec" for row in result["rows"].values()):
            continue  # the cold ones have a table without comparisons
        rows |= {row["model"][0]: row for row in lines_of(table(result))}
    for pair in result["pairs"] if rows else ():
        model, base = (rows[pair[side]] for side in ("model", "baseline"))
        shown = rows[pair["baseline" if result["rows"][pair["model"]]["model"] == "llmrec" else "model"]]
        assert_relative(shown["relative"][0], model["R@20"][0], base["R@20"][0])
        assert shown["p"] == [f"{corrected_p(result)[key_of(pair)]:.2g}"]


def test_accuracy_compares_on_shared_seeds() -> None:
    names = [name for name in RANKINGS if {"LATTICE", "FREEDOM"} <= recorded(name)["rows"].keys()]
    table = paper_claims.accuracy({name: recorded(name) for name in names})
    rows = list(lines_of(table))
    assert len(rows) == len(names) + 1
    for row in rows[:-1]:
        assert_relative(row["relative"][0], row["FREEDOM"][0], row["LATTICE"][0])


def result_of(seeds: Mapping[str, Mapping[int, float]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """A result by hand: row -> seed -> recall."""
    rows = {
        label: {"group": "main" if label == "A" else "shuffled", "runs": [
            {"seed": seed, "test": {"recall@20": value, "ndcg@20": value}} for seed, value in of.items()]}
        for label, of in seeds.items()
    }  # fmt: skip
    made = [
        {"model": a, "baseline": b, "metric": "recall@20", "difference": 0.1, "relative": 0.5,
         "interval": [0.0, 0.1], "p": 0.01} for a, b in pairs
    ]  # fmt: skip
    return {"experiment": "toy", "baseline": "A", "rows": rows, "comparisons": [], "pairs": made}


def test_a_pair_over_fewer_seeds_than_its_row_is_shown_over_those() -> None:
    of = {"A": {0: 0.3, 1: 0.5, 2: 0.9}, "B": {1: 0.4, 0: 0.2}, "C": {2: 0.6}}
    table = pair_table([result_of(of, [("A", "B"), ("A", "C")])], lambda *_: True)
    b, c = lines_of(table)
    assert b["R@20"] == ["0.40000 ± 0.14142", "0.30000 ± 0.14142"]
    assert b["seeds"] == ["2"]
    assert c["R@20"] == ["0.90000", "0.60000"]
    assert c["seeds"] == ["one seed"]


@pytest.mark.parametrize("name", RANKINGS)
def test_p_values_are_corrected_over_everything_that_is_compared_on_a_dataset(name: str) -> None:
    result = recorded(name)
    family = [*result["comparisons"], *result["pairs"], *result.get("rivals", [])]
    by_hand = holm([c["p"] for c in family])
    corrected = corrected_p(result)
    assert len(corrected) == len(family), "every comparison is one of its own"
    for c, p in zip(family, by_hand, strict=True):
        assert corrected[key_of(c)] == pytest.approx(p)
    assert f"{len(result['comparisons'])} with {result['baseline']}" in details(result)


def test_one_page_shows_a_comparison_with_the_p_of_every_other() -> None:
    seen: dict[tuple[str, str, str], set[str]] = {}
    for names, table in all_pair_tables():
        for row in lines_of(table):
            if "check" in row:
                dataset = row["dataset"][0] if "dataset" in row else names[0]
                seen.setdefault((dataset, row["model"][0], row["check"][0]), set()).add(row["p"][0])
    assert {key: p for key, p in seen.items() if len(p) > 1} == {}


@pytest.mark.parametrize("name", [name for name in RECORDED if "noise" in recorded(name)])
def test_an_interval_beside_a_mean_over_seeds_names_the_seed_it_is_of(name: str) -> None:
    result = recorded(name)
    lines = {line.split("|")[1].strip(): line for line in conversations.table(result).splitlines()}
    for label, row in result["rows"].items():
        of_all = len(row["runs"]) == 1 or "interval" in row
        assert ("(first seed " in lines[label]) != of_all
    several = next((label for label, row in result["rows"].items() if len(row["runs"]) > 1), None)
    if several is not None:
        result["rows"][several]["interval"] = [0.25, 0.75]
        assert "(0.250 to 0.750)" in conversations.table(result)


def test_a_row_that_depends_on_no_seed_is_recorded_once_and_read_for_each(tmp_path) -> None:
    runs = [{"seed": seed, "test": dict.fromkeys(TEST, 0.25), "seconds": 0.5} for seed in (0, 1, 7)]
    other = [{**run, "seconds": run["seed"] + 0.5} for run in runs]
    trials = [{"options": {"x": n}, "value": -abs(n - 11)} for n in range(MOST_TRIALS + 4)]
    result = {
        "rows": {
            "fixed": {"runs": runs, "trials": trials, "intervals": {}},
            "trained": {"runs": other, "trials": trials[:3]},
        }
    }
    path = tmp_path / "toy.json"
    write_result(path, result)
    rows = read_result(path)["rows"]
    assert rows["fixed"]["runs"] == runs
    assert rows["fixed"]["trials"] == [{"of": MOST_TRIALS + 4, "options": {"x": 11}, "value": 0}]
    assert rows["trained"] == {"runs": other, "trials": trials[:3]}
    assert path.read_text().count('"seconds"') == 4
    write_result(path, {"rows": rows})
    assert read_result(path)["rows"] == rows
