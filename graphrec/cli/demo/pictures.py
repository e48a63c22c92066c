"""Picture rows of the demo's report: what a few users bought, and what each model recommends to them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrec.cli.demo.protocol import MODELS
from graphrec.core.random import numpy_rng
from graphrec.runs.html import Card, thumbnail

if TYPE_CHECKING:
    from graphrec.data import Dataset

N_USERS = 6
HELD_OUT = 3
"""Least number of test purchases of a user to show, if enough users have them: with one, luck decides."""
SHOWN = 8
"""Cards in a row: purchases, and recommendations."""


def describe_choice(seed: int) -> str:
    """How :func:`pick_users` chooses, for the reader of the page."""
    return (
        f"Users were drawn at random with seed {seed}, whatever the models recommend to them: "
        f"half from all users with {HELD_OUT} or more held-out purchases (with any, if few have that many), "
        "half from those of them who went on to buy a new arrival."
    )


def pick_users(data: Dataset, seed: int, n: int = N_USERS) -> np.ndarray:
    """Users to show, at most ``n``: half of those with several test items, half of those with a cold one too.

    Depends on the data and the seed alone, never on what a model recommends.
    """
    rng = numpy_rng(seed, "demo/users")
    cold = data.train.item_degree == 0
    degree = data.test.user_degree
    enough = degree >= (HELD_OUT if (degree >= HELD_OUT).sum() >= n else 1)
    anyone = rng.permutation(np.flatnonzero(enough))
    has_new = np.bincount(data.test.users, weights=cold[data.test.items], minlength=data.n_users) > 0
    with_new = rng.permutation(np.flatnonzero(enough & has_new))
    first = anyone[: n - n // 2]
    second = with_new[~np.isin(with_new, first)][: n // 2]
    return np.concatenate([first, second])


def recommendations(model: Any, data: Dataset, users: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` best items a user ``(n, k)``, without those of train and valid, padded with -1."""
    from graphrec.evaluation.ranking import ranked

    return np.asarray(ranked(model, k, data.train + data.valid)[users])


def people(data: Dataset, models: Mapping[str, Any], out: Path, seed: int) -> list[dict[str, Any]]:
    """What a few users bought, bought later, and are recommended by each model.

    For each user a dict of ``title``, and ``rows`` of ``(title, note, cards)``.
    """
    users = pick_users(data, seed)
    lists = {name: recommendations(model, data, users, 20) for name, model in models.items()}
    cards = _Cards(data, _titles(out))
    shown = []
    for number, user in enumerate(users):
        bought = data.train.items_of(user)
        later = data.test.items_of(user)
        held_out = set(later.tolist())
        rows = [
            (
                "Bought",
                f"{min(SHOWN, len(bought))} of {len(bought)} purchases in train",
                cards(_spread(bought)),
            ),
            ("Bought later", f"{len(later)} held out for the test; no model saw them", cards(later[:SHOWN])),
        ]
        for name in models:
            items = lists[name][number][lists[name][number] >= 0]
            first = len(held_out & set(items[:SHOWN].tolist()))
            hits = len(held_out & set(items.tolist()))
            note = f"{first} of {len(held_out)} held-out items in the top {SHOWN}, {hits} in the top 20"
            rows.append((f"{MODELS[name][0]} recommends", note, cards(items[:SHOWN], held_out)))
        title = f"User {data.users[int(user)]} ({number + 1} of {len(users)})"
        shown.append({"title": title, "rows": rows})
    return shown


def _spread(items: np.ndarray) -> np.ndarray:
    """Up to :data:`SHOWN` of the items, evenly spaced."""
    positions = np.linspace(0, len(items) - 1, min(SHOWN, len(items))).round().astype(np.int64)
    return np.asarray(items[positions])


class _Cards:
    """Cards of items; every picture is read and shrunk once."""

    def __init__(self, data: Dataset, titles: Mapping[str, str]) -> None:
        self.data = data
        self.titles = titles
        self.cold = data.train.item_degree == 0
        self.images: dict[int, str | None] = {}

    def __call__(self, items: np.ndarray, held_out: set[int] | None = None) -> list[Card]:
        return [self._card(item, item in (held_out or ())) for item in items.tolist()]

    def _card(self, item: int, hit: bool) -> Card:
        if item not in self.images:
            path = self.data.content["image"].path(item)
            self.images[item] = thumbnail(path) if path is not None else None
        identifier = self.data.items[item]
        title = self.titles.get(identifier) or f"{identifier} (no text)"
        new = "new arrival" if self.cold[item] else ""
        return Card(title, self.images[item], "✓ bought" if hit else "", new)


def _titles(out: Path) -> dict[str, str]:
    """Title by item id, from the catalog's own file."""
    with open(out / "catalog" / "items.csv", encoding="utf-8", newline="") as file:
        return {row["item"]: row["title"] for row in csv.DictReader(file)}
