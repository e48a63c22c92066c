"""Sends many prompts to one model: cached replies are reused, invalid replies are requested again."""

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
from graphrec.features.extract.llm.parsing import InvalidReplyError
from graphrec.features.extract.llm.response_cache import Reply, ResponseCache, request_key

MAX_REPEATS = 3  # further requests after an invalid reply
CHARACTERS_PER_TOKEN = 4  # rough average, for estimates
MILLION = 1e6


@dataclass(frozen=True)
class Question:
    """One prompt and how its reply is parsed.

    Attributes:
        row: index of the user or item the prompt is about.
        messages: chat messages.
        schema: JSON schema of the reply.
        parse: turns the text of a reply into a value, or raises
            :class:`~graphrec.features.extract.llm.parsing.InvalidReplyError`.
    """

    row: int
    messages: list[prompts.Message]
    schema: Mapping[str, Any]
    parse: Callable[[str], Any]

    @property
    def tokens(self) -> int:
        """Estimated number of tokens."""
        return _count_tokens(self.messages) + 8 * len(self.messages)


@dataclass
class RequestStats:
    """Counts over all questions of one call of :func:`ask_all`.

    Attributes:
        questions: number of questions.
        outcomes: questions by outcome: ``"first try"``, ``"repeated"``, ``"failed"`` or ``"not requested"``.
        reasons: invalid replies by reason.
        cached: replies taken from the cache.
        fetched: replies requested from the server.
        statuses: error responses by HTTP status.
        prompt_tokens: prompt tokens of the fetched replies, as counted by the server.
        completion_tokens: completion tokens of the fetched replies, as counted by the server.
        cost: cost of these tokens at the given prices.
        seconds: wall-clock time.
    """

    questions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    cached: int = 0
    fetched: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens, and an optional budget.

    Attributes:
        prompt: price of a million prompt tokens.
        completion: price of a million completion tokens.
        budget: maximum cost; None is no limit.

    Raises:
        ConfigError: a price or the budget is negative, or a budget is given without prices.
    """

    prompt: float = 0.0
    completion: float = 0.0
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0 or (self.budget is not None and self.budget < 0):
            raise ConfigError(
                f"prices {self.prompt}, {self.completion}, budget {self.budget}; expected no negative value"
            )
        if self.budget is not None and not (self.prompt or self.completion):
            raise ConfigError("a budget needs prices per million tokens; set --price-in and --price-out")

    def cost(self, prompt: int, completion: int) -> float:
        """Cost of the given numbers of tokens."""
        return (prompt * self.prompt + completion * self.completion) / MILLION


def estimate(
    questions: Sequence[Question], chat: Chat, cache: ResponseCache, prices: Prices
) -> dict[str, float]:
    """Estimated number, tokens and maximum cost of the questions whose replies are not cached."""
    todo = [q for q in questions if cache.get(request_key(chat.model, chat.parameters, q.messages)) is None]
    tokens = sum(q.tokens for q in todo)
    longest = len(todo) * int(chat.parameters["max_tokens"])
    return {
        "questions": len(questions), "cached": len(questions) - len(todo), "prompt tokens": tokens,
        "completion tokens at most": longest, "cost at most": prices.cost(tokens, longest),
    }  # fmt: skip


def ask_all(
    questions: Sequence[Question],
    chat: Chat,
    cache: ResponseCache,
    *,
    prices: Prices | None = None,
    concurrency: int = 8,
    replay: bool = False,
    progress: Callable[[RequestStats], None] | None = None,
) -> tuple[list[Any], RequestStats]:
    """Requests replies to all questions and parses them.

    Args:
        questions: the questions.
        chat: the model that answers them.
        cache: replies of earlier calls; new replies are added.
        prices: prices of tokens and the budget.
        concurrency: number of simultaneous requests.
        replay: send no requests; questions without a cached reply get None.
        progress: called after each question.

    Returns:
        One parsed value per question, None where no valid reply was received, and the stats.

    Raises:
        ConfigError: ``concurrency`` is below 1.
        FeatureError: the server fails permanently or the budget is exhausted; received replies stay cached.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency {concurrency}; expected at least 1")
    prices = prices or Prices()
    stats = RequestStats(len(questions))
    lock = threading.Lock()
    start = time.monotonic()
    reserved = 0.0
    stop = threading.Event()

    def fetch(question: Question, messages: list[prompts.Message]) -> Reply | None:
        nonlocal reserved
        key = request_key(chat.model, chat.parameters, messages)
        reply = cache.get(key)
        if reply is not None:
            with lock:
                stats.cached += 1
            return reply
        if replay or stop.is_set():
            return None
        tokens = _count_tokens(messages)
        most = prices.cost(tokens, int(chat.parameters["max_tokens"]))
        with lock:
            if prices.budget is not None and stats.cost + reserved + most > prices.budget:
                stop.set()
                raise FeatureError(
                    f"the next request would exceed the budget of {prices.budget:g} ({stats.cost:.4f} "
                    "spent); replies so far are cached: raise --budget and run the command again"
                )
            reserved += most
        try:
            reply = chat.ask(messages, question.schema)
            cache.put(key, reply)
        finally:
            with lock:
                reserved -= most
        with lock:
            stats.fetched += 1
            stats.prompt_tokens += reply.prompt_tokens or tokens
            stats.completion_tokens += reply.completion_tokens
            stats.cost = prices.cost(stats.prompt_tokens, stats.completion_tokens)
        return reply

    def answer(question: Question) -> tuple[Any, str, list[str]]:
        messages = list(question.messages)
        reasons: list[str] = []
        for _ in range(1 + MAX_REPEATS):
            reply = fetch(question, messages)
            if reply is None:
                return None, "not requested", reasons
            try:
                if reply.finish == "length":
                    raise InvalidReplyError("cut off")
                return question.parse(reply.text), "repeated" if reasons else "first try", reasons
            except InvalidReplyError as cause:
                reasons.append(str(cause))
                invalid = {"role": "assistant", "content": reply.text[:500]}
                messages = [*messages, invalid, prompts.retry(str(cause))]
        return None, "failed", reasons

    values: list[Any] = [None] * len(questions)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="llm") as pool:
        futures = {pool.submit(answer, question): place for place, question in enumerate(questions)}
        try:
            for future in as_completed(futures):
                value, outcome, reasons = future.result()
                values[futures[future]] = value
                stats.outcomes[outcome] += 1
                stats.reasons.update(reasons)
                if progress is not None:
                    stats.seconds = time.monotonic() - start
                    progress(stats)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    stats.statuses = dict(chat.error_statuses)
    stats.seconds = time.monotonic() - start
    return values, stats


def _count_tokens(messages: Sequence[prompts.Message]) -> int:
    """Estimated number of tokens in the messages' texts."""
    return sum(len(m["content"]) for m in messages) // CHARACTERS_PER_TOKEN


def print_progress(stats: RequestStats) -> None:
    """Writes progress to stderr: questions done, rate, remaining time and cost."""
    done = sum(stats.outcomes.values())
    pace = done / max(stats.seconds, 1e-9)
    seconds_left = (stats.questions - done) / pace
    sys.stderr.write(
        f"\r{done:,} of {stats.questions:,} questions, {stats.fetched:,} requests, {pace:.1f} per second, "
        f"{seconds_left / 60:.0f} min left, cost {stats.cost:.4f}"
    )
    if done == stats.questions:
        sys.stderr.write("\n")
    sys.stderr.flush()
