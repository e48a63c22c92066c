"""``graphrec``: the command line.

Commands live in :mod:`graphrec.cli`; here they are put together, and their errors become one line and an
exit status: 2 for what the user can mend, 70 for what only the developers can, 130 for Ctrl-C.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
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
    "graphrec demo                                    everything once, on generated data",
    "graphrec data generate shop                      a generated shop, as ordinary files",
    "graphrec features build shop/dataset             features of its pictures and texts",
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
LONGEST = 2000  # characters of a message
# As torch, CUDA and numpy say it.
_NO_MEMORY = re.compile(
    "can't allocate memory|out of memory|size calculation overflowed|maximum allowed dimension|too big;",
    re.IGNORECASE,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
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
    items: Annotated[int, typer.Option(help="How many items to generate.")] = 640,
    users: Annotated[int, typer.Option(help="How many users to generate.")] = 1500,
    seed: Annotated[int, typer.Option(help="Of the data and the trainings.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of training. Default: 60.")] = None,
) -> None:
    """Generate a catalog, train on it, compare models in a table and in an HTML report with pictures."""
    from graphrec.cli.demo import run

    run(out=out, n_items=items, n_users=users, seed=seed, epochs=epochs)


@app.command(epilog=epilog("graphrec doctor", "graphrec doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    store: settings.Store = features.CACHE,
) -> None:
    """Check the installation: versions, extras, device, weights, data; say what to do about gaps."""
    from graphrec.cli.doctor import examine

    checks = examine(store)
    if as_json:
        output.as_json([check._asdict() for check in checks])
    else:
        rows = [(check.status, check.name, check.found) for check in checks]
        output.table(["", "what", "found"], rows, left=["", "what", "found"])
        output.say()
        for check in checks:
            if check.advice:
                output.say(f"{check.name}: {check.advice}")
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command line and exits; the entry point of ``graphrec``.

    Args:
        arguments: without the program's name; default: those of the process.

    Raises:
        SystemExit: always; 0, or 1 where a check found problems, 2 after a mistake, 70 after a defect of
            the program, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    for stream in (sys.stdout, sys.stderr):  # names may hold what the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = [argument for argument in given if argument != "--debug"]
    # PyG's on being imported; nobody who runs a command can do anything about it.
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
        # Whoever read our output has gone, as `| head` does; Python would complain again when closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (GraphrecError, OSError) as cause:
        return _mistake(str(cause), debug)
    except _USAGE as cause:
        context, message = getattr(cause, "ctx", None), cause.format_message().rstrip(".")
        if context is not None and not message.endswith("?"):
            message += f"; see: {context.command_path} --help"
        return _mistake(message, debug)
    except Exception as cause:
        if isinstance(cause, MemoryError) or _NO_MEMORY.search(str(cause)):
            return _mistake("out of memory; give it less data, or smaller batches or dimensions", debug)
        if not debug:
            output.complain(
                f"error: {type(cause).__name__}: {_line(str(cause))}; this is a defect of graphrec, the same "
                "with --debug shows where"
            )
            return DEFECT
        raise
    if code == INTERRUPTED:
        resumable = {"train", "tune"} & set(arguments)
        output.note("interrupted; resume with --resume" if resumable else "interrupted")
    return code if isinstance(code, int) else 0


def _mistake(message: str, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    output.complain(f"error: {_line(message)}")
    return MISTAKE


def _line(message: str) -> str:
    """The message on one line of bearable length; an id or a path in it may be of any length."""
    flat = " ".join(message.split("\n")) if "\n" in message else message
    flat = flat.replace("\r", " ")
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST // 2]} … {flat[-LONGEST // 2 :]}"


# Typer raises Click's exceptions, from the package click or from a copy of its own, depending on its version.
_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

if __name__ == "__main__":
    main()
