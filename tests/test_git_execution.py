"""Reading a clone runs no program that its configuration, hooks or attributes name."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from graphrec.core import environment, git
from graphrec.core.errors import DataError
from graphrec.data.git.log import Repository

SIGNATURES = {"log.showSignature": "true"}
FETCHED = {
    "extensions.partialClone": "origin",
    "remote.origin.promisor": "true",
    "core.repositoryFormatVersion": "1",
}
KEYS: dict[str, dict[str, str]] = {
    "alias.log": {},
    "core.alternateRefsCommand": {},
    "core.askPass": {},
    "core.editor": {},
    "core.fsmonitor": {},
    "core.gitProxy": {**FETCHED, "remote.origin.url": "git://127.0.0.1:9/x"},
    "core.pager": {},
    "core.sshCommand": {**FETCHED, "remote.origin.url": "ssh://127.0.0.1:9/x"},
    "credential.helper": {},
    "diff.driver.command": {},
    "diff.driver.textconv": {},
    "diff.external": {},
    "filter.driver.clean": {},
    "filter.driver.process": {},
    "filter.driver.smudge": {},
    'filter.odd=name".clean': {},
    "gpg.openpgp.program": SIGNATURES,
    "gpg.program": SIGNATURES,
    "gpg.ssh.defaultKeyCommand": SIGNATURES,
    "gpg.ssh.program": SIGNATURES,
    "gpg.x509.program": SIGNATURES,
    "interactive.diffFilter": {},
    "log.diffMerges": {},
    "merge.driver.driver": {"log.diffMerges": "remerge"},
    "pager.log": {},
    "remote.origin.uploadpack": {**FETCHED, "remote.origin.url": "."},
    "remote.origin.url": FETCHED,
    "sequence.editor": {},
    "trailer.co-authored-by.cmd": {},
    "trailer.co-authored-by.command": {},
    "uploadpack.packObjectsHook": FETCHED,
}
"""Configuration keys whose value git may run, and what else has to be set for it to do so."""
CONTROLS: dict[str, tuple[str, ...]] = {
    "core.fsmonitor": ("status",),
    "diff.driver.textconv": ("log", "-p"),
    "diff.external": ("log", "-p", "--ext-diff"),
    "filter.driver.clean": ("status",),
    'filter.odd=name".clean': ("status",),
    "gpg.program": ("log",),
    "remote.origin.uploadpack": ("cat-file", "-p", "1" * 40),
}
"""Ordinary commands that do run the program; without them the test could not fail."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with a signed merge, attributes that name drivers, and files whose times have changed."""
    folder = tmp_path / "clone"
    folder.mkdir()

    def call(*arguments: str, text: str | None = None) -> str:
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@engine.test"]
        command = ["git", *identity, *arguments]
        return subprocess.run(
            command, cwd=folder, input=text, check=True, capture_output=True, text=True
        ).stdout.strip()

    call("init", "-q", "-b", "main")
    attributes = '*.py filter=driver diff=driver merge=driver\n*.txt filter=odd=name"\n'
    (folder / ".gitattributes").write_text(attributes)
    (folder / "a.py").write_text("1\n")
    (folder / "b.txt").write_text("1\n")
    call("add", ".")
    call("commit", "-q", "-m", "first\n\nCo-authored-by: Bob <bob@engine.test>")
    call("checkout", "-q", "-b", "side")
    (folder / "a.py").write_text("2\n")
    call("commit", "-q", "-a", "-m", "second")
    call("checkout", "-q", "main")
    (folder / "a.py").write_text("3\n")
    call("commit", "-q", "-a", "-m", "third")
    call("merge", "-q", "-s", "ours", "-m", "merge", "side")
    head, _, message = call("cat-file", "commit", "HEAD").partition("\n\n")
    armor = "-----BEGIN PGP SIGNATURE-----\n \n aaaa\n -----END PGP SIGNATURE-----"
    signed = call(
        "hash-object", "-t", "commit", "-w", "--stdin", text=f"{head}\ngpgsig {armor}\n\n{message}\n"
    )
    call("reset", "-q", "--hard", signed)
    for name in ("a.py", "b.txt"):  # so that git compares the contents, through the filters
        os.utime(folder / name, (1, 1))
    return folder


