"""A repository's mined history and a model trained on it, cached until the next commit."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from filelock import FileLock, Timeout

from graphrec.code.cochange import CoChangeConfig, item_neighbors, user_profiles
from graphrec.core.errors import DataError, GraphrecError, nearest
from graphrec.core.files import digest, explain_os_errors, read_json, write_json
from graphrec.core.progress import print_note
from graphrec.data.dataset import Dataset
from graphrec.data.git import MiningConfig, read_histories
from graphrec.data.git.dataset import ADDRESS, printable
from graphrec.data.git.log import Person, Repository
from graphrec.data.git.people import People
from graphrec.data.readers.git import salt
from graphrec.data.times import newest_time
from graphrec.serving import Recommender

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MANIFEST = "project.json"
"""File of a complete cache entry that records what it was computed from."""
TRAIN_ONLY = {"name": "chronological", "valid": 0.0, "test": 0.0}
"""Split without held-out contributions, as recommendations are about the future."""
SUGGESTING: tuple[str, dict[str, float]] = ("cochange", {"popular": 3.0, "half_life": 365.0})
"""Model that ranks files by default, and its options: the best before the time cuts of two collections of
histories (docs/results/git-histories.md)."""
MAX_CACHED = 3
"""Number of cached histories per repository."""
LOCK = ".lock"
HIDDEN = "."
"""Begins the names of folders that hold an entry until it is complete."""


@dataclass(frozen=True)
class Project:
    """A repository that answers questions.

    Attributes:
        path: folder of the clone.
        revision: the commit whose history was read, in hex.
        data: people and the files they worked on, with the time of the last contribution; all of it is train.
        recommender: recommender of a model trained on it.
        from_cache: whether both came from the cache.
    """

    path: Path
    revision: str
    data: Dataset
    recommender: Recommender
    from_cache: bool

    @classmethod
    def open(
        cls,
        path: str | Path = ".",
        *,
        model: str | None = None,
        model_options: Mapping[str, Any] | None = None,
        train_options: Mapping[str, Any] | None = None,
        config: MiningConfig | None = None,
        cache: str | Path | None = None,
        features: Callable[[Dataset, Path], Mapping[str, Any]] | None = None,
    ) -> Self:
        """Reads a clone's history and trains a model, or takes both from the cache.

        Args:
            path: folder of the clone, or a folder in it.
            model: a registered ranker; ``coder`` also reads file contents. None: co-change with recent
                popularity (:data:`SUGGESTING`).
            model_options: options of its ``Config``.
            train_options: options of its training.
            config: what counts as a contribution.
            cache: folder of the cache; default: the user's cache folder.
            features: extracts the features of a dataset into a folder, for models that need them.

        Raises:
            DataError: there is no clone, it is shallow, it has no commit, git fails, or the cache cannot be
                written.
            ConfigError: an unknown model or option.
        """
        from graphrec.runs import NONE, configure, train

        repository = Repository(path)
        config = (config or MiningConfig()).replace(when="last")
        revision = repository.resolve(config.revision)
        if revision is None:
            raise DataError(f"{repository.path}: no commits yet; commit something, or choose another clone")
        if model is None:
            model, defaults = SUGGESTING
            model_options = {**defaults, **(model_options or {})}
        model_class, _, _ = configure(model, model_options, train_options, 0)
        key = salt()
        manifest = {
            "path": str(repository.path),
            "revision": revision,
            "model": model_class.name,
            "model_options": dict(model_options or {}),
            "train_options": dict(train_options or {}),
            "mining": config.model_dump(mode="json"),
            "salt": blake2b(key.encode()).hexdigest(),
            "version": version("graphrec"),
        }
        parent = Path(cache or default_cache()) / digest(manifest["path"])[:16]
        folder = parent / digest(manifest)[:16]
        cached = _read_cached(folder, manifest)
        if cached is not None:
            with suppress(Timeout, OSError):  # whoever holds the lock has removed them
                if _stale_folders(parent):
                    with FileLock(parent / LOCK, timeout=0):
                        _remove_stale(parent)
            return cls(repository.path, revision, *cached, from_cache=True)

        def build(run: Path) -> None:
            modalities = model_class.modalities
            data = read_histories(
                [repository.path], config=config, split=TRAIN_ONLY, code=modalities, salt=key
            )
            tables = features(data, run.parent / "features") if modalities and features else None
            train(
                model_class.name,
                data,
                tables,
                model_options=model_options,
                train_options=train_options,
                out=run,
                select=NONE,
            )
            write_json(run / MANIFEST, manifest)

        with explain_os_errors(parent, DataError):
            parent.mkdir(parents=True, exist_ok=True)
            with _lock(parent):
                _remove_stale(parent)
                cached = _read_cached(folder, manifest)  # another process may have built it in the meantime
                if cached is None:
                    _publish(folder, build)
                    _remove_old(parent, folder)
                data, recommender = cached or _load(folder)
        return cls(repository.path, revision, data, recommender, from_cache=cached is not None)

    @property
    def name(self) -> str:
        """The repository's name, with which item ids begin."""
        return str(self.data.nodes["repository"].ids[0])

    @cached_property
    def newest_time(self) -> int:
        """Time of the newest contribution, in seconds, from which the age of the others is counted; see
        :func:`graphrec.data.times.newest_time`.
        """
        return int(newest_time(self.data.train.seconds))

    @cached_property
    def profiles(self) -> csr_matrix:
        """Files of each person, weighted by recency (co-change, Eq. 4)."""
        return user_profiles(self.data.train, CoChangeConfig())

    @cached_property
    def neighbors(self) -> csr_matrix:
        """Row j: files that are changed together with file j (co-change, Eq. 3)."""
        return item_neighbors(self.data.train, CoChangeConfig())

    @cached_property
    def user_names(self) -> dict[int, str]:
        """Names of people, read from the clone and never stored."""
        return {user: person.name.decode("utf-8", "replace") for user, person, _ in self._authors}

    def knows(self, address: str) -> bool:
        """Whether somebody with this address, login or name contributed."""
        try:
            self.find_user(address)
        except DataError:
            return False
        return True

    def find_user(self, who: str) -> int:
        """The user of an address, a login or a name, after ``.mailmap`` or as a commit has it.

        Raises:
            DataError: there is no such contributor; the error names the nearest.
        """
        people = People(salt())
        person = Repository(self.path).apply_mailmap(who)
        hashes = [] if person is None else people.hashes(person, self.name)
        for hash_ in (*hashes, people.lookup(who)):
            if hash_ in self._users:
                return self._users[hash_]
        wanted = who.strip().casefold()
        matches = {user for user, name in self.user_names.items() if name.casefold() == wanted}
        if not matches:
            matches = {
                user
                for user, _, written in self._authors
                if wanted in [part.decode("utf-8", "replace").casefold() for part in written]
            }
        if len(matches) != 1:
            raise DataError(
                f"{self.path}: no contribution by {who!r} to files that count, up to {self.revision[:12]}; "
                f"expected an address or a name as in git log.{nearest(who, self.user_names.values())}"
            )
        return matches.pop()

    def most_active(self, n: int) -> list[str]:
        """Names of the people who worked on most files, at most ``n``."""
        users = np.argsort(-self.data.train.user_degree, kind="stable")[:n]
        return [self.user_names.get(int(user), str(self.data.users[int(user)])) for user in users]

    def path_of(self, item: object) -> str:
        """The path of an item, relative to the top of the repository."""
        return str(item).removeprefix(f"{self.name}/")

    def files(self, path: str, nearby: bool = False) -> np.ndarray:
        """Files at or under a path of the repository, as item indices ``(n,)``.

        Args:
            path: relative to the top of the repository.
            nearby: for a file that nobody worked on, such as a new one, take the files of its folder.

        Raises:
            DataError: there are none; the error names the nearest path.
        """
        target = printable(os.fsencode(path.strip())).strip("/").removeprefix("./") if path.strip("/") else ""
        known = [self.path_of(item) for item in self.data.items.ids]
        if target in ("", "."):
            return np.arange(len(known))
        matches = [i for i, item in enumerate(known) if item == target or item.startswith(f"{target}/")]
        if not matches and nearby and "/" in target:
            return self.files(target.rpartition("/")[0], nearby=True)
        if not matches:
            folders = (self.path_of(d).rstrip("/") for d in self.data.nodes["directory"].ids)
            raise DataError(
                f"{self.path}: {path} is no file or folder that anybody worked on, up to "
                f"{self.revision[:12]}; paths are relative to the top of the repository."
                f"{nearest(target, {*known, *folders})}"
            )
        return np.array(matches)

    @cached_property
    def _authors(self) -> list[tuple[int, Person, Person]]:
        """Users with their names and addresses, after ``.mailmap`` and as commits have them, the earliest
        first.
        """
        people = People(salt())
        return [
            (self._users[hash_], person, written)
            for person, written in Repository(self.path).authors(self.revision)
            for hash_ in people.hashes(person, self.name)
            if hash_ in self._users
        ]

    @cached_property
    def _users(self) -> dict[str, int]:
        addresses = self.data.nodes["address"].ids
        return {str(addresses[int(a)]): int(user) for a, user in self.data.relations[ADDRESS].T}


