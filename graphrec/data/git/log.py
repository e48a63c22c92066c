"""One repository's commits as git tells them, streamed: who, when, which files.

``git log`` is read through a pipe, NUL by NUL, so that memory does not grow with the history and no name can
be mistaken for another. Names and e-mails are bytes here and go no further than
:mod:`graphrec.data.git.people`, which hashes them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from graphrec.core.errors import DataError, MissingDependencyError

START = b"\x01"
CHUNK = 1 << 20
FIELDS = ("%H", "%P", "%at", "%ct", "%aN", "%aE", "%cN", "%cE")
TRAILER = "%(trailers:key=Co-authored-by,valueonly=true,unfold=true,separator=%x02)"
FORMAT = "format:%x01" + "%x00".join((*FIELDS, TRAILER)) + "%x00"
ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",  # a missing blob is an error, not a download
    "GIT_NO_REPLACE_OBJECTS": "1",
}
REGULAR = (b"100644", b"100755", b"100664")
"""Modes of files; others are links and submodules."""


class Person(NamedTuple):
    """Who a commit names, as the commit (after ``.mailmap``) names it."""

    name: bytes
    email: bytes


class Change(NamedTuple):
    """What a commit did to one file.

    Attributes:
        kind: ``A`` added, ``D`` deleted, ``M`` modified, ``R`` renamed without a change, ``T`` became
            something else, such as a link.
        path: where the file is afterwards (deleted: was).
        before: where it was, of a renamed one.
        mode: its mode afterwards, such as ``100644``.
        blob: id of its content afterwards, in hex.
    """

    kind: str
    path: bytes
    before: bytes | None
    mode: bytes
    blob: bytes


class Commit(NamedTuple):
    """One commit.

    Attributes:
        id: in hex.
        parents: how many it has.
        authored: seconds since the epoch, by the author's clock.
        committed: by the committer's.
        author: who wrote it.
        committer: who put it in.
        co_authors: who else wrote it, by its trailers.
        changes: against the first parent.
    """

    id: str
    parents: int
    authored: int
    committed: int
    author: Person
    committer: Person
    co_authors: tuple[Person, ...]
    changes: tuple[Change, ...]


class Repository:
    """A local clone, bare or not.

    Args:
        path: its folder.

    Raises:
        DataError: no repository there, or git refuses it; says what git says.
        MissingDependencyError: git is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if shutil.which("git") is None:
            raise MissingDependencyError("git is not installed; install it to read histories")
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; expected a git clone")
        found = self.run("rev-parse", "--is-shallow-repository", "--show-prefix").split(b"\n")
        if found[1:2] not in ([], [b""]):
            raise DataError(
                f"{self.path}: lies inside a git clone, at {found[1].decode('utf-8', 'replace')!r}; expected "
                "its top folder"
            )
        self.shallow = found[0] == b"true"

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """What a git command prints.

        Raises:
            DataError: it failed; says what git says.
        """
        done = subprocess.run(
            self._command(arguments), input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True, env={**os.environ, **ENVIRONMENT}, check=False,
        )  # fmt: skip
        if done.returncode:
            raise self._failed(arguments[0], done.returncode, done.stderr)
        return done.stdout

    def resolve(self, revision: str = "HEAD") -> str | None:
        """The commit that a revision names, in hex; None where nothing was committed yet.

        Raises:
            DataError: there is no such revision.
        """
        try:
            return (
                self.run("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
                .decode()
                .strip()
            )
        except DataError as cause:
            if revision == "HEAD" and not self.run("for-each-ref", "--count=1").strip():
                return None
            raise DataError(
                f"{self.path}: has no revision {revision!r}; expected a branch, a tag or a commit"
            ) from cause

    def at(self, revision: str, time: int) -> str | None:
        """The last commit of a history that was committed before a time, in hex; None if none was.

        Args:
            revision: whose history, by first parents.
            time: seconds since the epoch.
        """
        if time < 1:
            return None
        found = self.run(
            "log", "-1", "--first-parent", "--format=%H", f"--until=@{time - 1} +0000", "--end-of-options",
            revision, "--",
        )  # fmt: skip
        return found.decode().strip() or None

    def tree(self, revision: str) -> dict[bytes, bytes]:
        """Files of a commit: path to blob id, in hex; without links and submodules."""
        listed = self.run("ls-tree", "-r", "-z", "--full-tree", "--end-of-options", revision)
        found = {}
        for entry in filter(None, listed.split(b"\0")):
            head, _, path = entry.partition(b"\t")
            mode, kind, blob = head.split(b" ")[:3]
            if kind == b"blob" and mode in REGULAR:
                found[path] = blob
        return found

    def commits(
        self, revisions: Sequence[str] = ("HEAD",), *, merges: bool = False, oldest_first: bool = False
    ) -> Iterator[Commit]:
        """The commits of a history, newest first, parents never before children.

        Args:
            revisions: as ``git log`` takes them, such as ``("abc..def",)``.
            merges: also those with several parents, with what they changed against the first.
            oldest_first: the other way round; git then holds the list of ids in memory.

        Raises:
            DataError: git broke off, as where an object is missing; names the last commit that was read.
        """
        options = ["--diff-merges=first-parent"] if merges else ["--no-merges"]
        if oldest_first:
            options.append("--reverse")
        command = (
            "log", "--topo-order", "--raw", "-z", "--no-abbrev", "--find-renames=100%", "-l0", "--root",
            f"--format={FORMAT}", "--encoding=UTF-8", "--no-show-signature", "--no-ext-diff", "--no-textconv",
            "-O/dev/null", "--no-color", "--no-notes", "--no-decorate", "--use-mailmap",
            "--ignore-submodules=none", *options, "--end-of-options", *revisions, "--",
        )  # fmt: skip
        last: str | None = None
        with self._reading(command) as pipe:
            for commit in _parsed(pipe.stdout, self.path):
                last = commit.id
                yield commit
            pipe.ended(last)

    @contextmanager
    def blobs(self) -> Iterator[Blobs]:
        """Contents of files, one after the other, by one process of git."""
        with self._reading(("cat-file", "--batch"), stdin=True) as pipe:
            yield Blobs(self, pipe)
            pipe.ended(None)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        # Not the user's taste in diffs, nor programs that a clone's own configuration names.
        given = ("diff.renames=true", "core.quotePath=false", "log.showRoot=true", "core.fsmonitor=false",
                 "core.hooksPath=/dev/null", "diff.ignoreSubmodules=none")  # fmt: skip
        return ["git", "-C", str(self.path), "--no-pager", *(p for g in given for p in ("-c", g)), *arguments]

    @contextmanager
    def _reading(self, arguments: Sequence[str], stdin: bool = False) -> Iterator[_Pipe]:
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self._command(arguments), stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **ENVIRONMENT},
            )  # fmt: skip
            try:
                yield _Pipe(self, arguments[0], process, errors)
            finally:
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()
                if process.poll() is None:
                    process.kill()
                process.wait()

    def _failed(self, command: str, status: int, errors: bytes, last: str | None = None) -> DataError:
        said = " ".join(errors.decode("utf-8", "replace").split())[-400:] or "nothing"
        after = "" if last is None else f" after commit {last}"
        return DataError(
            f"{self.path}: git {command} ended with status {status}{after} and said: {said}. Nothing was "
            "taken from it; make a whole clone (git fsck says what is missing) and try again"
        )


