"""``graphrec llm``: features of users and items from a language model."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.data import read
from graphrec.cli.help import epilog, group
from graphrec.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from graphrec.data import Dataset
    from graphrec.features.extract.llm.client import Chat
    from graphrec.features.extract.llm.requests import Question

app = group(
    "Features of users and items from a language model.",
    "graphrec llm profiles movielens-small",
    "graphrec llm preferences movielens-small --base-url http://localhost:11434/v1 --model llama3.2",
    "graphrec llm attributes movielens-small --names director,country,language --model gpt-4o-mini --dry-run",
)

CATALOG = "catalog"
Name = Annotated[
    str,
    typer.Option("--model", help=f"Model name on the server; {CATALOG} needs no model and counts instead."),
]
Url = Annotated[
    str | None, typer.Option(help="URL of an OpenAI-compatible server. Default: $OPENAI_BASE_URL.")
]
ReplyCache = Annotated[Path, typer.Option("--cache", help="Folder of the reply cache.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print prompts and estimated cost; send no requests.")
]
Replay = Annotated[bool, typer.Option("--replay", help="Use cached replies only; send no requests.")]
Budget = Annotated[float | None, typer.Option(help="Maximum cost; needs prices.")]
PriceIn = Annotated[float, typer.Option(help="Price of a million prompt tokens.")]
PriceOut = Annotated[float, typer.Option(help="Price of a million completion tokens.")]
Concurrency = Annotated[int, typer.Option(help="Number of simultaneous requests.")]
Noun = Annotated[str, typer.Option(help="Noun for an item, such as film or wine.")]
FullText = Annotated[
    bool,
    typer.Option(
        "--whole", help="Put the full text of an item into the prompt, not only its first sentence."
    ),
]
TextExtractor = Annotated[
    str, typer.Option("--text", metavar="EXTRACTOR", help="Extractor that turns the replies into vectors.")
]


class _Job:
    """Options and steps that the three commands share."""

    def __init__(
        self, dataset: str, root: Path | None, options: list[str] | None, name: str, url: str | None,
        cache: Path, dry_run: bool, replay: bool, prices: tuple[float, float, float | None], concurrency: int,
        text: str | None,
    ) -> None:  # fmt: skip
        from graphrec.features.extract import EXTRACTORS, extractor
        from graphrec.features.extract.llm.client import Chat
        from graphrec.features.extract.llm.requests import Prices

        given = settings.read(options, ["chat", "data", "text"], bare="data")
        self.cache = cache
        self.dry_run = dry_run
        self.replay = replay
        if name == CATALOG and (url or given["chat"] or replay):
            raise ConfigError(
                f"{CATALOG} sends no requests; choose another --model, or remove --base-url, --replay and "
                "chat.*"
            )
        settings.known_only(given["chat"], set(settings.arguments_of(Chat)) - {"model", "base_url"}, "a chat")
        self.prices = Prices(*prices)
        self.concurrency = concurrency
        self.chat: Chat | None = None if name == CATALOG else Chat(name, url, **given["chat"])
        self.tool: Any = None
        if text is not None:
            settings.choice(text, EXTRACTORS, "--text")
            self.tool = extractor(text, **given["text"])
        self.data, self.source = read(dataset, root, given["data"])

    def replies(self, questions: Sequence[Question]) -> list[Any] | None:
        """One parsed reply per question, or None after a dry run."""
        from graphrec.features.extract.llm.requests import ask_all, estimate, print_progress
        from graphrec.features.extract.llm.response_cache import open_cache

        assert self.chat is not None
        with open_cache(self.cache) as cache:
            if cache.damaged:
                lost = f"skipped {len(cache.damaged):,} damaged lines, the first is line {cache.damaged[0]}"
                output.print_note(f"{cache.path}: {lost}")
            if self.dry_run:
                for question in questions[:2]:
                    for message in question.messages:
                        output.print_line(
                            f"--- {message['role']}\n{output.printable_lines(message['content'])}"
                        )
                output.print_line("---")
                output.print_fields(estimate(questions, self.chat, cache, self.prices))
                return None
            progress = print_progress if sys.stderr.isatty() else None
            values, stats = ask_all(questions, self.chat, cache, prices=self.prices, replay=self.replay,
                                 concurrency=self.concurrency, progress=progress)  # fmt: skip
        shown = dict(vars(stats))
        for name in ("outcomes", "reasons", "statuses"):
            counts = sorted(shown[name].items(), key=str)
            shown[name] = ", ".join(f"{what}: {n:,}" for what, n in counts) or "none"
        output.print_fields({name.replace("_", " "): value for name, value in shown.items()})
        return values

    def print_next(self, store: Path, train: str) -> None:
        """Prints the training command to run next."""
        where = "" if store == settings.CACHE else f" --store {shlex.quote(str(store))}"
        output.print_next_steps(f"graphrec train {train} {self.source.arguments()}{where}")


@app.command("preferences", epilog=epilog("graphrec llm preferences movielens-small --model llama3.2"))
def preferences(
    dataset: settings.Dataset,
    model: Name = CATALOG,
    base_url: Url = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run whose best items are the candidates. Default: ItemKNN."),
    ] = None,
    top: Annotated[int, typer.Option(help="Number of candidates.")] = 10,
    noun: Noun = "item",
    full_text: FullText = False,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    cache: ReplyCache = settings.CACHE / "llm",
    options: settings.Set = None,
    dry_run: DryRun = False,
    replay: Replay = False,
    budget: Budget = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
) -> None:
    """Ask which candidate item each user would like most and least; candidates are not training items.

    Options: data.KEY (or KEY), chat.KEY (temperature, top_p, max_tokens, timeout, retries, key_variable).
    """
    from graphrec.features import PREFERENCES, FeatureStore
    from graphrec.features.extract.llm import jobs

    if top < 2:
        raise ConfigError(f"--top {top}; expected at least 2")
    job = _Job(dataset, root, options, model, base_url, cache, dry_run, replay,
               (price_in, price_out, budget), concurrency, None)  # fmt: skip
    pool, base = _top_candidates(job.data, candidates, top, root)
    titles = jobs.item_titles(job.data, full_text=full_text)
    questions = jobs.preference_questions(job.data, titles, pool, noun)
    values = [None] * len(questions) if job.chat is None else job.replies(questions)
    if values is None:
        return
    table = jobs.preference_table(job.data, pool, questions, values, f"llm/{model}/{base}")
    FeatureStore(store).save(job.data, PREFERENCES, table)
    output.print_line(
        f"preferences: {int(table.present.sum()):,} of {job.data.n_users:,} users, among the top {top} of "
        f"{base}; {table.meta['fallback']:,} fall back to the first and last candidate"
    )
    job.print_next(store, "lightgcn --set model.augmented=0.1")


@app.command(
    "attributes", epilog=epilog("graphrec llm attributes movielens-small --set data.attributes=true")
)
def attributes(
    dataset: settings.Dataset,
    model: Name = CATALOG,
    base_url: Url = None,
    names: Annotated[
        str | None,
        typer.Option(help="Attributes to ask for, such as director,country. Default: the dataset's."),
    ] = None,
    text: TextExtractor = "tfidf-svd",
    noun: Noun = "item",
    full_text: FullText = False,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    cache: ReplyCache = settings.CACHE / "llm",
    options: settings.Set = None,
    dry_run: DryRun = False,
    replay: Replay = False,
    budget: Budget = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
) -> None:
    """Ask for attributes of each item and extract features from them.

    Where the dataset has these attributes, the replies are compared with them. Options: data.KEY (or KEY),
    chat.KEY, text.KEY.
    """
    from graphrec.data.attributes import HAS
    from graphrec.features import ATTRIBUTE_PREFIX, FeatureStore
    from graphrec.features.extract.llm import catalog, jobs
    from graphrec.features.extract.llm.tables import write_attributes

    job = _Job(dataset, root, options, model, base_url, cache, dry_run, replay,
               (price_in, price_out, budget), concurrency, text)  # fmt: skip
    true = catalog.attributes(job.data) if HAS in job.data.relations or job.chat is None else {}
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(true)
    if not wanted:
        raise ConfigError("no attribute to ask for; name some, such as --names director,country,language")
    values: dict[str, list[str | None]]
    if job.chat is None:
        for name in wanted:
            settings.choice(name, true, "--names")
        values = {name: true[name] for name in wanted}
    else:
        titles = jobs.item_titles(job.data, full_text=full_text)
        replies = job.replies(jobs.attribute_questions(titles, wanted, noun))
        if replies is None:
            return
        values = {name: [reply[name] if reply else None for reply in replies] for name in wanted}
        scores = jobs.accuracy(values, true)
        if scores:
            heads = ["attribute", *next(iter(scores.values()))._fields]
            output.print_table(heads, [[n, *row] for n, row in scores.items()])
    tables = write_attributes(job.data, values, job.tool, FeatureStore(store))
    for name in wanted:
        table = tables.get(f"{ATTRIBUTE_PREFIX}{name}")
        if table is not None:
            output.print_line(f"{ATTRIBUTE_PREFIX}{name}: {table!r}")
        else:
            output.print_line(f"{name}: no item has a value")
    job.print_next(store, "llmrec")


@app.command("profiles", epilog=epilog("graphrec llm profiles movielens-small --model llama3.2 --noun film"))
def profiles(
    dataset: settings.Dataset,
    model: Name = CATALOG,
    base_url: Url = None,
    text: TextExtractor = "tfidf-svd",
    noun: Noun = "item",
    full_text: FullText = False,
    root: settings.Root = None,
    store: settings.Store = settings.CACHE,
    cache: ReplyCache = settings.CACHE / "llm",
    options: settings.Set = None,
    dry_run: DryRun = False,
    replay: Replay = False,
    budget: Budget = None,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    concurrency: Concurrency = 8,
) -> None:
    """Ask for a profile of each user from their training items and extract features from it.

    Options: data.KEY (or KEY), chat.KEY, text.KEY.
    """
    from graphrec.features import FeatureStore
    from graphrec.features.extract.llm import catalog, jobs
    from graphrec.features.extract.llm.tables import write_profiles

    job = _Job(dataset, root, options, model, base_url, cache, dry_run, replay,
               (price_in, price_out, budget), concurrency, text)  # fmt: skip
    if job.chat is None:
        texts = catalog.profiles(job.data)
    else:
        questions = jobs.profile_questions(job.data, jobs.item_titles(job.data, full_text=full_text), noun)
        values = job.replies(questions)
        if values is None:
            return
        texts = [None] * job.data.n_users
        for question, value in zip(questions, values, strict=True):
            texts[question.row] = value
    table = write_profiles(job.data, texts, job.tool, FeatureStore(store))
    output.print_line(f"profile: {table!r}")
    job.print_next(store, "llmrec")


def _top_candidates(data: Dataset, run: Path | None, top: int, root: Path | None) -> tuple[np.ndarray, str]:
    """The best items of a model for each user, without training items, and the model's name.

    Returns:
        Items ``(n_users, top)``, padded with -1, and the name.
    """
    from graphrec import runs
    from graphrec.evaluation.ranking import ranked
    from graphrec.models.base import Ranker
    from graphrec.models.itemknn import ItemKNN

    model: Any = ItemKNN.build(data) if run is None else runs.open_run(run, data=data, root=root).model
    if not isinstance(model, Ranker):
        raise ConfigError(f"{run}: {model.name} does not rank items; choose a run of a ranking model")
    return ranked(model, top, data.train), model.name
