"""Git repositories for tests, made with ``git fast-import``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from graphrec.data import Dataset
from graphrec.data.git import read_histories
from graphrec.data.git.people import People

ADA = ("Ada Lovelace", "ada@engine.test")
BOB = ("Bob Babbage", "bob@engine.test")
DAY = 86_400
START = 1_500_000_000


class History:
    """Commits to be written to a new bare repository.

    Args:
        path: folder that :meth:`write` makes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._marks, self._parts, self._tips = path, 0, [], {}

    def commit(
        self,
        files: dict[str | bytes, str | bytes | None] | None = None,
        *,
        who: tuple[str, str] = ADA,
        by: tuple[str, str] | None = None,
        time: int | None = None,
        committed: int | None = None,
        branch: str = "main",
        merge: tuple[str, ...] = (),
        rename: dict[str, str] | None = None,
        message: str = "work",
        mode: str = "100644",
    ) -> None:
        """Adds a commit to a branch.

        Args:
            files: content by path; None deletes.
            who: author's name and address.
            by: the committer's; default: the author's.
            time: seconds since the epoch; default: a day after the last commit.
            committed: by the committer's clock; default: ``time``.
            branch: which goes on; a new one starts at ``main``.
            merge: branches that are merged.
            rename: new path by old.
            message: of the commit.
            mode: of the files; ``160000`` with an id as content is a submodule.
        """
        self._marks += 1
        time = START + self._marks * DAY if time is None else time
        stamp = time if committed is None else committed
        lines = [b"commit refs/heads/%s" % branch.encode(), b"mark :%d" % self._marks]
        for role, (name, email), at in (("author", who, time), ("committer", by or who, stamp)):
            lines.append(b"%s %s <%s> %d +0000" % (role.encode(), name.encode(), email.encode(), at))
        text = message.encode()
        lines.append(b"data %d\n%s" % (len(text), text))
        parent = self._tips.get(branch, self._tips.get("main"))
        if parent is not None:
            lines.append(b"from :%d" % parent)
        lines += [b"merge :%d" % self._tips[other] for other in merge]
        for old, new in (rename or {}).items():
            lines.append(b"R %s %s" % (old.encode(), new.encode()))
        for path, content in (files or {}).items():
            raw = path if isinstance(path, bytes) else path.encode()
            quoted = b'"' + b"".join(b"\\%03o" % b for b in raw) + b'"'
            if content is None:
                lines.append(b"D " + quoted)
            elif mode == "160000":
                assert isinstance(content, str)
                lines.append(b"M 160000 %s %s" % (content.encode(), quoted))
            else:
                data = content if isinstance(content, bytes) else content.encode()
                lines.append(b"M %s inline %s\ndata %d\n%s" % (mode.encode(), quoted, len(data), data))
        self._parts.append(b"\n".join(lines) + b"\n")
        self._tips[branch] = self._marks

    def write(self) -> Path:
        """Makes the repository; its HEAD is ``main``."""
        git("init", "-q", "--bare", "-b", "main", str(self.path))
        git("-C", str(self.path), "fast-import", "--quiet", stdin=b"\n".join(self._parts))
        return self.path


def git(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Runs git, and what it prints."""
    return subprocess.run(["git", *arguments], input=stdin, check=True, capture_output=True).stdout


def read(path: Path, **options) -> Dataset:
    return read_histories(
        [path], **{"split": {"name": "chronological", "test": 0.0, "valid": 0.0}, **options}
    )


def worked(data: Dataset) -> dict[str, set[str]]:
    """Who (the first letters of the id) worked on which file."""
    found: dict[str, set[str]] = {}
    for split in (data.train, data.valid, data.test):
        for user, item in zip(split.users, split.items, strict=True):
            found.setdefault(str(data.items[int(item)]).partition("/")[2], set()).add(
                str(data.users[int(user)])
            )
    return found


def who(data: Dataset, email: str, salt: str = "") -> str:
    """The id of the person who has an address."""
    addresses = data.nodes["address"]
    row, user = data.relations["address", "of", "user"]
    at = addresses.index(People(salt).lookup(email))
    return str(data.users[int(user[np.flatnonzero(row == at)[0]])])
