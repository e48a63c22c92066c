"""Reads a repository's commits from git as a stream: people, times, changed files.

``git log`` is read through a pipe and split at NUL bytes, so that memory does not grow with the history and
no name can be mistaken for another field. Names and e-mail addresses are bytes here and go no further than
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

from graphrec.core import git
from graphrec.core.errors import DataError, MissingDependencyError

COMMIT_MARK = b"\x01"
CHUNK_SIZE = 1 << 20
FIELDS = ("%H", "%P", "%at", "%ct", "%aN", "%aE", "%cN", "%cE")
TRAILER = "%(trailers:key=Co-authored-by,valueonly=true,unfold=true,separator=%x02)"
FORMAT = "format:%x01" + "%x00".join((*FIELDS, TRAILER)) + "%x00"
NO_REPOSITORY = "not a git repository (or any"
"""Git's message in a folder that lies in no repository."""
FILE_MODES = (b"100644", b"100755", b"100664")
"""Modes of regular files; other entries are links and submodules."""


class Person(NamedTuple):
    """Name and e-mail address in a commit, after ``.mailmap``."""

    name: bytes
    email: bytes


class Change(NamedTuple):
    """A commit's change of one file.

    Attributes:
        kind: ``A`` added, ``D`` deleted, ``M`` modified, ``R`` renamed without a change, ``T`` changed its
            type, for example to a link.
        path: path after the change (of a deleted file: before).
        old_path: path before the change, of a renamed file.
        mode: mode after the change, such as ``100644``.
        blob: id of the content after the change, in hex.
    """

    kind: str
    path: bytes
    old_path: bytes | None
    mode: bytes
    blob: bytes


class Commit(NamedTuple):
    """One commit.

    Attributes:
        id: in hex.
        parents: number of parents.
        author_time: seconds since the epoch, by the author's clock.
        commit_time: seconds since the epoch, by the committer's clock.
        author: who wrote it.
        committer: who committed it.
        co_authors: who else wrote it, by its trailers.
        changes: changes against the first parent.
    """

    id: str
    parents: int
    author_time: int
    commit_time: int
    author: Person
    committer: Person
    co_authors: tuple[Person, ...]
    changes: tuple[Change, ...]


