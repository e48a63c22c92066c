"""``graphrec llm``: what a language model says of users and items, into the feature store."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.data import read
from graphrec.cli.features import CACHE
from graphrec.cli.help import epilog, group
from graphrec.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from graphrec.data import Dataset
    from graphrec.features.extract.llm.asking import Question
    from graphrec.features.extract.llm.client import Chat

app = group(
    "What a language model says of users and items: preferences, attributes, profiles.",
    "graphrec llm profiles movielens-small",
    "graphrec llm preferences movielens-small --base-url http://localhost:11434/v1 --model llama3.2",
    "graphrec llm attributes movielens-small --names director,country,language --model gpt-4o-mini --dry-run",
)

CATALOG = "catalog"
Name = Annotated[
    str, typer.Option("--model", help=f"Its name on the server; {CATALOG} asks nobody and counts.")
]
Url = Annotated[str | None, typer.Option(help="OpenAI-compatible server. Default: $OPENAI_BASE_URL.")]
Replies = Annotated[Path, typer.Option("--cache", help="Folder in which replies are kept.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show questions and what they cost; ask nobody.")]
Replay = Annotated[bool, typer.Option("--replay", help="Use the replies there are; ask nobody.")]
Budget = Annotated[float | None, typer.Option(help="Spend at most this; needs prices.")]
PriceIn = Annotated[float, typer.Option(help="Price of a million tokens of questions.")]
PriceOut = Annotated[float, typer.Option(help="Price of a million tokens of replies.")]
Concurrency = Annotated[int, typer.Option(help="Questions at a time.")]
Noun = Annotated[str, typer.Option(help="What an item is, such as film or wine.")]
Whole = Annotated[bool, typer.Option("--whole", help="Tell all of an item's text, not its first sentence.")]
Embed = Annotated[str, typer.Option("--text", metavar="EXTRACTOR", help="Makes vectors of what is said.")]


class _Job:
    """What the three commands have in common."""

    def __init__(
        self, dataset: str, root: Path | None, options: list[str] | None, name: str, url: str | None,
        cache: Path, dry_run: bool, replay: bool, prices: tuple[float, float, float | None], concurrency: int,
        text: str | None,
    ) -> None:  # fmt: skip
        from graphrec.features.extract import EXTRACTORS, extractor
        from graphrec.features.extract.llm.asking import Prices
        from graphrec.features.extract.llm.client import Chat

        given = settings.read(options, ["chat", "data", "text"], bare="data")
        self.cache, self.dry_run, self.replay = cache, dry_run, replay
        if name == CATALOG and (url or given["chat"] or replay):
            raise ConfigError(
                f"{CATALOG} asks nobody; name a --model, or leave out --base-url, --replay and chat.*"
            )
        settings.known_only(given["chat"], set(settings.arguments_of(Chat)) - {"model", "base_url"}, "a chat")
        self.prices, self.concurrency = Prices(*prices), concurrency
        self.chat: Chat | None = None if name == CATALOG else Chat(name, url, **given["chat"])
        self.tool: Any = None
        if text is not None:
            settings.choice(text, EXTRACTORS, "--text")
            self.tool = extractor(text, **given["text"])
        self.data, self.source = read(dataset, root, given["data"])

    def asked(self, questions: Sequence[Question]) -> list[Any] | None:
        """The answers, or None after a dry run."""
        from graphrec.features.extract.llm.asking import ask, estimate, shown
        from graphrec.features.extract.llm.responses import responses

        assert self.chat is not None
        with responses(self.cache) as known:
            if known.damaged:
                lost = f"{len(known.damaged):,} damaged lines, first {known.damaged[0]}, are left out"
                output.note(f"{known.path}: {lost}")
            if self.dry_run:
                for question in questions[:2]:
                    for message in question.messages:
                        output.say(f"--- {message['role']}\n{output.printable_lines(message['content'])}")
                output.say("---")
                output.facts(estimate(questions, self.chat, known, self.prices))
                return None
            progress = shown if sys.stderr.isatty() else None
            values, counts = ask(questions, self.chat, known, prices=self.prices, replay=self.replay,
                                 concurrency=self.concurrency, progress=progress)  # fmt: skip
        found = dict(vars(counts))
        for name in ("outcomes", "reasons", "statuses"):
            found[name] = (
                ", ".join(f"{what}: {n:,}" for what, n in sorted(found[name].items(), key=str)) or "none"
            )
        output.facts({name.replace("_", " "): value for name, value in found.items()})
        return values

    def done(self, store: Path, train: str) -> None:
        """Names what to try next."""
        where = "" if store == CACHE else f" --store {shlex.quote(str(store))}"
        output.following(f"graphrec train {train} {self.source.arguments()}{where}")


@app.command("preferences", epilog=epilog("graphrec llm preferences movielens-small --model llama3.2"))
def preferences(
    dataset: settings.Dataset,
    model: Name = CATALOG,
    base_url: Url = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run whose best items to ask about. Default: ItemKNN."),
    ] = None,
    top: Annotated[int, typer.Option(help="How many of them.")] = 10,
    noun: Noun = "item",
    whole: Whole = False,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    cache: Replies = CACHE / "llm",
    options: settings.Set = None,
    dry_run: DryRun = False,
    replay: Replay = False,
    budget: Budget = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
) -> None:
    """Ask for the item each user would like most and least of some candidates, none of which is in train.

    Options: data.KEY (or KEY), chat.KEY (temperature, top_p, max_tokens, timeout, retries, key_variable).
    """
    from graphrec.features import PREFERENCES, FeatureStore
    from graphrec.features.extract.llm import jobs

    if top < 2:
        raise ConfigError(f"--top {top}; expected at least 2")
    job = _Job(dataset, root, options, model, base_url, cache, dry_run, replay,
               (price_in, price_out, budget), concurrency, None)  # fmt: skip
    pool, base = _candidates(job.data, candidates, top, root)
    titles = jobs.titles_of(job.data, whole=whole)
    questions = jobs.preference_questions(job.data, titles, pool, noun)
    values = [None] * len(questions) if job.chat is None else job.asked(questions)
    if values is None:
        return
    table = jobs.preferences(job.data, pool, questions, values, f"llm/{model}/{base}")
    FeatureStore(store).save(job.data, PREFERENCES, table)
    output.say(
        f"preferences: {int(table.present.sum()):,} of {job.data.n_users:,} users, of {base}'s best {top}; "
        f"{table.meta['fallback']:,} are its first and last"
    )
    job.done(store, "lightgcn --set model.augmented=0.1")


@app.command(
    "attributes", epilog=epilog("graphrec llm attributes movielens-small --set data.attributes=true")
)
def attributes(
    dataset: settings.Dataset,
    model: Name = CATALOG,
    base_url: Url = None,
    names: Annotated[
        str | None, typer.Option(help="What to ask for, such as director,country. Default: the dataset's.")
    ] = None,
    text: Embed = "tfidf-svd",
    noun: Noun = "item",
    whole: Whole = False,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    cache: Replies = CACHE / "llm",
    options: settings.Set = None,
    dry_run: DryRun = False,
    replay: Replay = False,
    budget: Budget = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
) -> None:
    """Ask for attributes of each item, and make features of them.

    Where the dataset has such attributes itself, answers are compared with them. Options: data.KEY (or KEY),
    chat.KEY, text.KEY.
    """
    from graphrec.data.attributes import HAS
    from graphrec.features import ATTRIBUTE, FeatureStore
    from graphrec.features.extract.llm import catalog, jobs
    from graphrec.features.extract.llm.writing import write_attributes

    job = _Job(dataset, root, options, model, base_url, cache, dry_run, replay,
               (price_in, price_out, budget), concurrency, text)  # fmt: skip
    real = catalog.attributes(job.data) if HAS in job.data.relations or job.chat is None else {}
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(real)
    if not wanted:
        raise ConfigError("name what to ask for, such as --names director,country,language")
    said: dict[str, list[str | None]]
    if job.chat is None:
        for name in wanted:
            settings.choice(name, real, "--names")
        said = {name: real[name] for name in wanted}
    else:
        titles = jobs.titles_of(job.data, whole=whole)
        values = job.asked(jobs.attribute_questions(titles, wanted, noun))
        if values is None:
            return
        said = {name: [value[name] if value else None for value in values] for name in wanted}
        scores = jobs.accuracy(said, real)
        if scores:
            heads = ["attribute", *next(iter(scores.values()))._fields]
            output.table(heads, [[n, *row] for n, row in scores.items()])
    made = write_attributes(job.data, said, job.tool, FeatureStore(store))
    for name in wanted:
        table = made.get(f"{ATTRIBUTE}{name}")
        told = (
            f"{ATTRIBUTE}{name}: {table!r}" if table is not None else f"{name}: nothing is known of any item"
        )
        output.say(told)
    job.done(store, "llmrec")


@app.command("profiles", epilog=epilog("graphrec llm profiles movielens-small --model llama3.2 --noun film"))
def profiles(
    dataset: settings.Dataset,
    model: Name = CATALOG,
    base_url: Url = None,
    text: Embed = "tfidf-svd",
    noun: Noun = "item",
    whole: Whole = False,
    root: settings.Root = None,
    store: settings.Store = CACHE,
    cache: Replies = CACHE / "llm",
    options: settings.Set = None,
    dry_run: DryRun = False,
    replay: Replay = False,
    budget: Budget = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
) -> None:
    """Ask for a profile of each user by what is in train, and make features of it.

    Options: data.KEY (or KEY), chat.KEY, text.KEY.
    """
    from graphrec.features import FeatureStore
    from graphrec.features.extract.llm import catalog, jobs
    from graphrec.features.extract.llm.writing import write_profiles

    job = _Job(dataset, root, options, model, base_url, cache, dry_run, replay,
               (price_in, price_out, budget), concurrency, text)  # fmt: skip
    if job.chat is None:
        said = catalog.profiles(job.data)
    else:
        questions = jobs.profile_questions(job.data, jobs.titles_of(job.data, whole=whole), noun)
        values = job.asked(questions)
        if values is None:
            return
        said = [None] * job.data.n_users
        for question, value in zip(questions, values, strict=True):
            said[question.row] = value
    table = write_profiles(job.data, said, job.tool, FeatureStore(store))
    output.say(f"profile: {table!r}")
    job.done(store, "llmrec")


def _candidates(data: Dataset, run: Path | None, top: int, root: Path | None) -> tuple[np.ndarray, str]:
    """The best items of a model for each user, none of train, ``(n_users, top)``, -1 where there are fewer;
    and the model's name.
    """
    from graphrec import runs
    from graphrec.evaluation.ranking import ranked
    from graphrec.models.base import Ranker
    from graphrec.models.itemknn import ItemKNN

    model: Any = ItemKNN.build(data) if run is None else runs.open_run(run, data=data, root=root).model
    if not isinstance(model, Ranker):
        raise ConfigError(f"{run}: {model.name} ranks no items; name a run of a model that does")
    return ranked(model, top, data.train), model.name
