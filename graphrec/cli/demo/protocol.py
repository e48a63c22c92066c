"""What the demonstration trains and measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphrec.evaluation.report import Report

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "popularity": ("Popularity", {}),
    "lightgcn": ("LightGCN", {"reg_weight": 0.03}),
    "content-ease": ("ContentEASE", {}),  # its defaults are the best of 48 combinations
    "freedom": ("FREEDOM", {"dropout": 0.7, "reg_weight": 0.1}),
}
"""Registered name -> name in tables, and options, chosen on the validation split of generated data."""

TRAINING: dict[str, Any] = {
    "batch_size": 2048,
    "learning_rate": 5e-3,
    "patience": 5,
    "checkpoint_every": 10,
    "progress": False,
}
EPOCHS = 60
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
SELECT = "recall@20"
GROUPS: dict[str, tuple[str, str]] = {
    "": ("all items", "every held-out item counts"),
    "items/warm": ("warm items", "only held-out items with train interactions count"),
    "items/cold": ("cold items, among all", "only held-out items nobody bought in train count"),
    "items/cold/within": ("cold items, among new arrivals only", "the same, ranked against one another"),
}
"""Group of a report, empty for all users -> its name in tables, what it measures."""


def group_report(report: Report, group: str) -> Report | None:
    """One of :data:`GROUPS` of a report; None where no user has such a held-out item."""
    part = report.groups.get(group) if group else report
    return part if part is not None and len(part) else None
