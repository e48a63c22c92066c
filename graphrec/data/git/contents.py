"""What files said at the time that a split allows to know."""

from __future__ import annotations

from collections.abc import Mapping

from graphrec.data.git.log import Repository
from graphrec.data.git.mining import Earlier, Mined

LIMIT = 1 << 16
"""Bytes of a file that are read; what comes after says little more."""
PROBED = 8000  # bytes in which git, too, looks for a NUL to call a file binary


def contents(
    repository: Repository, mined: Mined, before: Mapping[int, int], merges: bool, limit: int = LIMIT
) -> list[str | None]:
    """The text of each file of ``mined``, None for what is no text or was not there yet.

    Args:
        repository: the clone.
        mined: its files and their tree.
        before: by file, the time before which its content is taken: that of the first contribution that is
            held out. Other files are taken from the tree.
        merges: whether merge commits count, too.
        limit: bytes of a file that are read.

    Raises:
        DataError: a content is missing, as in a partial clone.
    """
    if mined.tree is None:
        return []
    tree = repository.tree(mined.tree)
    blobs: list[bytes | None] = [tree[path] for path in mined.files]
    wanted = dict(before)
    if wanted:
        for file in wanted:
            blobs[file] = None
        earlier = Earlier({path: i for i, path in enumerate(mined.files)})
        for commit in repository.commits((mined.tree,), merges=merges):
            for change in commit.changes:
                known = earlier.now.get(change.path)
                until = None if known is None else wanted.get(known)
                if (
                    known is not None
                    and until is not None
                    and change.kind != "D"
                    and commit.committed < until
                ):
                    blobs[known] = change.blob
                    del wanted[known]
                earlier.before(change)
            if not wanted:
                break
    with repository.blobs() as reader:
        return [None if blob is None else _text(reader.read(blob, limit)) for blob in blobs]


def _text(content: bytes) -> str | None:
    if b"\0" in content[:PROBED]:
        return None
    return content.decode("utf-8", "replace") or None
