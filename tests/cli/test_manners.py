"""Help, lists, output, interruptions, and the doctor."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphrec import runs
from graphrec.cli import doctor, main as cli

Command = Callable[..., Any]


def command_lines() -> Iterator[tuple[str, ...]]:
    yield ()
    for name in cli.COMMANDS:
        yield (name,)
        yield from ((name, inner) for inner in getattr(cli.load_command(name), "commands", ()))


@pytest.mark.parametrize("path", list(command_lines()), ids=lambda p: " ".join(p) or "graphrec")
def test_help_teaches_with_examples_that_exist(path: tuple[str, ...], graphrec: Command) -> None:
    answer = graphrec(*path, "--help")
    assert answer.code == 0
    examples = [s.strip() for s in answer.out.split("Examples:")[1].splitlines() if s.strip()]
    named = " ".join(("graphrec", *path))
    assert any(s.startswith(named) for s in examples)
    known = set(command_lines())
    for example in (s for s in examples if s.startswith("graphrec ")):
        words = example.split()[1:]
        assert (words[0],) in known
        if words[0] in ("data", "features"):
            assert tuple(words[:2]) in known


def test_help_is_fast_and_light() -> None:
    code = (
        "import sys, time; from graphrec.cli import main as cli\n"
        "try: cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'polars', 'sklearn', 'numpy'} & set(sys.modules), time.process_time())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, seconds = result.stdout.splitlines()[-1].rsplit(maxsplit=1)
    assert modules == "set()"
    assert float(seconds) < 5, "of the processor, 0.3 on an idle machine"


def test_the_list_of_commands_says_what_each_command_says() -> None:
    for name, (_, text) in cli.COMMANDS.items():
        assert (cli.load_command(name).help or "").splitlines()[0] == text, name


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; from graphrec.cli import main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print(*(n for n in sys.modules if n.startswith('graphrec.cli.')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(result.stdout.splitlines()[-1].split())
    assert not imported & {f"graphrec.cli.{target.partition(':')[0]}" for target, _ in cli.COMMANDS.values()}
    assert all(f"\n  {name} " in result.stdout for name in cli.COMMANDS)


def test_lists(graphrec: Command) -> None:
    listed = graphrec("models")
    assert "freedom" in listed.out
    assert "train.epochs" in listed.out
    assert graphrec("train", "--list").out == listed.out
    one = graphrec("models", "freedom")
    assert "model.knn_k" in one.out
    assert "https://arxiv.org/abs/2211.06924" in one.out
    assert "open_clip" in graphrec("features", "list").out
    assert "https://" in graphrec("data", "list").out
    assert graphrec("--version").out.startswith("graphrec ")


def test_titles_that_look_like_markup_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from graphrec.cli import output

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.print_table(["item", "title"], [("a", "[bold]x[/bold] [/]")])
    assert "[bold]x[/bold] [/]" in terminal.getvalue()


def test_a_reader_that_leaves_early_hears_no_complaint() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "graphrec", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert not err


def test_interrupting_anything_exits_130(monkeypatch: pytest.MonkeyPatch, graphrec: Command) -> None:
    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runs, "open_recommender", stop)
    answer = graphrec("similar", "runs/freedom", "--item", "P0001")
    assert answer.code == 130
    assert answer.err.strip() == "interrupted"


def test_doctor_says_what_to_do(monkeypatch: pytest.MonkeyPatch, graphrec: Command, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("GRAPHREC_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    answer = graphrec("doctor", "--json")
    assert answer.code == 0, "nothing of the core is missing"
    found = {check["name"]: check for check in json.loads(answer.out)}
    assert found["torch"]["status"] == "ok"
    assert "pip install 'graphrec[ann]'" in found["extra ann"]["advice"]
    assert "tfidf-svd" in found["weights hub"]["advice"]
    assert found["GRAPHREC_DATA"]["status"] == "note"
    assert "nowhere" in found["GRAPHREC_DATA"]["found"]
    assert {"extra features", "extra dgl", "device", "store", "python", "graphrec"} <= set(found)


ONE_AFTER_ANOTHER = """
import contextlib, io, json, shlex, sys
from graphrec.cli import main as cli
answers = {}
for name, line in json.loads(sys.argv[1]).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(shlex.split(line))
        except SystemExit as ended:
            code = int(ended.code or 0)
    answers[name] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
print(json.dumps(answers))
"""
"""Runs command lines in one process, because each new one would import torch for seconds."""


def test_a_torchvision_of_another_build_breaks_only_what_needs_it(tmp_path: Path) -> None:
    """As with the CPU build of torch beside a CUDA build of torchvision."""
    package = tmp_path / "site" / "torchvision"
    info = tmp_path / "site" / "torchvision-0.99.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    lines = {
        "generate": "data generate shop --items 40 --users 60",
        "build": "features build shop/dataset",
        "train": "train freedom shop/dataset --set train.epochs=1 --out run",
        "refused": "features build shop/dataset --image open_clip",
        "doctor": "doctor --json",
    }
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(lines)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for name in ("generate", "build", "train"):
        assert answers[name]["code"] == 0, answers[name]["err"]
    assert answers["refused"]["code"] == 2
    assert "torchvision::nms" in answers["refused"]["err"]
    assert "graphrec doctor" in answers["refused"]["err"]
    assert answers["doctor"]["code"] == 0, "the core is not broken"
    check = {check["name"]: check for check in json.loads(answers["doctor"]["out"])}["torchvision"]
    assert check["status"] == "note"
    assert "torchvision::nms" in check["found"]
    assert "extras features and minilm" in check["advice"]


def test_doctor_fails_when_the_core_is_broken(monkeypatch: pytest.MonkeyPatch, graphrec: Command) -> None:
    asked = [("", "polars", ">=999", ""), ("", "no-such-package", ">=1", ""), ("", "numpy", ">=1.26", "")]
    monkeypatch.setattr(doctor, "requirements", lambda: iter(asked))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answer = graphrec("doctor")
    assert answer.code == 1
    assert "pip install 'no-such-package>=1'" in answer.out
    assert "older than 999" in answer.out


def test_doctor_does_not_hang_on_a_silent_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(doctor, "HUB_TIMEOUT", 0.3)
        found = {check.name: check for check in doctor.weights()}
    assert found["weights hub"].status == "note"
    assert re.search("timed out|no answer", found["weights hub"].found), "after 0.3 s, without an answer"


def test_options_in_a_suggested_command_are_read_back_as_they_were() -> None:
    from graphrec.cli import settings
    from graphrec.runs.source import set_arguments

    options = {"a": "5", "b": 5, "c": "some text", "d": [1, "x"], "e": "true", "f": None, "g": 0.5}
    pairs = set_arguments("data.", options)[1::2]
    assert settings.read(pairs, ["data"])["data"] == options
