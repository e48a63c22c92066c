"""Trainings that are killed: a warm process that forks one on demand, and what it leaves on disk.

Run as a script, it answers each line of input with the process id of a training and, when that has ended,
with its exit code. A training counts its steps on files (half of a file written, flushed, renamed, removed);
it may be slowed down at each of them, or kill itself at a given one.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from graphrec.cli import main as cli
from graphrec.core import files
from graphrec.evaluation.ranking import RankingTask
from graphrec.models.freedom import FREEDOM
from graphrec.models.lightgcn import LightGCN
from graphrec.models.mf import MF
from graphrec.models.train_config import TrainConfig
from graphrec.runs import train as _train  # noqa: F401, as the commands import it when they need it
from graphrec.serving import Recommender
from graphrec.testing import communities
from graphrec.training import run_directory
from graphrec.training.trainer import Trainer

MODELS = {"freedom": FREEDOM, "lightgcn": LightGCN}
PATIENCE = 3


def train(model: str, out: Path, trained: Path | None = None, on_epoch: Any = None) -> Any:
    """Trains until early stopping; notes each epoch trained as one character in the file ``trained``."""
    data, features = communities(2, 30)
    data = data.with_splits(data.train, data.test, data.valid)
    cls = MODELS[model]
    made = cls.build(data, features if cls.modalities else None, cls.Config(dim=8))
    ranking = RankingTask(data.valid, seen=data.train, metrics=("recall", "ndcg"))

    def task(model: Any) -> dict[str, float]:
        if trained is not None:
            with builtins.open(trained, "a") as file:
                file.write(".")
        return ranking(model)

    config = TrainConfig(
        epochs=40, batch_size=256, learning_rate=0.02, patience=PATIENCE, patience_steps=0, device="cpu",
        progress=False,
    )  # fmt: skip
    about = {"dataset": {"fingerprint": data.fingerprint}}
    return Trainer(config, out).fit(made, task, "recall@20", resume=True, about=about, on_epoch=on_epoch)


def recommender(dim: int) -> Recommender:
    """One of two that differ in all their files but the ids."""
    data, _ = communities(2, 20)
    return Recommender.from_model(MF.build(data, None, MF.Config(dim=dim)), data)


# -- what is on disk -----------------------------------------------------------------------------------------


def outcome(out: Path) -> dict[str, Any]:
    """All in which two runs must agree to the bit: history but for times, early stopping, tensors."""
    found: dict[str, Any] = {"files": sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())}
    for part in ("last", "best"):
        state = json.loads((out / part / "state.json").read_text())
        head = {**state["head"], "training": dict(state["head"].get("training", {}))}
        history = head["training"].pop("history", [])
        found[part] = head
        found[f"{part} history"] = [_without_times(h) for h in history]
        for name, entry in state["files"].items():
            found[f"{part} {name}"] = {
                k: hashlib.sha256(v.numpy().tobytes()).hexdigest()
                for k, v in load_file(out / part / entry["name"]).items()
            }
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert all(line.endswith("}\n") for line in lines), "a line is not whole"
    found["metrics"] = [_without_times(json.loads(line)) for line in lines]
    return found


def _without_times(record: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in record.items() if not k.startswith("seconds")}


def left_behind(out: Path) -> set[str]:
    """How a killed training can be seen to have been in the middle of something."""
    found = set()
    if list(out.rglob("*.tmp")):
        found.add("temporary file")
    steps = {}
    for part in ("last", "best"):
        state = out / part / "state.json"
        named: set[str] = set()
        if state.exists():
            facts = json.loads(state.read_text())
            named = {entry["name"] for entry in facts["files"].values()}
            steps[part] = facts["head"]["training"]["best_epoch"] if part == "last" else facts["head"]["step"]
        if {p.name for p in (out / part).glob("*.safetensors")} - named:
            found.add("uncommitted file")
    if "last" in steps and steps["last"] != steps.get("best"):
        found.add("last without best")
    metrics = out / "metrics.jsonl"
    if metrics.exists() and metrics.read_text()[-1:] not in ("", "\n"):
        found.add("half a line")
    if not steps:
        found.add("no checkpoint yet")
    return found


# -- the process that trains ---------------------------------------------------------------------------------


class Trainings:
    """The warm process, from outside."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Trainings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self, after: int | None = None, **task: Any) -> int:
        """One training; its exit code, negative for a signal.

        Args:
            after: kill it from outside, some time after it has written so many steps to ``task["steps"]``.
            task: see :func:`carry_out`.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(task, default=str) + "\n")
        pid = int(self.process.stdout.readline())
        while after is not None and not select.select([self.process.stdout], [], [], 0.001)[0]:
            steps = Path(task["steps"])
            if steps.exists() and steps.read_bytes().count(b"\n") >= after:
                os.kill(pid, signal.SIGKILL)
                break
        return int(self.process.stdout.readline())


def until_done(trainings: Trainings, rng: np.random.Generator, most: int, **task: Any) -> list[set[str]]:
    """Trains, killed at random moments within ``most`` steps, until a sitting ends by itself; what each kill
    left behind.
    """
    kills = []
    steps = Path(task["steps"])
    while code := trainings.run(after=int(rng.integers(0, most)), **task):
        steps.unlink(missing_ok=True)
        assert code == -signal.SIGKILL, f"a resumed training failed with {code}"
        kills.append(left_behind(Path(task["out"])))
    return kills


class Torn:
    """A file whose bytes are written in halves, with a step in between."""

    def __init__(self, file: Any, name: str, step: Callable[[str], None]) -> None:
        self.file, self.name_of_step, self.step = file, name, step

    def write(self, data: Any) -> int:
        middle = len(data) // 2
        self.file.write(data[:middle])
        self.file.flush()
        self.step(f"half {self.name_of_step}")
        self.file.write(data[middle:])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def watch_files(kill: str | int | None, slow: float, steps: str | None) -> None:
    """Makes this process take a step at each moment at which being killed could matter.

    Args:
        kill: the step at which it kills itself, by number or by name; at the second one of that name if it
            ends in ``again``.
        slow: seconds each step takes.
        steps: file to write the names of all steps to.
    """
    taken: list[str] = []

    def step(name: str) -> None:
        taken.append(name)
        if steps is not None:
            with builtins.open(steps, "a") as file:
                file.write(name + "\n")
        wanted = kill.removesuffix(" again") if isinstance(kill, str) else None
        times = 2 if isinstance(kill, str) and kill.endswith(" again") else 1
        if kill == len(taken) or (name == wanted and taken.count(name) == times):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(slow)

    def named(path: Any) -> str:
        """``last/model`` for its temporary file as well as for what that becomes."""
        path = Path(path)
        name = path.name[1:].rsplit(".", 2)[0] if path.name.endswith(".tmp") else path.name
        return f"{path.parent.name}/{name.split('-')[0]}"

    def opened(path: Any, mode: str = "r", **options: Any) -> Any:
        file = builtins.open(path, mode, **options)  # noqa: SIM115, the caller closes it
        return file if "r" in mode else Torn(file, named(path), step)

    replace, unlink = os.replace, Path.unlink

    def stepping(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            step(f"{name} {named(arguments[0]) if name != 'flush' else ''}".strip())
            return real(*arguments, **options)

        return call

    files.open = run_directory.open = opened  # type: ignore[attr-defined]
    # Killing a process loses nothing that was written, so a flush is a step and no more.
    os.replace, os.fsync = stepping("rename", replace), stepping("flush", lambda handle: None)
    Path.unlink = stepping("remove", unlink)  # type: ignore[method-assign]


def write_in_place() -> None:
    """Files as a plain program writes them: under their own name, so that a kill leaves half of one."""

    @contextmanager
    def atomic_write(path: str | Path) -> Iterator[Any]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with files.open(path, "wb") as file:  # type: ignore[attr-defined]
            yield file

    files.atomic_write = atomic_write


def carry_out(task: dict[str, Any]) -> None:
    """What one line asks for: a training, the saving of a recommender, or a command line."""
    watch_files(task.get("kill"), task.get("slow", 0.0), task.get("steps"))
    if "largest" in task:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (task["largest"], task["largest"]))
    if "stderr" in task:
        os.dup2(os.open(task["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if task.get("naive"):
        write_in_place()
    if "arguments" in task:
        os.dup2(2, 1)
        if task["arguments"][0] == "tune":
            from optuna.storages.journal import _file as journal

            journal.open = files.open  # type: ignore[attr-defined]
        cli.main(task["arguments"])
    elif "save" in task:
        recommender(task["dim"]).save(task["save"])
    else:
        train(task["model"], Path(task["out"]), Path(task["trained"]))


def main() -> None:
    """Forks once per line of input, and answers."""
    torch.set_num_threads(1)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # its imports take seconds, once here
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                carry_out(json.loads(line))
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
