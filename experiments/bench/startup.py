"""How long the package and its command line take to start, each time in a fresh process.

    python -m experiments.bench.startup

Prints the median of five starts and its ratio to an interpreter that does nothing. Limits: 1 s for
``import graphrec``, 1.5 s for ``graphrec --help``.
"""

from __future__ import annotations

import subprocess
import sys

from experiments.bench import measure

COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": (["-c", "pass"], None),
    "import graphrec": (["-c", "import graphrec"], 1.0),
    "graphrec --help": (["-m", "graphrec", "--help"], 1.5),
    "graphrec train --help": (["-m", "graphrec", "train", "--help"], None),
    "import graphrec as gr; gr.Trainer": (["-c", "import graphrec as gr; gr.Trainer"], None),
    "import torch, for comparison": (["-c", "import torch"], None),
}
"""What is started, and the most seconds it may take."""


def main() -> None:
    """Prints the table; ends with status 1 where a limit is exceeded."""
    print(measure.machine())
    print(f"{'started':<36}{'ms':>8}{'x bare':>8}{'limit ms':>10}")
    late, bare = False, 0.0
    for name, (arguments, limit) in COMMANDS.items():

        def start(arguments: list[str] = arguments) -> None:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

        taken = measure.milliseconds(start, repeats=5, warmup=1)
        bare = bare or taken
        late |= limit is not None and taken > 1e3 * limit
        print(f"{name:<36}{taken:8.0f}{taken / bare:8.1f}{f'{1e3 * limit:10.0f}' if limit else '':>10}")
    sys.exit(late)


if __name__ == "__main__":
    main()