class _Pipe:
    """A running git command."""

    def __init__(
        self, repository: Repository, command: str, process: subprocess.Popen[bytes], errors: IO[bytes]
    ) -> None:
        assert process.stdout is not None
        self.repository, self.command, self.process, self.errors = repository, command, process, errors
        self.stdout, self.stdin = process.stdout, process.stdin

    def ended(self, last: str | None) -> None:
        """Makes sure that it ended well, as what it printed is short otherwise."""
        if self.stdin is not None:
            self.stdin.close()
        if status := self.process.wait():
            raise self.failed(status, last)

    def failed(self, status: int, last: str | None) -> DataError:
        """What to raise for an exit status."""
        self.errors.seek(0)
        return self.repository._failed(self.command, status, self.errors.read(), last)


class Blobs:
    """Reads contents by blob id; see :meth:`Repository.blobs`."""

    def __init__(self, repository: Repository, pipe: _Pipe) -> None:
        self.repository, self._pipe = repository, pipe

    def read(self, blob: bytes, limit: int) -> bytes:
        """A content, cut after ``limit`` bytes.

        Args:
            blob: its id, in hex.
            limit: bytes that are kept.

        Raises:
            DataError: it is missing.
        """
        pipe = self._pipe
        assert pipe.stdin is not None
        pipe.stdin.write(blob + b"\n")
        pipe.stdin.flush()
        head = pipe.stdout.readline().split()
        if len(head) != 3 or head[1] != b"blob":
            said = b" ".join(head).decode("ascii", "replace") or "nothing"
            raise DataError(
                f"{self.repository.path}: the content {blob.decode('ascii', 'replace')} cannot be read (git "
                f"cat-file says: {said}); make a whole clone and try again"
            )
        size, kept, rest = int(head[2]), [], int(head[2]) + 1  # a line feed follows
        while rest:
            chunk = pipe.stdout.read(min(CHUNK, rest))
            if not chunk:
                raise pipe.failed(pipe.process.wait(), None)
            have = size + 1 - rest
            if have < min(limit, size):
                kept.append(chunk[: min(limit, size) - have])
            rest -= len(chunk)
        return b"".join(kept)


def _tokens(stream: IO[bytes]) -> Iterator[bytes]:
    """What stands between NULs."""
    rest = b""
    while chunk := stream.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest


def _parsed(stream: IO[bytes], path: Path) -> Iterator[Commit]:
    tokens = _tokens(stream)
    token = next(tokens, None)
    while token is not None:
        # Between commits git puts another NUL; of an empty commit nothing follows its head.
        if not token:
            token = next(tokens, None)
            continue
        if not token.startswith(START):
            raise DataError(f"{path}: git log printed {token[:40]!r}; expected the beginning of a commit")
        head = [token[1:], *(next(tokens, b"") for _ in FIELDS)]
        changes = []
        token = next(tokens, None)
        while token is not None and token.lstrip(b"\n").startswith(b":"):
            old_mode, mode, _, blob, kind = token.lstrip(b"\n")[1:].split(b" ")
            first = next(tokens, b"")
            letter = chr(kind[0])
            if letter in "RC":
                changes.append(Change(letter, next(tokens, b""), first, mode, blob))
            else:
                changes.append(Change(letter, first, None, old_mode if letter == "D" else mode, blob))
            token = next(tokens, None)
        yield _commit(head, tuple(changes))


def _commit(head: list[bytes], changes: tuple[Change, ...]) -> Commit:
    id_, parents, authored, committed, name, email, by, by_email, others = head
    co_authors = tuple(found for line in others.split(b"\x02") if (found := _person(line)) is not None)
    return Commit(
        id_.decode("ascii"), len(parents.split()), int(authored or 0), int(committed or 0),
        Person(name, email), Person(by, by_email), co_authors, changes,
    )  # fmt: skip


def _person(line: bytes) -> Person | None:
    """``Name <email>``, as trailers have it; None for anything else."""
    name, opened, rest = line.strip().partition(b"<")
    email, closed, _ = rest.partition(b">")
    return Person(name.strip(), email.strip()) if opened and closed and email.strip() else None
