"""Contents of files at the time up to which a split allows to know them."""

from __future__ import annotations

from collections.abc import Mapping

from graphrec.data.git.log import Repository
from graphrec.data.git.mining import BackwardPaths, Mined

MAX_BYTES = 1 << 16
"""Number of bytes read of a file; the rest adds little."""
BINARY_PROBE = 8000
"""Number of bytes in which a NUL byte marks a file as binary, as in git."""


def contents(
    repository: Repository, mined: Mined, before: Mapping[int, int], merges: bool, limit: int = MAX_BYTES
) -> list[str | None]:
    """The text of each file of ``mined``; None for a binary file, or one that did not exist yet.

    Args:
        repository: the clone.
        mined: its files and their snapshot.
        before: by file, the time before which its content is taken: that of the first contribution that is
            held out. Other files are taken from the snapshot.
        merges: whether merge commits count.
        limit: number of bytes read of a file.

    Raises:
        DataError: a content is missing, as in a partial clone.
    """
    if mined.snapshot is None:
        return []
    tree = repository.tree(mined.snapshot)
    blobs: list[bytes | None] = [tree[path] for path in mined.files]
    pending = dict(before)
    if pending:
        for file in pending:
            blobs[file] = None
        paths = BackwardPaths({path: i for i, path in enumerate(mined.files)})
        for commit in repository.commits((mined.snapshot,), merges=merges):
            for change in commit.changes:
                changed = paths.file_of.get(change.path)
                if (
                    changed is not None
                    and change.kind != "D"
                    and commit.commit_time < pending.get(changed, -1)
                ):
                    blobs[changed] = change.blob
                    del pending[changed]
                paths.step_back(change)
            if not pending:
                break
    with repository.blobs() as reader:
        return [None if blob is None else _decode(reader.read(blob, limit)) for blob in blobs]


def _decode(content: bytes) -> str | None:
    if b"\0" in content[:BINARY_PROBE]:
        return None
    return content.decode("utf-8", "replace") or None
