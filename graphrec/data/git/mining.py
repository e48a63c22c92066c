"""Mines one history for contributions of people to files, and for their behavior in the repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from graphrec.core.config import Config
from graphrec.core.errors import DataError
from graphrec.data.git.log import Change, Commit, Person, Repository
from graphrec.data.git.paths import DOCS, SOURCE, TESTS, VENDORED, is_source
from graphrec.data.git.people import People, is_bot

BEHAVIORS = ("authored", "committed", "co_authored", "tested", "documented")
"""Behavior of people in a repository that git records: they wrote a commit, committed another person's, are
named in a trailer of one, changed tests, changed documentation."""


class MiningConfig(Config):
    """What counts as a contribution."""

    revision: str = "HEAD"
    """Revision whose history is read."""
    merges: bool = False
    """Count merge commits, with their changes against the first parent."""
    max_files: int | None = Field(50, ge=1)
    """Leave out commits that change more files: they reformat, move, or import. None: no limit."""
    bots: bool = False
    """Count programs."""
    vendored: bool = False
    """Count files that other projects or programs wrote, as far as their paths show."""
    extensions: tuple[str, ...] | None = tuple(sorted(SOURCE))
    """Extensions of the files that count; None: all files."""
    co_authors: bool = False
    """Count the people in Co-authored-by trailers as contributors to the commit's files."""
    clock: Literal["author", "commit"] = "author"
    """Author time or commit time; the author time is never taken later than the commit time."""
    when: Literal["first", "last"] = "first"
    """Which of a person's contributions to a file gives the time."""

    def time_chooser(self, starts: Sequence[float] = ()) -> Callable[[int, int], int]:
        """A function that chooses between the times of two contributions of a person to a file.

        Args:
            starts: of the stretches that follow train; the last contribution is that of the earliest stretch,
                so that later ones take nothing from train.
        """
        if self.when == "first":
            return min
        return lambda *times: max(times, key=lambda time: (-sum(time >= start for start in starts), time))