def read_everything(folder: Path) -> None:
    """Every call of git in the project."""
    environment.commit(folder)
    environment.commit(folder, "a.py")
    git.changed_files(folder)
    repository = Repository(folder)
    head = repository.resolve("HEAD")
    assert head is not None
    repository.last_before("HEAD", 4_000_000_000)
    files = repository.tree("HEAD")
    repository.config("user.email")
    list(repository.authors("HEAD"))
    repository.apply_mailmap("ada@engine.test")
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    assert Repository(inside).path == folder
    for merges in (False, True):
        assert len(list(repository.commits(merges=merges))) == 3 + merges
    with repository.blobs() as blobs:
        assert blobs.read(files[b"a.py"], 100) == b"3\n"
        with suppress(DataError):
            blobs.read(b"1" * 40, 100)


def trap(tmp_path: Path) -> tuple[Path, Callable[[], bool]]:
    """A program that leaves a mark, and whether it has done so."""
    mark = tmp_path / "mark"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> '{mark}'\nexit 1\n")
    program.chmod(0o755)
    return program, mark.exists


def configure(folder: Path, key: str, program: Path) -> None:
    for name, value in KEYS.get(key, {}).items():
        subprocess.run(["git", "config", name, value], cwd=folder, check=True)
    if key != "log.diffMerges":
        value = f"ext::{program}" if key == "remote.origin.url" else str(program)
        if key.startswith("alias"):
            value = f"!{program}"
        subprocess.run(["git", "config", key, value], cwd=folder, check=True)


@pytest.mark.parametrize("key", KEYS)
def test_no_key_runs_a_program(clone, tmp_path, key) -> None:
    program, ran = trap(tmp_path)
    configure(clone, key, program)
    read_everything(clone)
    assert not ran()
    if key in CONTROLS:
        environ = {**os.environ, "GIT_ALLOW_PROTOCOL": "ext:file", "GIT_PAGER": "cat"}
        subprocess.run(["git", *CONTROLS[key]], cwd=clone, check=False, capture_output=True, env=environ)
        assert ran(), "the same configuration runs the program with an ordinary command"


@pytest.mark.parametrize("place", ["hooks", "hooksPath"])
def test_no_hook_runs(clone, tmp_path, place) -> None:
    program, ran = trap(tmp_path)
    folder = clone / ".git" / "hooks"
    if place == "hooksPath":
        folder = tmp_path / "others"
        folder.mkdir()
        subprocess.run(["git", "config", "core.hooksPath", str(folder)], cwd=clone, check=True)
    folder.mkdir(exist_ok=True)
    for hook in ("post-index-change", "pre-auto-gc", "reference-transaction", "post-checkout"):
        (folder / hook).unlink(missing_ok=True)
        (folder / hook).symlink_to(program)
    read_everything(clone)
    assert not ran()
    subprocess.run(["git", "status"], cwd=clone, check=True, capture_output=True)
    assert ran(), "the same hooks run with an ordinary command"


def test_a_hook_of_another_repository_does_not_redirect(clone, tmp_path, monkeypatch) -> None:
    head = environment.commit(clone)
    subprocess.run(["git", "init", "-q", tmp_path / "other"], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert environment.commit(clone) == head


def test_changed_files(clone) -> None:
    assert git.changed_files(clone) == []
    (clone / "a.py").write_text("4\n")
    (clone / "new.py").write_text("4\n")
    assert git.changed_files(clone) == ["a.py"]
    assert environment.commit(clone).endswith("-dirty")
    assert git.changed_files(clone.parent) is None
