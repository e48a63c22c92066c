"""How the commands' help texts are made."""

from __future__ import annotations

import typer


def group(text: str, *examples: str) -> typer.Typer:
    """A group of commands that prints its help when none of them is named."""
    app = typer.Typer(
        help=text,
        epilog=epilog(*examples),
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app


def epilog(*examples: str) -> str:
    """The examples under a command's help; the mark keeps their lines as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
