"""What one history says about who worked on which file, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from graphrec.core.config import Config
from graphrec.core.errors import DataError
from graphrec.data.git.log import Change, Commit, Person, Repository
from graphrec.data.git.paths import DOCS, SOURCE, TESTS, VENDORED, is_source
from graphrec.data.git.people import People, is_bot

BEHAVIORS = ("authored", "committed", "co_authored", "tested", "documented")
"""What git knows that somebody did in a repository: wrote a commit, put in another's, is named in a trailer
of one, touched tests, touched documentation."""


class MiningConfig(Config):
    """What counts as a contribution."""

    revision: str = "HEAD"
    """Whose history."""
    merges: bool = False
    """Merge commits count, by what they changed against their first parent."""
    max_files: int | None = Field(50, ge=1)
    """Commits that touch more files are left out: they reformat, move, or import."""
    bots: bool = False
    """Programs count."""
    vendored: bool = False
    """Files count that others or programs wrote, by their paths."""
    extensions: tuple[str, ...] | None = tuple(sorted(SOURCE))
    """Of the files that count; None takes all."""
    co_authors: bool = False
    """Whoever a Co-authored-by trailer names contributed to the files of the commit, too."""
    clock: Literal["author", "commit"] = "author"
    """Whose time; never later than the commit's."""
    when: Literal["first", "last"] = "first"
    """Which of a person's contributions to a file says when."""

    @property
    def which(self) -> Callable[[int, int], int]:
        """Chooses between the times of two contributions."""
        return min if self.when == "first" else max


