"""Many questions to one model: what is known is not asked again, what is refused is, and all is counted."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.features.extract.llm import prompts
from graphrec.features.extract.llm.client import Chat
from graphrec.features.extract.llm.replies import BadReply
from graphrec.features.extract.llm.responses import Reply, Responses, key_of

AGAIN = 3  # times a question is asked again
CHARACTERS = 4  # of a token, roughly
MILLION = 1e6


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        row: what it is about.
        messages: of the chat.
        schema: JSON schema of the reply.
        read: turns a reply into a value, or raises :class:`BadReply`.
    """

    row: int
    messages: list[prompts.Message]
    schema: Mapping[str, Any]
    read: Callable[[str], Any]

    @property
    def tokens(self) -> int:
        """About how many tokens it has."""
        return _tokens(self.messages) + 8 * len(self.messages)


@dataclass
class Counts:
    """What became of all questions.

    Attributes:
        questions: how many there were.
        outcomes: ``"at once"``, ``"asked again"``, ``"given up"``, ``"not asked"``.
        reasons: why replies were refused.
        kept: replies that were known.
        fetched: replies that were asked for.
        statuses: refusals of the server, by status.
        prompt_tokens: of the replies that were asked for, as the server counts them.
        completion_tokens: likewise.
        cost: of those, by the given prices.
        seconds: in all.
    """

    questions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    fetched: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, and what may be spent at most."""

    prompt: float = 0.0
    completion: float = 0.0
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0 or (self.budget is not None and self.budget < 0):
            raise ConfigError(
                f"prices {self.prompt}, {self.completion}, budget {self.budget}; expected none below 0"
            )
        if self.budget is not None and not (self.prompt or self.completion):
            raise ConfigError("a budget needs prices; give --price-in and --price-out, per million tokens")

    def cost(self, prompt: int, completion: int) -> float:
        """What tokens cost."""
        return (prompt * self.prompt + completion * self.completion) / MILLION


def estimate(questions: Sequence[Question], chat: Chat, known: Responses, prices: Prices) -> dict[str, float]:
    """About what is still to be asked and what it costs, replies being as long as they may be."""
    todo = [q for q in questions if known.get(key_of(chat.model, chat.parameters, q.messages)) is None]
    tokens = sum(q.tokens for q in todo)
    longest = len(todo) * int(chat.parameters["max_tokens"])
    return {
        "questions": len(questions), "known": len(questions) - len(todo), "prompt tokens": tokens,
        "completion tokens at most": longest, "cost at most": prices.cost(tokens, longest),
    }  # fmt: skip


def ask(
    questions: Sequence[Question],
    chat: Chat,
    known: Responses,
    *,
    prices: Prices | None = None,
    concurrency: int = 8,
    replay: bool = False,
    progress: Callable[[Counts], None] | None = None,
) -> tuple[list[Any], Counts]:
    """The value of each question in their order, None where it was given up or is not known.

    Args:
        questions: what to ask.
        chat: whom.
        known: replies that were had, and where new ones are kept.
        prices: of tokens, with the budget.
        concurrency: requests at a time.
        replay: ask nobody; what is not known stays open.
        progress: called after each question.

    Raises:
        FeatureError: the endpoint fails for good, or the budget is spent; what was answered is kept.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency {concurrency}; expected at least 1")
    prices, counts, lock, begun = (
        prices or Prices(),
        Counts(len(questions)),
        threading.Lock(),
        time.monotonic(),
    )
    reserved, stop = [0.0], threading.Event()

    def fetch(question: Question, messages: list[prompts.Message]) -> Reply | None:
        key = key_of(chat.model, chat.parameters, messages)
        reply = known.get(key)
        if reply is not None:
            with lock:
                counts.kept += 1
            return reply
        if replay or stop.is_set():
            return None
        tokens = _tokens(messages)
        most = prices.cost(tokens, int(chat.parameters["max_tokens"]))
        with lock:
            if prices.budget is not None and counts.cost + reserved[0] + most > prices.budget:
                stop.set()
                raise FeatureError(
                    f"the budget of {prices.budget:g} would be exceeded ({counts.cost:.4f} spent); what was "
                    "answered is kept: raise --budget and run it again"
                )
            reserved[0] += most
        try:
            reply = chat.ask(messages, question.schema)
            known.put(key, reply)
        finally:
            with lock:
                reserved[0] -= most
        with lock:
            counts.fetched += 1
            counts.prompt_tokens += reply.prompt_tokens or tokens
            counts.completion_tokens += reply.completion_tokens
            counts.cost = prices.cost(counts.prompt_tokens, counts.completion_tokens)
        return reply

    def one(question: Question) -> tuple[Any, str, list[str]]:
        messages, reasons = list(question.messages), list[str]()
        for _ in range(1 + AGAIN):
            reply = fetch(question, messages)
            if reply is None:
                return None, "not asked", reasons
            try:
                if reply.finish == "length":
                    raise BadReply("cut off")
                return question.read(reply.text), "asked again" if reasons else "at once", reasons
            except BadReply as cause:
                reasons.append(str(cause))
                said = {"role": "assistant", "content": reply.text[:500]}
                messages = [*messages, said, prompts.again(str(cause))]
        return None, "given up", reasons

    values: list[Any] = [None] * len(questions)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="llm") as pool:
        waiting = {pool.submit(one, question): place for place, question in enumerate(questions)}
        try:
            for future in as_completed(waiting):
                value, outcome, reasons = future.result()
                values[waiting[future]] = value
                counts.outcomes[outcome] += 1
                counts.reasons.update(reasons)
                if progress is not None:
                    counts.seconds = time.monotonic() - begun
                    progress(counts)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    counts.statuses, counts.seconds = dict(chat.refused), time.monotonic() - begun
    return values, counts


def _tokens(messages: Sequence[prompts.Message]) -> int:
    """About how many tokens the texts of messages have."""
    return sum(len(m["content"]) for m in messages) // CHARACTERS


def shown(counts: Counts) -> None:
    """Progress on standard error: how many, how fast, how long still, what it cost."""
    done = sum(counts.outcomes.values())
    pace = done / max(counts.seconds, 1e-9)
    left = (counts.questions - done) / pace
    sys.stderr.write(
        f"\r{done:,} of {counts.questions:,} questions, {counts.fetched:,} asked, {pace:.1f} a second, "
        f"{left / 60:.0f} min left, cost {counts.cost:.4f}"
    )
    if done == counts.questions:
        sys.stderr.write("\n")
    sys.stderr.flush()
