"""Runs bench scripts one after another and puts what they print into docs/results/performance.md.

    python -m experiments.bench                # all blocks of the page, in its order: half an hour
    python -m experiments.bench epoch roofline    # the blocks of these scripts

A block is the lines between ``<!-- bench: SCRIPT [OPTIONS] -->`` and ``<!-- end -->``; the comment is the
command. Nothing else of the page is touched. The machine should have nothing else to do meanwhile.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from graphrec.core.files import write_text

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "results" / "performance.md"
BLOCK = re.compile(r"<!-- bench: (?P<command>[^>]+?) -->\n(?P<body>.*?)<!-- end -->\n", re.DOTALL)


def output(command: str) -> str:
    """What one script prints, as a block of the page.

    Args:
        command: the script's name and its options.
    """
    words = shlex.split(command)
    shown = f"python -m experiments.bench.{command}"
    print(shown, flush=True)
    script = [sys.executable, "-m", f"experiments.bench.{words[0]}", *words[1:]]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    print(done.stdout, flush=True)
    if done.returncode:
        raise SystemExit(f"{shown}: ended with status {done.returncode}; its block stays as it was")
    return f"<!-- bench: {command} -->\n```\n$ {shown}\n{done.stdout.rstrip()}\n```\n<!-- end -->\n"


def main() -> None:
    """Runs the scripts that were named, or all, and rewrites their blocks as each is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = [block["command"] for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    names = sorted({c.split()[0] for c in commands})
    parser.add_argument("names", nargs="*", metavar="SCRIPT", help=f"one of {', '.join(names)}")
    chosen = parser.parse_args().names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"{', '.join(unknown)}: no block in {PAGE.name}; there are {', '.join(names)}")
    for command in commands:
        if not chosen or command.split()[0] in chosen:
            new = output(command)
            page = PAGE.read_text(encoding="utf-8")  # anew each time: it may be edited meanwhile
            old = next(b for b in BLOCK.finditer(page) if b["command"] == command)
            write_text(PAGE, page[: old.start()] + new + page[old.end() :])


if __name__ == "__main__":
    main()