@dataclass
class Mined:
    """What a history says.

    Attributes:
        name: of the repository.
        head: the commit whose history was read, in hex; None where nothing was committed.
        tree: the commit whose files these are; None where the cut is before the first.
        files: their paths, sorted.
        times: of the contribution by ``person << 32 | file``, a person as :meth:`People.register` has it, in
            seconds.
        behaviors: time of the first by behavior and person.
        counts: how much was read, and what was left out.
    """

    name: str
    head: str | None = None
    tree: str | None = None
    files: list[bytes] = field(default_factory=list)
    times: dict[int, int] = field(default_factory=dict)
    behaviors: dict[tuple[str, int], int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


class Earlier:
    """Which file a path was, going back from the commit whose files these are.

    What was done under a name that is none of them, as on a branch that parted before a renaming, waits until
    the renaming comes up.
    """

    def __init__(self, files: dict[bytes, int], which: Callable[[int, int], int] = min) -> None:
        self.now, self._which = dict(files), which
        self._waiting: dict[bytes, dict[int, int]] = {}

    def touched(self, path: bytes, people: list[int], time: int) -> int | None:
        """The file that a path is; who touched it waits where it is none yet."""
        found = self.now.get(path)
        if found is None:
            waiting = self._waiting.setdefault(path, {})
            for person in people:
                waiting[person] = self._which(waiting.get(person, time), time)
        return found

    def before(self, change: Change) -> dict[int, int]:
        """Goes behind a change; returns who waited for the file that it renamed, and since when."""
        if change.kind == "A":
            self._waiting.pop(change.path, None)  # what bore the name before is another file
        if change.before is None or change.kind != "R":
            return {}
        file = self.now.pop(change.path, None)
        if file is None:
            return {}
        self.now[change.before] = file
        return self._waiting.pop(change.before, {})


class Later:
    """Which file a path is, going on from the commit whose files these are."""

    def __init__(self, files: dict[bytes, int]) -> None:
        self.now = dict(files)
        self._gone: dict[bytes, int] = {}

    def touched(self, path: bytes) -> int | None:
        """The file that a path is, also by the name it had; None for one that came later."""
        return self.now.get(path, self._gone.get(path))

    def after(self, change: Change) -> None:
        """Goes past a change."""
        if change.kind == "A":
            self._gone.pop(change.path, None)
        if change.kind == "R" and change.before is not None:
            file = self.now.pop(change.before, self._gone.get(change.before))
            if file is not None:
                self.now[change.path] = self._gone[change.before] = file


def mine(
    repository: Repository, name: str, people: People, config: MiningConfig, cut: int | None = None
) -> Mined:
    """Reads a history once.

    Files are those of the last commit before the cut (without one: of the revision), under the paths they
    have there. What was done to them under other names counts, as far as the renamings left the contents
    alone; files that came later do not.

    Args:
        repository: the clone.
        name: what it is called; people with one full name are put together within it.
        people: takes everybody in.
        config: what counts.
        cut: seconds since the epoch; None: there is none.

    Raises:
        DataError: git breaks off, or there is no such revision.
    """
    if repository.shallow:
        raise DataError(
            f"{repository.path}: is a shallow clone, its history is cut off; run git fetch --unshallow in it"
        )
    mined = Mined(name, repository.resolve(config.revision))
    if mined.head is None:
        return mined
    mined.tree = mined.head if cut is None else repository.at(mined.head, cut)
    if mined.tree is None:
        return mined
    paths = repository.tree(mined.tree)
    chosen = frozenset(config.extensions) if config.extensions is not None else None
    mined.files = sorted(p for p in paths if _counts(p, chosen, config.vendored))
    mined.counts["files that do not count"] = len(paths) - len(mined.files)
    reading = _Reading(mined, people, config)
    number = {path: i for i, path in enumerate(mined.files)}
    earlier = Earlier(number, config.which)
    for commit in repository.commits((mined.tree,), merges=config.merges):
        who = reading.people_of(commit)
        time = reading.time(commit)
        for change in commit.changes:
            if who:
                reading.add(earlier.touched(change.path, who, time), who, time)
            for person, since in earlier.before(change).items():
                reading.add(earlier.now[change.before or b""], [person], since)
    if mined.tree != mined.head:
        later = Later(number)
        for commit in repository.commits(
            (f"{mined.tree}..{mined.head}",), merges=config.merges, oldest_first=True
        ):
            who = reading.people_of(commit)
            for change in commit.changes:
                later.after(change)
                if who:
                    reading.add(later.touched(change.path), who, reading.time(commit))
    people.forget()
    return mined


class _Reading:
    """Takes commits in."""

    def __init__(self, mined: Mined, people: People, config: MiningConfig) -> None:
        self.mined, self.people, self.config = mined, people, config

    def time(self, commit: Commit) -> int:
        """When a commit was made."""
        by_author = self.config.clock == "author"
        return min(commit.authored, commit.committed) if by_author else commit.committed

    def people_of(self, commit: Commit) -> list[int]:
        """Who contributed to the files of a commit; nobody where it does not count."""
        counts, config, time = self.mined.counts, self.config, self.time(commit)
        counts["commits"] += 1
        if config.max_files is not None and len(commit.changes) > config.max_files:
            counts["commits of too many files"] += 1
            return []
        author, committer = self._person(commit.author), self._person(commit.committer)
        if author is None:
            counts["commits of programs"] += 1
            return []
        others = [p for person in commit.co_authors if (p := self._person(person)) is not None]
        self._did("authored", [author], time)
        if committer is not None and committer != author:
            self._did("committed", [committer], time)
        self._did("co_authored", others, time)
        if any(TESTS.search(change.path) for change in commit.changes):
            self._did("tested", [author], time)
        if any(DOCS.search(change.path) for change in commit.changes):
            self._did("documented", [author], time)
        return [author, *(others if config.co_authors else [])]

    def add(self, file: int | None, who: list[int], time: int) -> None:
        """Somebody touched a file."""
        if file is None:
            return
        times = self.mined.times
        for person in who:
            key = person << 32 | file
            known = times.get(key)
            times[key] = time if known is None else self.config.which(known, time)

    def _person(self, person: Person) -> int | None:
        if not self.config.bots and is_bot(person):
            return None
        return self.people.register(person, self.mined.name)

    def _did(self, behavior: str, who: list[int], time: int) -> None:
        for person in who:
            key = (behavior, person)
            self.mined.behaviors[key] = min(self.mined.behaviors.get(key, time), time)


def _counts(path: bytes, extensions: frozenset[str] | None, vendored: bool) -> bool:
    return (extensions is None or is_source(path, extensions)) and (vendored or not VENDORED.search(path))
