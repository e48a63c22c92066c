"""``graphrec compare``: rows, files, the ways to name runs, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

Command = Callable[..., Any]
Refused = Callable[..., str]

RUNS = ("runs/freedom", "runs/popularity")


def test_it_says_the_answer_and_prints_the_numbers_that_evaluate_prints(
    copy: Path, graphrec: Command
) -> None:
    answer = graphrec("compare", *RUNS, "--baseline", "popularity")
    assert answer.code == 0
    assert "recall@20" in answer.out.splitlines()[0]
    assert {"freedom", "popularity"} <= set(re.findall(r"\w+", answer.out.splitlines()[0]))
    assert "freedom vs popularity" in answer.out
    assert "single seed, so no spread is known" in answer.out
    assert answer.err.count("evaluating ") == 2
    mean = next(
        line.split()[3]
        for line in graphrec("evaluate", "runs/freedom").out.splitlines()
        if " recall " in line
    )
    assert mean in answer.out
    again = graphrec("compare", *RUNS, "--baseline", "popularity")
    assert again.out == answer.out
    assert "evaluating" not in again.err


def test_a_directory_stands_for_the_runs_in_it(copy: Path, graphrec: Command) -> None:
    assert graphrec("compare", "runs").out == graphrec("compare", *RUNS).out


def test_everything_is_written_where_out_says(copy: Path, graphrec: Command) -> None:
    answer = graphrec("compare", "runs", "--label", "mine=runs/freedom", "--out", "made")
    assert answer.code == 0
    written = [
        line.removeprefix("written: ") for line in answer.err.splitlines() if line.startswith("written")
    ]
    assert sorted(written) == sorted(str(p) for p in Path("made").iterdir())
    assert set(pl.read_parquet("made/comparison.parquet")["label"]) == {"mine", "popularity"}
    assert list(json.loads(Path("made/comparison.json").read_text())["models"]) == ["mine", "popularity"]
    assert (
        "graphrec compare runs --label mine=runs/freedom --out made" in Path("made/report.html").read_text()
    )
    assert Path("made/table.tex").read_text().startswith(r"\begin{tabular}")
    one = graphrec("compare", "runs", "--html", "one/r.html", "--parquet", "one/c.parquet")
    assert one.code == 0
    assert sorted(p.name for p in Path("one").iterdir()) == ["c.parquet", "r.html"]


def test_formats_for_papers_hold_tables_alone(copy: Path, graphrec: Command) -> None:
    latex = graphrec("compare", "runs", "--format", "latex", "--k", "5", "--metric", "ndcg@5")
    assert latex.out.startswith(r"\begin{tabular}")
    assert latex.out.rstrip().endswith(r"\end{tabular}")
    assert "ndcg@5" in latex.out
    assert "on ndcg@5" in latex.err
    markdown = graphrec("compare", "runs", "--format", "markdown").out
    assert all(line.startswith("|") for line in markdown.splitlines() if line)


def test_mistakes_are_answered_with_what_to_do(copy: Path, refused: Refused) -> None:
    assert "Did you mean 'freedom'?" in refused("compare", "runs/freedm")
    assert "Did you mean 'freedom'?" in refused("compare", "runs", "--baseline", "fredom")
    assert "Did you mean 'recall'?" in refused("compare", "runs", "--metric", "recal@20")
    assert "no cut-off" in refused("compare", "runs", "--metric", "recall")
    assert "expected NAME=RUN" in refused("compare", "runs", "--label", "runs/freedom")
    twice = refused("compare", "--label", "a=runs/freedom", "--label", "a=runs/popularity")
    assert "--label a=runs/popularity" in twice
    assert "name RUNs to compare" in refused("compare")
    assert "Did you mean 'latex'?" in refused("compare", "runs", "--format", "latx")
    assert "Did you mean 'train'?" in refused("compare", "runs", "--masked", "trian")
    Path("file").write_text("")
    assert "cannot be written" in refused("compare", "runs", "--out", "file/below")
