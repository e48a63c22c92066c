"""``graphrec llm``: features of users and items from a language model."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    from graphrec.features.extract.llm.requests import Question

app = group(
    "Features of users and items from a language model.",
    "graphrec llm profiles movielens-small",
    "graphrec llm preferences movielens-small --base-url http://localhost:11434/v1 --model llama3.2",
    "graphrec llm attributes movielens-small --names director,country,language --model gpt-4o-mini --dry-run",
)

CATALOG = "catalog"
TextExtractor = Annotated[
    str, typer.Option("--text", metavar="EXTRACTOR", help="Extractor that turns the replies into vectors.")
]


@dataclass
class _Job:
    """Options and steps that the three commands share."""

    dataset: settings.Dataset
    model: Annotated[
        str,
        typer.Option(
            "--model", help=f"Model name on the server; {CATALOG} needs no model and counts instead."
        ),
    ] = CATALOG
    base_url: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server. Default: $OPENAI_BASE_URL.")
    ] = None
    noun: Annotated[str, typer.Option(help="Noun for an item, such as film or wine.")] = "item"
    full_text: Annotated[
        bool,
        typer.Option(
            "--whole", help="Put the full text of an item into the prompt, not only its first sentence."
        ),
    ] = False
    root: settings.Root = None
    store: settings.Store = settings.CACHE
    cache: Annotated[Path, typer.Option("--cache", help="Folder of the reply cache.")] = (
        settings.CACHE / "llm"
    )
    options: settings.Set = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print prompts and estimated cost; send no requests.")
    ] = False
    replay: Annotated[bool, typer.Option("--replay", help="Use cached replies only; send no requests.")] = (
        False
    )
    budget: Annotated[float | None, typer.Option(help="Maximum cost; needs prices.")] = None
    price_in: Annotated[float, typer.Option(help="Price of a million prompt tokens.")] = 0.0
    price_out: Annotated[float, typer.Option(help="Price of a million completion tokens.")] = 0.0
    concurrency: Annotated[int, typer.Option(help="Number of simultaneous requests.")] = 8

    def open(self, text: str | None = None) -> Dataset:
        """Checks the options and reads the dataset; ``text`` is an extractor's name."""
        from graphrec.features.extract import EXTRACTORS, extractor
        from graphrec.features.extract.llm.client import Chat
        from graphrec.features.extract.llm.requests import Prices

        given = settings.read(self.options, ["chat", "data", "text"], bare="data")
        if self.model == CATALOG and (self.base_url or given["chat"] or self.replay):
            raise ConfigError(
                f"{CATALOG} sends no requests; choose another --model, or remove --base-url, --replay and "
                "chat.*"
            )
        settings.known_only(given["chat"], set(settings.arguments_of(Chat)) - {"model", "base_url"}, "a chat")
        self.prices = Prices(self.price_in, self.price_out, self.budget)
        self.chat = None if self.model == CATALOG else Chat(self.model, self.base_url, **given["chat"])
        self.extractor: Any = None
        if text is not None:
            settings.choice(text, EXTRACTORS, "--text")
            self.extractor = extractor(text, **given["text"])
        self.data, self.source = read(self.dataset, self.root, given["data"])
        return self.data

    def titles(self) -> list[str]:
        """What the prompts call each item."""
        from graphrec.features.extract.llm import jobs

        return jobs.item_titles(self.data, full_text=self.full_text)

    def replies(self, questions: Sequence[Question]) -> list[Any] | None:
        """One parsed reply per question, or None after a dry run."""
        from graphrec.features.extract.llm.requests import ask_all, estimate, print_progress
        from graphrec.features.extract.llm.response_cache import open_cache

        assert self.chat is not None
        with open_cache(self.cache) as cache:
            if cache.damaged:
                output.print_note(
                    f"{cache.path}: skipped {len(cache.damaged):,} damaged lines, the first is line "
                    f"{cache.damaged[0]}"
                )
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
            values, stats = ask_all(
                questions, self.chat, cache, prices=self.prices, replay=self.replay,
                concurrency=self.concurrency, progress=progress,
            )  # fmt: skip
        fields = dict(vars(stats))
        for name in ("outcomes", "reasons", "statuses"):
            counts = sorted(fields[name].items(), key=str)
            fields[name] = ", ".join(f"{what}: {n:,}" for what, n in counts) or "none"
        output.print_fields({name.replace("_", " "): value for name, value in fields.items()})
        return values

    def print_next(self, train: str) -> None:
        """Prints the training command to run next."""
        output.print_next_steps(
            f"graphrec train {train} {self.source.arguments()}{settings.store_argument(self.store)}"
        )


