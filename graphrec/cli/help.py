"""Builds commands, command groups and the examples in help texts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class FullGroup(TyperGroup):
    """A group whose help shows the whole summary of each command, over several lines where it is long."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the names and summaries of the commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, " ".join((command.help or "").partition("\n\n")[0].split()))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class ReaderCommand(TyperCommand):
    """A command whose help also lists the options of the reader that its arguments name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keeps the arguments for the help."""
        ctx.meta["graphrec.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the options of the command, then those of the reader."""
        super().format_options(ctx, formatter)
        rows = _reader_rows(ctx.meta.get("graphrec.arguments", ()))
        if rows:
            with formatter.section("Options of this reader"):
                formatter.write_dl(rows)


def _reader_rows(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``--set KEY=...`` and its meaning for each option of the first reader among some arguments."""
    from graphrec.data.readers import READERS

    name = next((word for word in arguments if word in READERS), None)
    if name is None:
        return []
    reader = READERS.load(name)
    text = inspect.getdoc(reader) or ""
    described = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = described[1] if described else ""
    meanings = dict(re.findall(r"^    (\w+): (.*(?:\n      .*)*)", entries, re.MULTILINE))
    rows = []
    for parameter in inspect.signature(reader).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            meaning = re.sub(r"\s*\(see\s+:\w+:`[^`]*`\)", "", meanings.get(parameter.name, ""))
            meaning = " ".join(meaning.replace("``", "").split())
            if parameter.default not in (None, inspect.Parameter.empty) and "efault" not in meaning:
                meaning += f" Default: {parameter.default}."
            rows.append((f"--set {parameter.name}=...", meaning[:1].upper() + meaning[1:]))
    return rows


def group(text: str, *examples: str) -> typer.Typer:
    """A command group that prints its help when it is called without a command."""
    app = typer.Typer(
        cls=FullGroup,
        help=text,
        epilog=epilog(*examples),
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app


def command(*examples: str) -> Callable[[Callable[..., None]], typer.Typer]:
    """Makes a function a command of ``graphrec`` itself, with examples in its help text."""

    def decorate(function: Callable[..., None]) -> typer.Typer:
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(epilog=epilog(*examples))(function)
        return app

    return decorate


def epilog(*examples: str) -> str:
    """Examples at the end of a help text, with their line breaks kept."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
