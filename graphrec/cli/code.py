"""``graphrec code``: for the person in a repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import epilog, group

if TYPE_CHECKING:
    from graphrec.code.project import Project
    from graphrec.data import Dataset

app = group(
    "For the person in a repository: which files next, who should look at a change, who knows a place.",
    "graphrec code suggest",
    "graphrec code reviewers src/app.py tests/test_app.py",
    "graphrec code experts src",
)

Repo = Annotated[Path, typer.Option(help="A local clone, whole.")]
K = Annotated[int, typer.Option("-k", min=1, help="How many.")]
Model = Annotated[str, typer.Option(help="What files next are ranked by; coder reads the files, too.")]
Cache = Annotated[
    Path | None, typer.Option(help="Where histories are kept. Default: the user's cache folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def opened(
    repo: Path, cache: Path | None, model: str = "cochange", options: list[str] | None = None
) -> Project:
    """The repository, mined or from the cache."""
    from graphrec.code.project import Project

    given = settings.read(options, ["model", "train"])
    project = Project.open(
        repo, model=model, cache=cache, features=_features,
        model_options=given["model"], train_options={"progress": False, **given["train"]},
    )  # fmt: skip
    train = project.data.train
    output.print_note(
        f"{project.name} at {project.revision[:12]}: {train.n_users:,} people, {train.n_items:,} files, "
        f"{len(train):,} contributions{' (from the cache)' if project.reused else ''}"
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
    model: Model = "cochange",
    options: settings.Set = None,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Files that you have not worked on yet and are likely to, each with why."""
    from graphrec.code import answers
    from graphrec.core.errors import ConfigError
    from graphrec.data.git.log import Repository

    if user is None:
        user = Repository(repo).run("config", "--default", "", "--get", "user.email").decode().strip()
        if not user:
            raise ConfigError("git knows no user.email here; name somebody with --user")
    found = answers.suggest(opened(repo, cache, model, options), user, k, under)
    if as_json:
        output.print_json([asdict(one) for one in found])
        return
    if not found:
        output.print_line(f"{user} has worked on every file there")
        return
    output.print_table(
        ["file", "score", "why"], [(f.file, f"{f.score:.3f}", f.why) for f in found], left=["file", "why"]
    )
    output.print_next_steps("graphrec code reviewers FILE...")


@app.command(
    "reviewers",
    epilog=epilog(
        "graphrec code reviewers src/app.py", "graphrec code reviewers src/app.py --not ada@engine.test"
    ),
)
def reviewers(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Changed files, from the top.", show_default=False)
    ],
    repo: Repo = Path(),
    exclude: Annotated[
        list[str] | None, typer.Option("--not", help="Whom to leave out, such as the author; several times.")
    ] = None,
    k: K = 5,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Who should look at a change of these files, each with why."""
    from graphrec.code import answers

    _people(answers.reviewers(opened(repo, cache), files, k, exclude or ()), as_json)


@app.command("experts", epilog=epilog("graphrec code experts src", "graphrec code experts src/app.py -k 3"))
def experts(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="A file or a folder, from the top.")] = "",
    repo: Repo = Path(),
    k: K = 5,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Who knows a file or a folder, each with why."""
    from graphrec.code import answers

    _people(answers.experts(opened(repo, cache), path, k), as_json)


def _people(found: Any, as_json: bool) -> None:
    if as_json:
        output.print_json([asdict(one) for one in found])
        return
    output.print_table(
        ["person", "score", "why"], [(p.name, f"{p.score:.3f}", p.why) for p in found], left=["person", "why"]
    )
