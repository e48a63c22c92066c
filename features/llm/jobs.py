"""The three jobs of a language model: user preferences, item attributes and user profiles.

Source: Wei et al., "LLMRec", WSDM 2024, https://arxiv.org/abs/2311.00423, Sec. 3. Histories come from the
training split only, and candidates are never training items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.errors import FeatureError
from graphrec.data import Dataset, Histories
from graphrec.data.content import titles
from graphrec.features import PREFERENCES, TRAIN_FINGERPRINT, FeatureTable
from graphrec.features.extract.llm import parsing, prompts
from graphrec.features.extract.llm.requests import Question

HISTORY_LENGTH = 50  # most recent items of a user that a prompt lists


def item_titles(data: Dataset, field: str = "text", full_text: bool = False) -> list[str]:
    """The title of each item in a prompt: its own, the first sentence of its text, or its id where there is
    neither.

    Args:
        data: the dataset.
        field: a text content field.
        full_text: return all of the text instead of the title.

    Raises:
        FeatureError: the field does not hold texts.
    """
    content = data.field(field)
    if content.kind != "text":
        raise FeatureError(f"{data.name}: {field!r} holds {content.kind} content; choose a text field")
    shown = [None if text is None else " ".join(text.split()) for text in content]
    shown = shown if full_text else titles(data.content, field)
    return [str(data.items[i]) if text is None else text for i, text in enumerate(shown)]


def histories(data: Dataset, length: int = HISTORY_LENGTH) -> list[np.ndarray]:
    """The last ``length`` training items of each user, ordered by time, or by index without times."""
    rows = Histories.from_interactions(data.train)
    return [rows[user][-length:] for user in range(len(rows))]


def preference_questions(
    data: Dataset, titles: Sequence[str], candidates: np.ndarray, kind: str
) -> list[Question]:
    """One question per user with a history and at least two candidates.

    Args:
        data: the dataset; histories come from its training split.
        titles: title of each item.
        candidates: candidate items of each user, best first, padded with -1 ``(n_users, k)``.
        kind: noun for an item.

    Raises:
        FeatureError: a candidate is a training item of the user, or not an item index.
    """
    bad = np.argwhere((candidates >= 0) & data.train.contains(np.arange(data.n_users)[:, None], candidates))
    if len(bad) or candidates.max(initial=-1) >= data.n_items:
        raise FeatureError(
            f"{data.name}: {len(bad):,} candidates are training items of their user, largest index "
            f"{candidates.max(initial=-1)}; expected other items, with indices below {data.n_items}"
        )
    questions = []
    for user, history in enumerate(histories(data)):
        pool = candidates[user][candidates[user] >= 0]
        if len(history) and len(pool) > 1:
            messages = prompts.preferences([titles[i] for i in history], [titles[i] for i in pool], kind)
            questions.append(
                Question(user, messages, _pair_schema(len(pool)), partial(parsing.parse_pair, n=len(pool)))
            )
    return questions


def preference_table(
    data: Dataset,
    candidates: np.ndarray,
    questions: Sequence[Question],
    values: Sequence[Any],
    source: str,
) -> FeatureTable:
    """The preferred and the least liked item of each user as a table ``(n_users, 2) int32``.

    A question without a valid reply falls back to the first and the last candidate.

    Args:
        data: the dataset that holds the users.
        candidates: the candidates of :func:`preference_questions`.
        questions: the questions.
        values: one parsed reply per question, or None.
        source: origin of the table, for ``meta``.
    """
    pairs = np.zeros((data.n_users, 2), np.int32)
    present = np.zeros(data.n_users, dtype=bool)
    fallback = 0
    for question, value in zip(questions, values, strict=True):
        pool = candidates[question.row][candidates[question.row] >= 0]
        best, worst = value if value is not None else (0, len(pool) - 1)
        fallback += value is None
        pairs[question.row] = pool[best], pool[worst]
        present[question.row] = True
    in_train = data.train.contains(np.arange(data.n_users)[:, None], pairs).any(1)
    assert not (in_train & present).any()
    meta = {"field": PREFERENCES, "kind": "relation", "of": "user", "items": data.users.fingerprint,
            "extractor": {"name": "llm", "source": source, TRAIN_FINGERPRINT: data.train.fingerprint},
            "fallback": fallback}  # fmt: skip
    return FeatureTable(pairs, present, meta)


def attribute_questions(titles: Sequence[str], names: Sequence[str], kind: str) -> list[Question]:
    """One question per item."""
    schema = {
        "type": "object", "properties": {name: {"type": ["string", "null"]} for name in names},
        "required": list(names), "additionalProperties": False,
    }  # fmt: skip
    parse = partial(parsing.parse_attributes, names=names)
    return [
        Question(i, prompts.attributes(text, names, kind), schema, parse) for i, text in enumerate(titles)
    ]


def profile_questions(data: Dataset, titles: Sequence[str], kind: str) -> list[Question]:
    """One question per user with a history."""
    text = {"type": "string"}
    texts = {"type": "array", "items": {"type": "string"}}
    keys = {"age": text, "gender": text, "likes": texts, "dislikes": texts, "makers": texts, "country": text,
            "language": text}  # fmt: skip
    schema = {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}
    return [
        Question(user, prompts.profile([titles[i] for i in history], kind), schema, parsing.parse_profile)
        for user, history in enumerate(histories(data))
        if len(history)
    ]


class Accuracy(NamedTuple):
    """Accuracy of a predicted attribute against its true values.

    Attributes:
        known: number of items with a true value.
        answered: number of these items with a predicted value.
        accuracy: share of the answered items for which a true value is among the predicted ones.
        majority: share of the known items that the most frequent true value would get right; the baseline
            that needs no knowledge of the items.
    """

    known: int
    answered: int
    accuracy: float
    majority: float


def accuracy(
    predicted: Mapping[str, Sequence[str | None]], true: Mapping[str, Sequence[str | None]]
) -> dict[str, Accuracy]:
    """Accuracy of each predicted attribute that also has true values.

    Args:
        predicted: attribute name -> one text per item; several values are separated by commas.
        true: true values in the same form.
    """
    result = {}
    for name in [name for name in predicted if name in true]:
        pairs = [
            (_value_set(a), _value_set(b))
            for a, b in zip(predicted[name], true[name], strict=True)
            if b is not None
        ]
        answered = [(a, b) for a, b in pairs if a]
        right = sum(bool(a & b) for a, b in answered)
        counts = Counter(value for _, b in pairs for value in b)
        most = max(counts.values(), default=0)
        result[name] = Accuracy(
            len(pairs), len(answered), right / max(1, len(answered)), most / max(1, len(pairs))
        )
    return result


def _value_set(text: str | None) -> set[str]:
    """Comma-separated values, case-folded."""
    return {part.strip().casefold() for part in (text or "").split(",") if part.strip()}


def _pair_schema(n: int) -> dict[str, Any]:
    number = {"type": "integer", "minimum": 1, "maximum": n}
    return {"type": "object", "properties": {"favorite": number, "least": number},
            "required": ["favorite", "least"], "additionalProperties": False}  # fmt: skip
