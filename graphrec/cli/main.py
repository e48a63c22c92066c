"""``graphrec``: the command line.

This module assembles the commands of :mod:`graphrec.cli` and turns errors into one line and an exit status:
2 for a user's mistake, 70 for a defect of the program, 130 for Ctrl-C.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from graphrec.cli import output
from graphrec.cli.help import FullGroup, group
from graphrec.core.errors import GraphrecError

app = group(
    "Graph-based multimodal recommendation: from a catalog to recommendations.",
    "graphrec demo                                    the full pipeline on generated data",
    "graphrec data generate shop                      write a generated catalog as ordinary files",
    "graphrec features build shop/dataset             extract features from images and texts",
    "graphrec train freedom shop/dataset --out runs/shop",
    "graphrec evaluate runs/shop",
    "graphrec recommend runs/shop --user U00001",
)
COMMANDS = {
    "train": ("training:train", "Train a model and write a run directory."),
    "models": ("training:models", "List the models, or show what one is and which options it has."),
    "tune": ("tuning:tune", "Train a model with several options and rank them in validation."),
    "fit-final": ("training:fit_final", "Train a finished run again on train, valid and test, to be served."),
    "evaluate": ("evaluation:evaluate", "Rank all items for every user of a held-out split."),
    "compare": ("comparing:compare", "Compare finished runs: tables, paired tests, an HTML report."),
    "recommend": (
        "serving:recommend",
        "Recommend items to users, or to somebody who is known by a list of items.",
    ),
    "converse": ("conversing:converse", "Answer questions and get recommendations with explanations."),
    "similar": ("serving:similar", "Find the items most similar to an item."),
    "add": ("adding:add", "Add a new item by its text and picture."),
    "export": ("serving:export", "Write recommendations for all users, or a FAISS index, or both."),
    "index": ("serving:index", "Build an approximate search index over the items (extra ann)."),
    "serve": ("serving:serve", "Serve recommendations over HTTP (extra serve)."),
    "demo": ("demo.steps:demo", "Generate a catalog, train models on it and compare them."),
    "doctor": ("doctor:doctor", "Check the installation and give advice for each problem."),
    "data": ("data:app", "Datasets: list, show, convert, generate."),
    "features": ("features:app", "Image, text and sound features of items: build, import, maintain."),
    "llm": ("llm:app", "Features of users and items from a language model."),
    "code": ("code:app", "Files to work on next, reviewers of a change, experts."),
}
"""Command -> module and attribute of its Typer instance, and the first line of its help text."""
INTERRUPTED = 130
MISTAKE = 2
DEFECT = 70
MAX_MESSAGE = 2000  # characters of an error message
# Messages of torch, CUDA and numpy.
_NO_MEMORY = re.compile(
    "can't allocate memory|out of memory|size calculation overflowed|maximum allowed dimension|too big;",
    re.IGNORECASE,
)


def load_command(name: str) -> Any:
    """The command or group of one of :data:`COMMANDS`."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    return typer.main.get_command(getattr(importlib.import_module(f"graphrec.cli.{module}"), attribute))


class LazyGroup(FullGroup):
    """Lists the commands from :data:`COMMANDS` and imports only the one that is invoked.

    Inspecting the signatures of all commands takes longer than all else that ``graphrec --help`` does.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, text) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The name, the command and its arguments."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and load_command(name), rest


@app.callback(cls=LazyGroup, invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Graph-based multimodal recommendation: from a catalog to recommendations."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"graphrec {installed('graphrec')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line and exits; the entry point of ``graphrec``.

    Args:
        arguments: command-line arguments without the program name; default: ``sys.argv[1:]``.

    Raises:
        SystemExit: always; 0 on success, 1 if a check found problems, 2 after a user's mistake, 70 after a
            defect of the program, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):  # names may hold characters the terminal cannot encode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = [argument for argument in given if argument != "--debug"]
    # PyG emits this on import; the user of a command cannot act on it.
    warnings.filterwarnings("ignore", r".*torch\.jit", FutureWarning)
    sys.exit(_run(given, debug))


def _run(arguments: list[str], debug: bool) -> int:
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="graphrec", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has exited, like `| head`; Python would report the pipe again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (GraphrecError, OSError) as cause:
        return _report_mistake(str(cause), debug)
    except _USAGE_ERROR as cause:
        context, message = getattr(cause, "ctx", None), cause.format_message().rstrip(".")
        if context is not None and not message.endswith("?"):
            message += f"; see: {context.command_path} --help"
        return _report_mistake(message, debug)
    except Exception as cause:
        if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
            return _report_mistake("out of memory; use less data, smaller batches or fewer dimensions", debug)
        if not debug:
            output.print_error(
                f"error: {type(cause).__name__}: {_one_line(str(cause))}; this is a defect of graphrec; "
                "run the command again with --debug for a traceback"
            )
            return DEFECT
        raise
    if code == INTERRUPTED:
        resumable = {"train", "tune"} & set(arguments)
        output.print_note("interrupted; resume with --resume" if resumable else "interrupted")
    return code if isinstance(code, int) else 0


def _report_mistake(message: str, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    output.print_error(f"error: {_one_line(message)}")
    return MISTAKE


def _one_line(message: str) -> str:
    """The message on one line, shortened in the middle; ids and paths may be arbitrarily long.

    Lines that are indented by two spaces stay: they list what the first line is about.
    """
    flat = re.sub(r"[\r\n](?!  \S)", " ", message)
    return flat if len(flat) <= MAX_MESSAGE else f"{flat[: MAX_MESSAGE // 2]} … {flat[-MAX_MESSAGE // 2 :]}"


# Typer raises Click's exceptions, from the package click or from a copy of its own, depending on its version.
_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

if __name__ == "__main__":
    main()
