"""The three jobs: preferences, attributes, profiles. Questions in, tables and texts out.

After Wei et al., "LLMRec", WSDM 2024, https://arxiv.org/abs/2311.00423, Sec. 3. Histories are the train
split's alone; candidates hold nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.data import Dataset
from graphrec.data.content import title
from graphrec.features import PREFERENCES, TRAIN, FeatureTable
from graphrec.features.extract.llm import prompts, replies
from graphrec.features.extract.llm.asking import Question

HISTORY = 50  # items of a person that are told, the last ones


def titles_of(data: Dataset, field: str = "text", whole: bool = False) -> list[str]:
    """What each item is called in a question: the first sentence of its text, or all of it; its id where
    there is no text.
    """
    content = data.field(field)
    if content.kind != "text":
        raise FeatureError(f"{data.name}: {field!r} holds {content.kind}s; name a field of texts")
    return [
        str(data.items[i]) if text is None else " ".join(text.split()) if whole else title(text)
        for i, text in enumerate(content)
    ]


def histories(data: Dataset, length: int = HISTORY) -> list[np.ndarray]:
    """Train items of each person, the last ``length`` in the order of time, else of index."""
    found = []
    for user in range(data.n_users):
        rows = slice(data.train.indptr[user], data.train.indptr[user + 1])
        items = data.train.items[rows]
        if data.train.times is not None:
            items = items[np.argsort(data.train.times[rows], kind="stable")]
        found.append(items[-length:])
    return found


def preference_questions(
    data: Dataset, titles: Sequence[str], candidates: np.ndarray, kind: str, length: int = HISTORY
) -> list[Question]:
    """One for each person with a history and at least two candidates.

    Args:
        data: whose train split the histories are.
        titles: of the items.
        candidates: items of each person, best first, -1 for none ``(n_users, k)``.
        kind: what items are called.
        length: of a history.

    Raises:
        FeatureError: a candidate is in the person's train items, or is no item.
    """
    bad = np.argwhere((candidates >= 0) & data.train.contains(np.arange(data.n_users)[:, None], candidates))
    if len(bad) or candidates.max(initial=-1) >= data.n_items:
        raise FeatureError("candidates must be items that the person does not have in train")
    questions = []
    for user, history in enumerate(histories(data, length)):
        pool = candidates[user][candidates[user] >= 0]
        if len(history) and len(pool) > 1:
            messages = prompts.preferences([titles[i] for i in history], [titles[i] for i in pool], kind)
            questions.append(
                Question(user, messages, _numbers(len(pool)), partial(replies.pair, n=len(pool)))
            )
    return questions


def preferences(
    data: Dataset,
    candidates: np.ndarray,
    questions: Sequence[Question],
    values: Sequence[Any],
    source: str,
) -> FeatureTable:
    """What was said as a table of users ``(n_users, 2) int32``; where it was given up, the first and the last
    candidate.

    Args:
        data: whose users they are.
        candidates: as they were asked about.
        questions: as they were asked.
        values: their answers.
        source: where it comes from, for ``meta``.
    """
    pairs, present = np.zeros((data.n_users, 2), np.int32), np.zeros(data.n_users, dtype=bool)
    fallback = 0
    for question, value in zip(questions, values, strict=True):
        pool = candidates[question.row][candidates[question.row] >= 0]
        best, worst = value if value is not None else (0, len(pool) - 1)
        fallback += value is None
        pairs[question.row], present[question.row] = (pool[best], pool[worst]), True
    known = data.train.contains(np.arange(data.n_users)[:, None], pairs).any(1)
    assert not (known & present).any()
    meta = {"field": PREFERENCES, "kind": "relation", "of": "user", "items": data.users.fingerprint,
            "extractor": {"name": "llm", "source": source, TRAIN: data.train.fingerprint},
            "fallback": fallback}  # fmt: skip
    return FeatureTable(pairs, present, meta)


def attribute_questions(titles: Sequence[str], names: Sequence[str], kind: str) -> list[Question]:
    """One for each item."""
    schema = {
        "type": "object", "properties": {name: {"type": ["string", "null"]} for name in names},
        "required": list(names), "additionalProperties": False,
    }  # fmt: skip
    read = partial(replies.attributes, names=names)
    return [Question(i, prompts.attributes(text, names, kind), schema, read) for i, text in enumerate(titles)]


def profile_questions(
    data: Dataset, titles: Sequence[str], kind: str, length: int = HISTORY
) -> list[Question]:
    """One for each person with a history."""
    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    keys = {"age": text, "gender": text, "likes": texts, "dislikes": texts, "makers": texts, "country": text,
            "language": text}  # fmt: skip
    schema = {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}
    return [
        Question(user, prompts.profile([titles[i] for i in history], kind), schema, replies.profile)
        for user, history in enumerate(histories(data, length))
        if len(history)
    ]


class Accuracy(NamedTuple):
    """How good an attribute is, against a real one.

    Attributes:
        known: items that have a real value.
        answered: those of them for which something was said.
        right: share of the answered in which a real value is among those said.
        commonest: share of the known that the commonest real value would be right for: what knowing nothing
            of an item comes to.
    """

    known: int
    answered: int
    right: float
    commonest: float


def accuracy(
    said: Mapping[str, Sequence[str | None]], real: Mapping[str, Sequence[str | None]]
) -> dict[str, Accuracy]:
    """How good attributes are, against real ones, by attribute.

    Args:
        said: a text of each item, by attribute; several values stand between commas.
        real: likewise; attributes that only one of both has are left out.
    """
    found = {}
    for name in [name for name in said if name in real]:
        pairs = [(_set(a), _set(b)) for a, b in zip(said[name], real[name], strict=True) if b is not None]
        answered = [(a, b) for a, b in pairs if a]
        right = sum(bool(a & b) for a, b in answered)
        counts = Counter(value for _, b in pairs for value in b)
        most = max(counts.values(), default=0)
        found[name] = Accuracy(
            len(pairs), len(answered), right / max(1, len(answered)), most / max(1, len(pairs))
        )
    return found


def _set(text: str | None) -> set[str]:
    """Values between commas, without regard to case."""
    return {part.strip().casefold() for part in (text or "").split(",") if part.strip()}


def _numbers(n: int) -> dict[str, Any]:
    number = {"type": "integer", "minimum": 1, "maximum": n}
    return {"type": "object", "properties": {"favorite": number, "least": number},
            "required": ["favorite", "least"], "additionalProperties": False}  # fmt: skip