def default_cache() -> Path:
    """The cache folder of the user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("graphrec", appauthor=False)) / "code"


def _load(folder: Path) -> tuple[Dataset, Recommender]:
    return Dataset.load(folder / "dataset"), Recommender.load(folder / "recommender")


def _read_cached(folder: Path, manifest: Mapping[str, Any]) -> tuple[Dataset, Recommender] | None:
    """A cache entry, marked as used; None if it is missing, damaged, or of another manifest."""
    try:
        entry = _load(folder) if read_json(folder / MANIFEST) == manifest else None
    except (GraphrecError, OSError):
        return None
    with suppress(OSError):  # a cache that may only be read
        os.utime(folder)
    return entry


@contextmanager
def _lock(parent: Path) -> Iterator[None]:
    """Holds the lock that everybody takes who changes the entries of a repository, and waits for it."""
    lock = FileLock(parent / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print_note(f"waiting for another process that reads this history (its lock: {parent / LOCK})")
        lock.acquire()
    except NotImplementedError as cause:
        raise DataError(
            f"{parent}: its file system has no locks; choose a folder on another one for the cache (--cache)"
        ) from cause
    try:
        yield
    finally:
        lock.release()


def _publish(folder: Path, build: Callable[[Path], None]) -> None:
    """Puts an entry in the place of a missing or damaged one; the lock is held.

    Args:
        folder: the entry; it appears complete, by renaming.
        build: writes it into a new folder.
    """
    with tempfile.TemporaryDirectory(prefix=HIDDEN, dir=folder.parent) as temporary:
        run = Path(temporary) / "run"
        build(run)
        if folder.exists():
            os.replace(folder, Path(temporary) / "former")
        os.replace(run, folder)


def _stale_folders(parent: Path) -> list[Path]:
    """Hidden folders, and entries without a manifest; what is not left behind by a killed process is being
    written by one that holds the lock.
    """
    folders = [path for path in parent.iterdir() if path.is_dir()]
    return [path for path in folders if path.name.startswith(HIDDEN) or not (path / MANIFEST).is_file()]


def _remove_stale(parent: Path) -> None:
    """Removes what killed processes left behind; the lock is held."""
    for path in _stale_folders(parent):
        shutil.rmtree(path, ignore_errors=True)


def _remove_old(parent: Path, newest: Path) -> None:
    """Removes the cache entries used least recently; the lock is held."""
    entries = [path for path in parent.iterdir() if (path / MANIFEST).is_file() and path != newest]
    entries.sort(key=lambda path: path.stat().st_mtime)
    for old in entries[: max(0, len(entries) - MAX_CACHED + 1)]:
        (old / MANIFEST).unlink(missing_ok=True)  # first, so that what a killed removal leaves is recognized
        shutil.rmtree(old, ignore_errors=True)