class Repository:
    """A local clone, bare or not.

    Args:
        path: its folder, or a folder in it.

    Attributes:
        path: its top folder, absolute.
        shallow: whether its history is cut off.

    Raises:
        DataError: there is no repository, or git refuses it; the error holds git's message.
        MissingDependencyError: git is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if shutil.which("git") is None:
            raise MissingDependencyError("git is not installed; install it to read histories")
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; expected a git clone")
        try:
            shallow, _, prefix = self._run("rev-parse", "--is-shallow-repository", "--show-prefix").partition(
                b"\n"
            )
        except DataError as cause:
            if NO_REPOSITORY not in str(cause):
                raise
            raise DataError(
                f"{self.path}: not a git repository, nor is any folder above it; expected a git clone"
            ) from cause
        if prefix.strip(b"\n"):
            self.path = Path(os.fsdecode(self._run("rev-parse", "--show-toplevel").removesuffix(b"\n")))
        self.shallow = shallow == b"true"

    def resolve(self, revision: str = "HEAD") -> str | None:
        """The commit of a revision, in hex; None if the repository has no commit.

        Raises:
            DataError: there is no such revision.
        """
        try:
            output = self._run("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        except DataError as cause:
            if revision == "HEAD" and not self._run("for-each-ref", "--count=1").strip():
                return None
            raise DataError(
                f"{self.path}: has no revision {revision!r}; expected a branch, a tag or a commit"
            ) from cause
        return output.decode().strip()

    def last_before(self, revision: str, time: int) -> str | None:
        """The last commit of a history that was committed before a time, in hex; None if there is none.

        Args:
            revision: end of the history, which follows first parents.
            time: seconds since the epoch.
        """
        if time < 1:
            return None
        until = f"--until=@{time - 1} +0000"
        output = self._run(
            "log", "-1", "--first-parent", "--format=%H", until, "--end-of-options", revision, "--"
        )
        return output.decode().strip() or None

    def tree(self, revision: str) -> dict[bytes, bytes]:
        """Files of a commit, path to blob id in hex, without links and submodules."""
        output = self._run("ls-tree", "-r", "-z", "--full-tree", "--end-of-options", revision)
        blobs = {}
        for entry in filter(None, output.split(b"\0")):
            head, _, path = entry.partition(b"\t")
            mode, kind, blob = head.split(b" ")[:3]
            if kind == b"blob" and mode in FILE_MODES:
                blobs[path] = blob
        return blobs

    def config(self, name: str) -> str:
        """A value of git's configuration; empty if it is not set."""
        return self._run("config", "--default", "", "--get", name).decode("utf-8", "replace").strip()

    def authors(self, revision: str) -> Iterator[tuple[Person, Person]]:
        """The distinct authors of a history without merges, the earliest first: each after ``.mailmap``, and
        as the commit has it.
        """
        log = self._run(
            "log",
            "--use-mailmap",
            "--no-merges",
            "--encoding=UTF-8",
            "--format=%aN%x00%aE%x00%an%x00%ae",
            "--end-of-options",
            revision,
            "--",
        )
        for line in dict.fromkeys(reversed(log.split(b"\n"))):
            if line:
                name, email, written_name, written_email = line.split(b"\0")
                yield Person(name, email), Person(written_name, written_email)

    def apply_mailmap(self, address: str) -> Person | None:
        """The person of an address, or of a name and an address as in ``Ada <ada@engine.test>``, after the
        clone's ``.mailmap``; None if there is no address.
        """
        raw = os.fsencode(address.strip())
        person = _parse_person(raw if b"<" in raw else b"<" + raw + b">")
        if person is None or b"@" not in person.email or not address.isprintable():
            return None
        contact = os.fsdecode(b"%s <%s>" % person if person.name else b"<%s>" % person.email)
        return _parse_person(self._run("check-mailmap", "--", contact))

    def commits(
        self, revisions: Sequence[str] = ("HEAD",), *, merges: bool = False, oldest_first: bool = False
    ) -> Iterator[Commit]:
        """The commits of a history, newest first, no parent before its children.

        Args:
            revisions: as ``git log`` takes them, such as ``("abc..def",)``.
            merges: include merge commits, with their changes against the first parent.
            oldest_first: reverse order; git then holds the list of ids in memory.

        Raises:
            DataError: git failed, as where an object is missing; names the last commit that was read.
        """
        options = ["--diff-merges=first-parent"] if merges else ["--no-merges"]
        if oldest_first:
            options.append("--reverse")
        arguments = (
            "log", "--topo-order", "--raw", "-z", "--no-abbrev", "--find-renames=100%", "-l0", "--root",
            f"--format={FORMAT}", "--encoding=UTF-8", "--no-show-signature", "--no-ext-diff", "--no-textconv",
            "-O/dev/null", "--no-color", "--no-notes", "--no-decorate", "--use-mailmap",
            "--ignore-submodules=none", *options, "--end-of-options", *revisions, "--",
        )  # fmt: skip
        last: str | None = None
        with self._git(arguments) as pipe:
            for commit in _parse_log(pipe.stdout, self.path):
                last = commit.id
                yield commit
            pipe.finish(last)

    @contextmanager
    def blobs(self) -> Iterator[Blobs]:
        """Reads contents of files, one after the other, with one git process."""
        with self._git(("cat-file", "--batch"), writable=True) as pipe:
            yield Blobs(pipe)
            pipe.finish()

    def _run(self, *arguments: str) -> bytes:
        """The output of a git command, which must succeed."""
        with self._git(arguments) as pipe:
            output = pipe.stdout.read()
            pipe.finish()
        return output

    @contextmanager
    def _git(self, arguments: Sequence[str], writable: bool = False) -> Iterator[_Pipe]:
        """Starts a git command; no other method does."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                git.command(self.path, *arguments),
                stdin=subprocess.PIPE if writable else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=git.environment(),
            )
            try:
                yield _Pipe(self.path, arguments[0], process, errors)
            finally:
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()
                if process.poll() is None:
                    process.kill()
                process.wait()


class _Pipe:
    """A running git command; ``errors`` is the file that it writes error messages to."""

    def __init__(self, path: Path, command: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdout is not None
        self.path = path
        self.command = command
        self.process = process
        self.errors = errors
        self.stdout = process.stdout
        self.stdin = process.stdin

    def finish(self, last_commit: str | None = None) -> None:
        """Checks that the command succeeded, as its output is incomplete otherwise."""
        if self.stdin is not None:
            self.stdin.close()
        if self.process.wait():
            raise self.failure(last_commit)

    def failure(self, last_commit: str | None = None) -> DataError:
        """The error to raise for a command that failed."""
        status = self.process.wait()
        self.errors.seek(0)
        message = " ".join(self.errors.read().decode("utf-8", "replace").split())[-400:] or "nothing"
        after = "" if last_commit is None else f" after commit {last_commit}"
        return DataError(
            f"{self.path}: git {self.command} ended with status {status}{after} and said: {message}. Nothing "
            "was taken from it; make a complete clone (git fsck says what is missing) and try again"
        )


class Blobs:
    """Reads contents by blob id; see :meth:`Repository.blobs`."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    def read(self, blob: bytes, limit: int) -> bytes:
        """A content, truncated to ``limit`` bytes.

        Args:
            blob: its id, in hex.
            limit: maximum number of bytes.

        Raises:
            DataError: it is missing.
        """
        pipe = self._pipe
        assert pipe.stdin is not None
        pipe.stdin.write(blob + b"\n")
        pipe.stdin.flush()
        head = pipe.stdout.readline().split()
        if len(head) != 3 or head[1] != b"blob":
            message = b" ".join(head).decode("ascii", "replace") or "nothing"
            raise DataError(
                f"{pipe.path}: the content {blob.decode('ascii', 'replace')} cannot be read (git "
                f"cat-file says: {message}); make a complete clone and try again"
            )
        size = int(head[2])
        missing = size + 1  # a line feed follows
        chunks = []
        while missing:
            chunk = pipe.stdout.read(min(CHUNK_SIZE, missing))
            if not chunk:
                raise pipe.failure()
            position = size + 1 - missing
            if position < min(limit, size):
                chunks.append(chunk[: min(limit, size) - position])
            missing -= len(chunk)
        return b"".join(chunks)


