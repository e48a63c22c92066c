"""Builds commands, command groups and the examples in help texts."""

from __future__ import annotations

from collections.abc import Callable

import typer


def group(text: str, *examples: str) -> typer.Typer:
    """A command group that prints its help when it is called without a command."""
    app = typer.Typer(
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
