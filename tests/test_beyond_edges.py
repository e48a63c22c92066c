"""Trials beyond the edges of grids that tables were tuned within."""

from __future__ import annotations

from typing import Any

from experiments.beyond_edges import at_an_edge, next_step, study_of, table


def row(*trials: tuple[float, float, int], **more: Any) -> dict[str, Any]:
    """A recorded LightGCN: value, regularization and layers of each trial."""
    return {
        "model": "lightgcn",
        "group": "main",
        "options": {"dim": 32, "reg_weight": trials[0][1], "n_layers": trials[0][2]},
        "trials": [
            {"value": value, "options": {"reg_weight": reg, "n_layers": layers}, "epochs": 9}
            for value, reg, layers in trials
        ],
        **more,
    }


def test_a_best_value_at_an_edge_has_a_next_one() -> None:
    at_edge, inside = row((0.2, 1e-5, 2), (0.1, 1e-3, 4)), row((0.2, 1e-3, 2), (0.1, 1e-5, 4))
    step = next_step(at_edge, study_of(at_edge))
    assert step == ("reg_weight", {"reg_weight": 1e-6, "n_layers": 2})
    assert next_step(inside, study_of(inside)) is None
    extended = row((0.2, 1e-5, 2), (0.1, 1e-3, 4))
    extended["trials"][1]["beyond"] = "reg_weight"
    one_trial = row((0.2, 1e-5, 2))
    check = row((0.2, 1e-5, 2), (0.1, 1e-3, 4), group="parts")
    rows = {"edge": at_edge, "in": inside, "more": extended, "one": one_trial, "check": check}
    assert at_an_edge({"order": list(rows), "rows": rows}) == ["edge"]


def test_no_more_steps_than_tuning_makes() -> None:
    facts = row((0.2, 1e-5, 4), (0.1, 1e-3, 2))
    trials = [{**facts["trials"][0], "beyond": "n_layers"} for _ in range(4)]
    study = study_of({**facts, "trials": [*facts["trials"], *trials]})
    assert next_step(facts, study) is None


def test_the_table_shows_each_step() -> None:
    step = {"option": "reg_weight", "from": 0.3, "to": 0.9, "value": 0.202}
    rows = [{"table": "xwines", "model": "MF-BPR", "value": 0.2, "steps": [step]}]
    text = table({"command": "python -m x", "metric": "recall@20", "trials": rows})
    assert "| xwines | MF-BPR | `reg_weight` | 0.3 | 0.9 | 0.2000 | 0.2020 | +1.0% |" in text
    assert "python -m x" in text
