"""What mkdocs adds to the pages when it builds the site: the API reference, the commands, the models' options.

Nothing of this is committed; it is made from the docstrings, the command line and the registry of models.

- ``index.md``, ``contributing.md`` and ``changelog.md`` are the files at the top of the repository.
- ``reference/api/<folder>.md`` lists every public module of a folder of ``graphrec/`` for mkdocstrings.
- ``reference/cli.md`` is the help text of every command.
- A page says ``<!-- options: MODEL -->`` or ``<!-- options: module:Model.Config -->`` where the table of options
  belongs, ``<!-- reader: NAME -->`` for those of a reader, and ``<!-- models -->`` or ``<!-- capabilities -->``
  for the tables of all models.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "graphrec"
MARKER = re.compile(
    r"^<!-- (options: (?P<options>\S+)|reader: (?P<reader>\S+)|(?P<table>models|capabilities)) -->$",
    re.MULTILINE,
)
TOP = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page of the site -> file at the top of the repository."""
MOVED = {
    "docs/notebooks/": "notebooks/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {page: _from_top(name) for page, name in TOP.items()}
    pages["reference/cli.md"] = "".join(_commands())
    pages |= {f"reference/api/{folder}.md": text for folder, text in _api()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts the generated tables where a page has a marker."""

    def generated(marker: re.Match[str]) -> str:
        if marker["options"]:
            return _options(marker["options"])
        if marker["reader"]:
            return _reader(marker["reader"])
        return {"models": _models, "capabilities": _capabilities}[marker["table"]]()

    return MARKER.sub(generated, markdown)


def _from_top(name: str) -> str:
    """A file at the top of the repository with its links as the site has them."""

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        if name == "CHANGELOG.md" and not (ROOT / target).exists():
            return str(text)  # older entries name pages that have moved
        if target not in MOVED and not target.startswith("docs/"):
            return str(text)  # a file that is no page of the site
        return f"[{text}]({MOVED.get(target, target.removeprefix('docs/'))}{anchor or ''})"

    source = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\[([^\[\]]*)\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)", link, source)


# -- API -----------------------------------------------------------------------------------------------------


def _api() -> Iterator[tuple[str, str]]:
    """Folder -> a page with a mkdocstrings block for each of its public modules."""
    for folder in sorted(p for p in PACKAGE.iterdir() if (p / "__init__.py").exists()):
        if folder.name == "cli":
            continue  # reference/cli.md
        names = sorted(_public(folder, f"graphrec.{folder.name}"))
        blocks = "\n\n".join(f"::: {name}" for name in names)
        yield folder.name, f"# graphrec.{folder.name}\n\n{_first_line(folder)}\n\n{blocks}\n"


def _public(folder: Path, name: str) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py":
            yield f"{name}.{path.stem}"
        elif (path / "__init__.py").exists():
            yield from _public(path, f"{name}.{path.name}")


def _first_line(folder: Path) -> str:
    module = importlib.import_module(f"graphrec.{folder.name}")
    return (inspect.getdoc(module) or "").partition("\n\n")[0]


# -- commands ------------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    """The help text of every command."""
    import typer

    from graphrec.cli.main import COMMANDS, app, load_command

    os.environ["COLUMNS"] = "100"
    yield "# Commands\n\nThe help text of every command, as `graphrec COMMAND --help` prints it.\n"
    root = typer.main.get_command(app)
    root.commands = {name: load_command(name) for name in COMMANDS}
    yield from _command(root, "graphrec", None)


def _command(command: Any, name: str, parent: Any) -> Iterator[str]:
    context = typer_context(command, name.rpartition(" ")[2], parent)
    yield f"\n## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    for key, child in sorted(getattr(command, "commands", {}).items()):
        yield from _command(child, f"{name} {key}", context)


def typer_context(command: Any, name: str, parent: Any) -> Any:
    """A context in which a command prints its help, as wide as the page."""
    return command.make_context(
        name, ["--help"], parent=parent, resilient_parsing=True, terminal_width=100, max_content_width=100
    )


# -- models --------------------------------------------------------------------------------------------------


def _options(name: str) -> str:
    """Options with type, default and docstring: of a model, of ``train``, or of ``module:Model.Config``."""
    if name == "train":
        name = "graphrec.models.train_config:TrainConfig"
    if ":" in name:
        module, _, attribute = name.partition(":")
        config = attrgetter(attribute)(importlib.import_module(module))
    else:
        from graphrec.models import model

        config = model(name).Config
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for field, info in config.model_fields.items():
        default = (
            "required"
            if info.is_required()
            else f"`{_cell(repr(info.get_default(call_default_factory=True)))}`"
        )
        kind = getattr(info.annotation, "__name__", "") if isinstance(info.annotation, type) else ""
        kind = kind or str(info.annotation).replace("typing.", "")
        lines.append(f"| `{field}` | `{_cell(kind)}` | {default} | {_cell(_plain(info.description or ''))} |")
    return "\n".join(lines)


def _reader(name: str) -> str:
    """Options of a reader, from its signature and the ``Args`` of its docstring."""
    from graphrec.data.readers import READERS

    module, _, attribute = READERS[name].partition(":")
    read = getattr(importlib.import_module(module), attribute)
    arguments = re.search(r"Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(read) or "", re.DOTALL)
    meanings = dict(
        re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", arguments[1] if arguments else "", re.S | re.M)
    )
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option, parameter in inspect.signature(read).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            meaning = _cell(_plain(meanings.get(option, "")))
            lines.append(f"| `{option}` | `{_cell(repr(parameter.default))}` | {meaning} |")
    return "\n".join(lines)


def _models() -> str:
    """Every registered model with its first docstring line."""
    from graphrec.cli.training import describe_modalities
    from graphrec.models import MODELS, model

    lines = ["| name | model | modalities | can place new items |", "|---|---|---|---|"]
    for name in MODELS:
        made = model(name)
        first = (inspect.getdoc(inspect.getmodule(made)) or "").splitlines()[0].rstrip(".")
        needs = describe_modalities(made)
        cold = "yes" if getattr(made, "supports_cold_items", False) else ""
        lines.append(f"| `{name}` | {_cell(_plain(first))} | {needs} | {cold} |")
    return "\n".join(lines)


def _capabilities() -> str:
    """How every model grows, as ``graphrec models --scale`` prints it."""
    from graphrec.cli.training import SCALE, grows
    from graphrec.models import MODELS, model

    lines = [f"| {' | '.join(SCALE)} |", "|---" * len(SCALE) + "|"]
    lines += [f"| `{name}` | {' | '.join(grows(model(name)))} |" for name in MODELS]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """A docstring without Sphinx's roles, as Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return html.escape(text, quote=False).replace("``", "`")
