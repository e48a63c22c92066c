"""An agent for a small made-up shop with generated pictures, for the tests of the web page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from conversations import vectors

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.rules import parse_rule
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions, Vocabulary
from graphrec.data.generated_pictures import KINDS, LOOKS, render

GROUPS = {
    "kind": list(KINDS),
    "look": list(LOOKS),
    "size": ["small", "medium", "large"],
    "made of": ["clay", "glass", "cotton", "steel", "oak"],
}
NAMES = [name for names in GROUPS.values() for name in names]
N_ITEMS = 120


def item(number: int) -> str:
    """An item's id."""
    return f"P{number:03d}"


def attributes(number: int) -> list[str]:
    """Names of an item's attributes, one of each group."""
    rng = numpy_rng(3, "tests/shop", number)
    return [names[int(rng.integers(len(names)))] for names in GROUPS.values()]


def title(number: int) -> str:
    """An item's title."""
    kind, look, size, _ = attributes(number)
    return f"{size.capitalize()} {look} {kind}"


def shop(
    folder: Path | None = None,
    policy: str = "ask-then-recommend:3",
    titles: dict[str, str] | None = None,
    renamed: dict[str, str] | None = None,
    pictures: int = 20,
    **rules: object,
) -> ConversationalRecommender:
    """An agent of the shop.

    Args:
        folder: where pictures are written; None: there are none.
        policy: name of a rule.
        titles: other titles by item id.
        renamed: other names of attributes.
        pictures: of the items looked at first so many get a picture, but every seventh.
        **rules: of :class:`ConversationConfig`.
    """
    named = [(renamed or {}).get(name, name) for name in NAMES]
    groups = np.repeat(np.arange(len(GROUPS)), [len(names) for names in GROUPS.values()])
    pairs = [(i, NAMES.index(name)) for i in range(N_ITEMS) for name in attributes(i)]
    items_catalog = Catalog(np.array(pairs).T, N_ITEMS, named, groups, list(GROUPS))
    images: dict[str, str] = {}
    if folder is not None:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        for i in range(min(pictures, N_ITEMS)):
            if i % 7 == 6:
                continue
            kind, look, *_ = attributes(i)
            picture = render(
                list(KINDS).index(kind), list(LOOKS).index(look), numpy_rng(3, "tests/picture", i)
            )
            images[item(i)] = f"pictures/{item(i)}.png"
            picture.save(folder / images[item(i)])
    history = Interactions(np.array([0, 0, 1]), np.array([3, 8, 5]), 7, N_ITEMS)
    return ConversationalRecommender(
        Setting(items_catalog, vectors(items_catalog), ConversationConfig(**rules)),
        parse_rule(policy),
        Vocabulary([f"U{i}" for i in range(7)], "user"),
        Vocabulary([item(i) for i in range(N_ITEMS)]),
        history,
        {item(i): title(i) for i in range(N_ITEMS)} | (titles or {}),
        images,
        policy,
        folder,
    )