@dataclass
class Mined:
    """A mined history.

    Attributes:
        name: name of the repository.
        head: the commit whose history was read, in hex; None if there is no commit.
        snapshot: the commit that ``files`` are taken from; None if the cut is before the first commit.
        files: paths, sorted.
        times: time of the contribution in seconds, by ``person << 32 | file``, with persons as numbered by
            :meth:`People.register`.
        behaviors: time of the first occurrence, by behavior and person.
        counts: how much was read, and what was left out.
    """

    name: str
    head: str | None = None
    snapshot: str | None = None
    files: list[bytes] = field(default_factory=list)
    times: dict[int, int] = field(default_factory=dict)
    behaviors: dict[tuple[str, int], int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


class BackwardPaths:
    """Maps paths to files, going back in time from the commit that the files are taken from.

    A contribution under a path that belongs to no file yet, as on a branch that was created before a
    renaming, is pending until the renaming is reached.

    Args:
        files: number of each file by its path.
        choose_time: chooses between the times of two contributions of a person.
    """

    def __init__(self, files: dict[bytes, int], choose_time: Callable[[int, int], int] = min) -> None:
        self.file_of = dict(files)
        self._choose_time = choose_time
        self._pending: dict[bytes, dict[int, int]] = {}

    def contribute(self, path: bytes, people: list[int], time: int) -> int | None:
        """The file of a path; if there is none yet, the contribution is pending."""
        file = self.file_of.get(path)
        if file is None:
            pending = self._pending.setdefault(path, {})
            for person in people:
                pending[person] = self._choose_time(pending.get(person, time), time)
        return file

    def step_back(self, change: Change) -> dict[int, int]:
        """Undoes a change; returns the pending contributions to the file that it renamed, person to time."""
        if change.kind == "A":
            self._pending.pop(change.path, None)  # an earlier file of this path is another file
        if change.old_path is None or change.kind != "R":
            return {}
        file = self.file_of.pop(change.path, None)
        if file is None:
            return {}
        self.file_of[change.old_path] = file
        return self._pending.pop(change.old_path, {})


class ForwardPaths:
    """Maps paths to files, going forward in time from the commit that the files are taken from.

    Args:
        files: number of each file by its path.
    """

    def __init__(self, files: dict[bytes, int]) -> None:
        self.file_of = dict(files)
        self._renamed: dict[bytes, int] = {}

    def get(self, path: bytes) -> int | None:
        """The file of a present or former path; None for a file that was added later."""
        return self.file_of.get(path, self._renamed.get(path))

    def step_forward(self, change: Change) -> None:
        """Applies a change."""
        if change.kind == "A":
            self._renamed.pop(change.path, None)
        if change.kind == "R" and change.old_path is not None:
            file = self.file_of.pop(change.old_path, self._renamed.get(change.old_path))
            if file is not None:
                self.file_of[change.path] = file
                self._renamed[change.old_path] = file


def mine(
    repository: Repository,
    name: str,
    people: People,
    config: MiningConfig,
    cut: int | None = None,
    choose_time: Callable[[int, int], int] | None = None,
) -> Mined:
    """Reads a history once.

    Files are those of the last commit before the cut (without a cut: of the revision), under their paths in
    that commit. Contributions under other paths count as far as git detects the renaming, which must leave
    the content unchanged; files that were added later do not count.

    Args:
        repository: the clone.
        name: its name; within a repository, people of the same full name are one person.
        people: registers all people.
        config: what counts.
        cut: seconds since the epoch; None: no cut.
        choose_time: chooses between the times of two contributions; default: by ``config.when``.

    Raises:
        DataError: git fails, or there is no such revision.
    """
    if repository.shallow:
        raise DataError(
            f"{repository.path}: is a shallow clone, its history is cut off; run git fetch --unshallow in it"
        )
    mined = Mined(name, repository.resolve(config.revision))
    if mined.head is None:
        return mined
    mined.snapshot = mined.head if cut is None else repository.last_before(mined.head, cut)
    if mined.snapshot is None:
        return mined
    tree = repository.tree(mined.snapshot)
    extensions = frozenset(config.extensions) if config.extensions is not None else None
    mined.files = sorted(path for path in tree if _counts(path, extensions, config.vendored))
    mined.counts["files that do not count"] = len(tree) - len(mined.files)
    choose_time = choose_time or config.time_chooser()
    reader = _Reader(mined, people, config, choose_time)
    number = {path: i for i, path in enumerate(mined.files)}
    backward = BackwardPaths(number, choose_time)
    for commit in repository.commits((mined.snapshot,), merges=config.merges):
        contributors = reader.contributors(commit)
        time = reader.time(commit)
        for change in commit.changes:
            if contributors:
                reader.add(backward.contribute(change.path, contributors, time), contributors, time)
            for person, pending_time in backward.step_back(change).items():
                reader.add(backward.file_of[change.old_path or b""], [person], pending_time)
    if mined.snapshot != mined.head:
        forward = ForwardPaths(number)
        revisions = (f"{mined.snapshot}..{mined.head}",)
        for commit in repository.commits(revisions, merges=config.merges, oldest_first=True):
            contributors = reader.contributors(commit)
            for change in commit.changes:
                forward.step_forward(change)
                if contributors:
                    reader.add(forward.get(change.path), contributors, reader.time(commit))
    people.forget_names()
    return mined


@dataclass
class _Reader:
    """Adds commits to a mined history."""

    mined: Mined
    people: People
    config: MiningConfig
    choose_time: Callable[[int, int], int]

    def time(self, commit: Commit) -> int:
        """Time of a commit."""
        if self.config.clock == "author":
            return min(commit.author_time, commit.commit_time)
        return commit.commit_time

    def contributors(self, commit: Commit) -> list[int]:
        """People who contributed to the files of a commit; empty if the commit does not count."""
        counts = self.mined.counts
        counts["commits"] += 1
        if self.config.max_files is not None and len(commit.changes) > self.config.max_files:
            counts["commits of too many files"] += 1
            return []
        author = self._register(commit.author)
        committer = self._register(commit.committer)
        if author is None:
            counts["commits of programs"] += 1
            return []
        co_authors = [p for person in commit.co_authors if (p := self._register(person)) is not None]
        time = self.time(commit)
        self._record("authored", [author], time)
        if committer is not None and committer != author:
            self._record("committed", [committer], time)
        self._record("co_authored", co_authors, time)
        if any(TESTS.search(change.path) for change in commit.changes):
            self._record("tested", [author], time)
        if any(DOCS.search(change.path) for change in commit.changes):
            self._record("documented", [author], time)
        return [author, *(co_authors if self.config.co_authors else [])]

    def add(self, file: int | None, contributors: list[int], time: int) -> None:
        """Adds a contribution to a file."""
        if file is None:
            return
        times = self.mined.times
        for person in contributors:
            key = person << 32 | file
            previous = times.get(key)
            times[key] = time if previous is None else self.choose_time(previous, time)

    def _register(self, person: Person) -> int | None:
        if not self.config.bots and is_bot(person):
            return None
        return self.people.register(person, self.mined.name)

    def _record(self, behavior: str, people: list[int], time: int) -> None:
        for person in people:
            key = (behavior, person)
            self.mined.behaviors[key] = min(self.mined.behaviors.get(key, time), time)


def _counts(path: bytes, extensions: frozenset[str] | None, vendored: bool) -> bool:
    return (extensions is None or is_source(path, extensions)) and (vendored or not VENDORED.search(path))