def _command(name: str, *examples: str) -> Callable[[Callable[..., None]], None]:
    """Adds a command with the options of :class:`_Job` and, after its first three, those of the function."""

    def add(function: Callable[..., None]) -> None:
        shared = list(inspect.signature(_Job, eval_str=True).parameters.values())
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def run(**values: Any) -> None:
            job = _Job(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            function(job, **values)

        run.__signature__ = inspect.Signature([*shared[:3], *own, *shared[3:]])  # type: ignore[attr-defined]
        app.command(name, epilog=epilog(*examples))(run)

    return add


@_command("preferences", "graphrec llm preferences movielens-small --model llama3.2")
def preferences(
    job: _Job,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run whose best items are the candidates. Default: ItemKNN."),
    ] = None,
    top: Annotated[int, typer.Option(help="Number of candidates.")] = 10,
) -> None:
    """Ask which candidate item each user would like most and least; candidates are not training items.

    Options: data.KEY (or KEY), chat.KEY (temperature, top_p, max_tokens, timeout, retries, key_variable).
    """
    from graphrec.features import PREFERENCES, FeatureStore
    from graphrec.features.extract.llm import jobs

    if top < 2:
        raise ConfigError(f"--top {top}; expected at least 2")
    data = job.open()
    pool, ranker = _top_candidates(data, candidates, top, job.root)
    questions = jobs.preference_questions(data, job.titles(), pool, job.noun)
    values = [None] * len(questions) if job.chat is None else job.replies(questions)
    if values is None:
        return
    table = jobs.preference_table(data, pool, questions, values, f"llm/{job.model}/{ranker}")
    FeatureStore(job.store).save(data, PREFERENCES, table)
    output.print_line(
        f"preferences: {int(table.present.sum()):,} of {data.n_users:,} users, among the top {top} of "
        f"{ranker}; {table.meta['fallback']:,} fall back to the first and last candidate"
    )
    job.print_next("lightgcn --set model.augmented=0.1")


@_command("attributes", "graphrec llm attributes movielens-small --set data.attributes=true")
def attributes(
    job: _Job,
    names: Annotated[
        str | None,
        typer.Option(help="Attributes to ask for, such as director,country. Default: the dataset's."),
    ] = None,
    text: TextExtractor = "tfidf-svd",
) -> None:
    """Ask for attributes of each item and extract features from them.

    Where the dataset has these attributes, the replies are compared with them. Options: data.KEY (or KEY),
    chat.KEY, text.KEY.
    """
    from graphrec.data.attributes import HAS
    from graphrec.features import ATTRIBUTE_PREFIX, FeatureStore
    from graphrec.features.extract.llm import catalog, jobs
    from graphrec.features.extract.llm.tables import write_attributes

    data = job.open(text)
    true = catalog.attributes(data) if HAS in data.relations or job.chat is None else {}
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else list(true)
    if not wanted:
        raise ConfigError("no attribute to ask for; name some, such as --names director,country,language")
    values: dict[str, list[str | None]]
    if job.chat is None:
        for name in wanted:
            settings.choice(name, true, "--names")
        values = {name: true[name] for name in wanted}
    else:
        replies = job.replies(jobs.attribute_questions(job.titles(), wanted, job.noun))
        if replies is None:
            return
        values = {name: [reply[name] if reply else None for reply in replies] for name in wanted}
        scores = jobs.accuracy(values, true)
        if scores:
            header = ["attribute", *next(iter(scores.values()))._fields]
            output.print_table(header, [[name, *row] for name, row in scores.items()])
    tables = write_attributes(data, values, job.extractor, FeatureStore(job.store))
    for name in wanted:
        table = tables.get(f"{ATTRIBUTE_PREFIX}{name}")
        if table is not None:
            output.print_line(f"{ATTRIBUTE_PREFIX}{name}: {table!r}")
        else:
            output.print_line(f"{name}: no item has a value")
    job.print_next("llmrec")


@_command("profiles", "graphrec llm profiles movielens-small --model llama3.2 --noun film")
def profiles(job: _Job, text: TextExtractor = "tfidf-svd") -> None:
    """Ask for a profile of each user from their training items and extract features from it.

    Options: data.KEY (or KEY), chat.KEY, text.KEY.
    """
    from graphrec.features import FeatureStore
    from graphrec.features.extract.llm import catalog, jobs
    from graphrec.features.extract.llm.tables import write_profiles

    data = job.open(text)
    if job.chat is None:
        texts = catalog.profiles(data)
    else:
        questions = jobs.profile_questions(data, job.titles(), job.noun)
        values = job.replies(questions)
        if values is None:
            return
        texts = [None] * data.n_users
        for question, value in zip(questions, values, strict=True):
            texts[question.row] = value
    table = write_profiles(data, texts, job.extractor, FeatureStore(job.store))
    output.print_line(f"profile: {table!r}")
    job.print_next("llmrec")


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
