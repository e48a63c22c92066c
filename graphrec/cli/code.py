"""``graphrec code``: recommendations for people who work in a repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import epilog, group

if TYPE_CHECKING:
    from graphrec.code.answers import Colleague, Suggestion
    from graphrec.code.project import Project
    from graphrec.data import Dataset

app = group(
    "Files to work on next, reviewers of a change, experts.",
    "graphrec code suggest",
    "graphrec code reviewers src/app.py tests/test_app.py",
    "graphrec code experts src",
)

Repo = Annotated[Path, typer.Option(help="A complete local clone, or a folder in it.")]
K = Annotated[int, typer.Option("-k", min=1, help="Maximum number of results.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Model that ranks the files, such as cochange; coder also reads their contents. "
        "Default: co-change with recent popularity."
    ),
]
Cache = Annotated[Path | None, typer.Option(help="Folder of the cache. Default: the user's cache folder.")]


def open_project(
    repo: Path, cache: Path | None, model: str | None = None, options: list[str] | None = None
) -> Project:
    """Opens a repository, mined or from the cache."""
    from graphrec.code.project import Project

    changes = settings.read(options, ["model", "train"])
    project = Project.open(
        repo,
        model=model,
        model_options=changes["model"],
        train_options={"progress": False, **changes["train"]},
        cache=cache,
        features=_features,
    )
    train = project.data.train
    output.print_note(
        f"{project.name} at {project.revision[:12]}: {train.n_users:,} people, {train.n_items:,} files, "
        f"{len(train):,} contributions{' (from the cache)' if project.from_cache else ''}"
    )
    return project


def _features(data: Dataset, folder: Path) -> dict[str, Any]:
    from graphrec.features import FeatureStore
    from graphrec.features.extract import extractor
    from graphrec.features.extract.extraction import extract

    return {"code": extract(data, "code", extractor("code-segments", min_texts=1), FeatureStore(folder))}


@app.command(
    "suggest",
    epilog=epilog("graphrec code suggest", "graphrec code suggest --user ada@engine.test --under src"),
)
def suggest(
    repo: Repo = Path(),
    user: Annotated[
        str | None, typer.Option(help="Address, login or name. Default: git's user.email.")
    ] = None,
    k: K = 10,
    under: Annotated[str, typer.Option(help="Only files at or under this path.")] = "",
    model: Model = None,
    options: settings.Set = None,
    cache: Cache = None,
    form: settings.TableOrJson = "table",
    as_json: settings.AsJson = False,
) -> None:
    """Files that you have not worked on and probably will, each with an explanation.

    Without contributions of yours: files that people worked on together with those you have changed.
    """
    as_json = _is_json(as_json, form)
    from graphrec.code import answers
    from graphrec.data.git.log import Repository

    address = Repository(repo).config("user.email") if user is None else user
    project = open_project(repo, cache, model, options)
    if user is None and not (address and project.knows(address)):
        suggestions = _suggest_for_visitor(project, address, k, under)
    else:
        suggestions = answers.suggest(project, address, k, under)
    if as_json:
        output.print_json([asdict(suggestion) for suggestion in suggestions])
        return
    if not suggestions:
        output.print_line(f"{address} has worked on every file there")
        return
    output.print_table(
        ["file", "score", "why"],
        [(s.file, f"{s.score:.3f}", s.why) for s in suggestions],
        left=["file", "why"],
    )
    output.print_next_steps("graphrec code reviewers FILE...")


def _suggest_for_visitor(project: Project, address: str, k: int, under: str) -> list[Suggestion]:
    """Suggestions from the change under way, for an address without contributions.

    Raises:
        ConfigError: no changed file, or no file goes with them; names the option and some contributors.
    """
    from graphrec.code import answers
    from graphrec.core import git
    from graphrec.core.errors import ConfigError

    who = f"{address} (git's user.email) has no contribution here" if address else "git has no user.email"
    changed = git.changed_files(project.path) or []
    suggestions = answers.suggest_for_change(project, changed, k, under)
    if suggestions:
        output.print_note(
            f"{who}; these go with the {len(changed)} changed {'files' if len(changed) > 1 else 'file'} of "
            f"the checkout ({', '.join(changed[:2])}{', …' if len(changed) > 2 else ''})"
        )
        return suggestions
    found = f"nothing goes with {', '.join(changed[:2])}" if changed else "no tracked file is changed"
    names = ", ".join(map(repr, project.most_active(3)))
    raise ConfigError(
        f"{project.path}: {who}, and {found}; name a contributor with --user (such as {names}), or change a "
        "file and ask again"
    )


@app.command(
    "reviewers",
    epilog=epilog(
        "graphrec code reviewers src/app.py", "graphrec code reviewers src/app.py --not ada@engine.test"
    ),
)
def reviewers(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Changed files, relative to the top.", show_default=False),
    ],
    repo: Repo = Path(),
    exclude: Annotated[
        list[str] | None,
        typer.Option("--not", help="Person to leave out, such as the author; may be repeated."),
    ] = None,
    k: K = 5,
    cache: Cache = None,
    form: settings.TableOrJson = "table",
    as_json: settings.AsJson = False,
) -> None:
    """People who should review a change of these files, each with an explanation."""
    as_json = _is_json(as_json, form)
    from graphrec.code import answers

    _print_people(answers.reviewers(open_project(repo, cache), files, k, exclude or ()), as_json)


@app.command("experts", epilog=epilog("graphrec code experts src", "graphrec code experts src/app.py -k 3"))
def experts(
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="A file or a folder, relative to the top.")
    ] = "",
    repo: Repo = Path(),
    k: K = 5,
    cache: Cache = None,
    form: settings.TableOrJson = "table",
    as_json: settings.AsJson = False,
) -> None:
    """People who know a file or a folder, each with an explanation."""
    as_json = _is_json(as_json, form)
    from graphrec.code import answers

    _print_people(answers.experts(open_project(repo, cache), path, k), as_json)


def _is_json(as_json: bool, form: str) -> bool:
    return (
        settings.choice(settings.json_format(as_json, form, "table"), ["table", "json"], "--format") == "json"
    )


def _print_people(people: list[Colleague], as_json: bool) -> None:
    if as_json:
        output.print_json([asdict(person) for person in people])
        return
    output.print_table(
        ["person", "score", "why"],
        [(p.name, f"{p.score:.3f}", p.why) for p in people],
        left=["person", "why"],
    )
