"""``graphrec``: the command line.

This module assembles the commands of :mod:`graphrec.cli` and turns errors into one line and an exit status:
2 for a user's mistake, 70 for a defect of the program, 130 for Ctrl-C.
"""

from __future__ import annotations

import copy
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from graphrec.cli import (
    code,
    comparing,
    conversing,
    data,
    evaluation,
    features,
    llm,
    output,
    serving,
    settings,
    training,
    tuning,
)
from graphrec.cli.help import epilog, group
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
app.add_typer(data.app, name="data")
app.add_typer(features.app, name="features")
app.add_typer(llm.app, name="llm")
app.add_typer(code.app, name="code")
app.command(epilog=epilog(*training.TRAIN_EXAMPLES))(training.train)
app.command(epilog=epilog(*training.MODELS_EXAMPLES))(training.models)
app.command(epilog=epilog(*tuning.EXAMPLES))(tuning.tune)
app.command(epilog=epilog(*evaluation.EXAMPLES))(evaluation.evaluate)
app.command(epilog=epilog(*comparing.EXAMPLES))(comparing.compare)
app.command(epilog=epilog(*serving.RECOMMEND_EXAMPLES))(serving.recommend)
app.command(epilog=epilog(*conversing.EXAMPLES))(conversing.converse)
app.command(epilog=epilog(*serving.SIMILAR_EXAMPLES))(serving.similar)
app.command(epilog=epilog(*serving.EXPORT_EXAMPLES))(serving.export)
app.command(epilog=epilog(*serving.INDEX_EXAMPLES))(serving.index)
app.command(epilog=epilog(*serving.SERVE_EXAMPLES))(serving.serve)

INTERRUPTED = 130
MISTAKE = 2
DEFECT = 70
MAX_MESSAGE = 2000  # characters of an error message
# Messages of torch, CUDA and numpy.
_NO_MEMORY = re.compile(
    "can't allocate memory|out of memory|size calculation overflowed|maximum allowed dimension|too big;",
    re.IGNORECASE,
)


@app.callback(invoke_without_command=True)
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


@app.command(epilog=epilog("graphrec demo", "graphrec demo --out runs/small --items 200 --users 400"))
def demo(
    out: Annotated[Path, typer.Option(help="Directory for data, runs and report.")] = Path("runs/demo"),
    items: Annotated[int, typer.Option(help="Number of items to generate.")] = 640,
    users: Annotated[int, typer.Option(help="Number of users to generate.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of the data and of training.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Maximum number of epochs. Default: 60.")] = None,
) -> None:
    """Generate a catalog, train models on it and compare them in a table and an HTML report."""
    from graphrec.cli.demo import run

    run(out=out, n_items=items, n_users=users, seed=seed, epochs=epochs)


@app.command(epilog=epilog("graphrec doctor", "graphrec doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    store: settings.Store = features.CACHE,
) -> None:
    """Check the installation: versions, extras, device, weights and data, with advice for each problem."""
    from graphrec.cli.doctor import run_checks

    checks = run_checks(store)
    if as_json:
        output.print_json([check._asdict() for check in checks])
    else:
        rows = [(check.status, check.name, check.found) for check in checks]
        output.print_table(["", "what", "found"], rows, left=["", "what", "found"])
        output.print_line()
        for check in checks:
            if check.advice:
                output.print_line(f"{check.name}: {check.advice}")
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)


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


def _needed_for(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """The app with only the invoked command complete; the others keep just their name and help text.

    Typer inspects the signature of every command it builds, which takes longer than everything else that
    ``graphrec --help`` does.
    """
    invoked = next((argument for argument in arguments if not argument.startswith("-")), None)
    reduced = copy.copy(app)
    reduced.registered_commands = []
    for command in app.registered_commands:
        callback: Any = command.callback
        if (command.name or callback.__name__) != invoked:
            command = copy.copy(command)
            command.callback = _without_parameters(callback)
        reduced.registered_commands.append(command)
    reduced.registered_groups = []
    for subgroup in app.registered_groups:
        if subgroup.name != invoked:
            subgroup = copy.copy(subgroup)
            subgroup.typer_instance = copy.copy(subgroup.typer_instance)
            assert subgroup.typer_instance is not None
            subgroup.typer_instance.registered_commands = []
        reduced.registered_groups.append(subgroup)
    return reduced


def _without_parameters(callback: Callable[..., Any]) -> Callable[[], None]:
    def stub() -> None:
        raise NotImplementedError(callback.__name__)

    stub.__doc__ = callback.__doc__
    stub.__name__ = callback.__name__
    return stub


def _run(arguments: list[str], debug: bool) -> int:
    command: Any = typer.main.get_command(_needed_for(app, arguments))
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
    """The message on one line, shortened in the middle; ids and paths may be arbitrarily long."""
    flat = " ".join(message.split("\n")) if "\n" in message else message
    flat = flat.replace("\r", " ")
    return flat if len(flat) <= MAX_MESSAGE else f"{flat[: MAX_MESSAGE // 2]} … {flat[-MAX_MESSAGE // 2 :]}"


# Typer raises Click's exceptions, from the package click or from a copy of its own, depending on its version.
_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

if __name__ == "__main__":
    main()