def _tokens(stream: IO[bytes]) -> Iterator[bytes]:
    """The fields of a stream, which are separated by NUL bytes."""
    incomplete = b""
    while chunk := stream.read(CHUNK_SIZE):
        *complete, incomplete = (incomplete + chunk).split(b"\0")
        yield from complete
    if incomplete:
        yield incomplete


def _parse_log(stream: IO[bytes], path: Path) -> Iterator[Commit]:
    tokens = _tokens(stream)
    token = next(tokens, None)
    while token is not None:
        # Git writes another NUL between commits; nothing follows the head of an empty commit.
        if not token:
            token = next(tokens, None)
            continue
        if not token.startswith(COMMIT_MARK):
            raise DataError(f"{path}: git log printed {token[:40]!r}; expected the beginning of a commit")
        head = [token[1:], *(next(tokens, b"") for _ in FIELDS)]
        changes = []
        token = next(tokens, None)
        while token is not None and token.lstrip(b"\n").startswith(b":"):
            old_mode, mode, _, blob, status = token.lstrip(b"\n")[1:].split(b" ")
            first_path = next(tokens, b"")
            kind = chr(status[0])
            if kind in "RC":
                changes.append(Change(kind, next(tokens, b""), first_path, mode, blob))
            else:
                changes.append(Change(kind, first_path, None, old_mode if kind == "D" else mode, blob))
            token = next(tokens, None)
        yield _parse_commit(head, tuple(changes))


def _parse_commit(head: list[bytes], changes: tuple[Change, ...]) -> Commit:
    id_, parents, author_time, commit_time, name, email, committer, committer_email, trailers = head
    co_authors = (_parse_person(line) for line in trailers.split(b"\x02"))
    return Commit(
        id=id_.decode("ascii"),
        parents=len(parents.split()),
        author_time=int(author_time or 0),
        commit_time=int(commit_time or 0),
        author=Person(name, email),
        committer=Person(committer, committer_email),
        co_authors=tuple(person for person in co_authors if person is not None),
        changes=changes,
    )


def _parse_person(line: bytes) -> Person | None:
    """``Name <email>``, as in trailers; None for anything else."""
    name, opening, remainder = line.strip().partition(b"<")
    email, closing, _ = remainder.partition(b">")
    return Person(name.strip(), email.strip()) if opening and closing and email.strip() else None
