"""A repository's history, mined and with a model trained on it, kept until something is committed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from graphrec.code.cochange import CoChangeConfig, neighbors, profiles
from graphrec.core.errors import DataError, GraphrecError, nearest
from graphrec.core.files import digest, read_json, write_json
from graphrec.data.dataset import Dataset
from graphrec.data.git import MiningConfig, read_histories
from graphrec.data.git.dataset import ADDRESS, printable
from graphrec.data.git.log import Person, Repository
from graphrec.data.git.people import People
from graphrec.data.readers.git import salt
from graphrec.serving import Recommender

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

DONE = "project.json"
ALL = {"name": "chronological", "valid": 0.0, "test": 0.0}
"""Nothing is held out: what is asked about is what comes next."""
KEPT = 3  # histories of one repository that are kept


@dataclass(frozen=True)
class Project:
    """A repository as it can be asked about.

    Attributes:
        path: of the clone.
        revision: the commit it was read at, in hex.
        data: who worked on which file, with the time of the last; all of it is train.
        recommender: of a model trained on it.
        reused: nothing had to be read or trained.
    """

    path: Path
    revision: str
    data: Dataset
    recommender: Recommender
    reused: bool

    @classmethod
    def open(
        cls,
        path: str | Path = ".",
        *,
        model: str = "cochange",
        model_options: Mapping[str, Any] | None = None,
        train_options: Mapping[str, Any] | None = None,
        config: MiningConfig | None = None,
        cache: str | Path | None = None,
        features: Callable[[Dataset, Path], Mapping[str, Any]] | None = None,
    ) -> Self:
        """Reads a clone's history and trains a model, or takes both from the cache.

        Args:
            path: of the clone.
            model: a registered ranker; ``coder`` reads the files, too.
            model_options: of its ``Config``.
            train_options: of its training.
            config: what counts as a contribution.
            cache: folder to keep things in; default: the user's cache folder.
            features: makes the features of a dataset in a folder, for models that need them.

        Raises:
            DataError: no clone there, it is shallow, nothing was committed, or git breaks off.
            ConfigError: an unknown model or option.
        """
        from graphrec.runs import NONE, configure, train

        repository = Repository(path)
        config = (config or MiningConfig()).replace(when="last")
        revision = repository.resolve(config.revision)
        if revision is None:
            raise DataError(f"{path}: nothing was committed there yet")
        made, _, _ = configure(model, model_options, train_options, 0)
        key = salt()
        about = {
            "path": str(repository.path.absolute()), "revision": revision, "model": made.name,
            "model_options": dict(model_options or {}), "train_options": dict(train_options or {}),
            "mining": config.model_dump(mode="json"), "salt": blake2b(key.encode()).hexdigest(),
            "version": version("graphrec"),
        }  # fmt: skip
        shelf = Path(cache or default_cache()) / digest(about["path"])[:16]
        folder = shelf / digest(about)[:16]
        kept = _kept(folder, about)
        if kept is None:
            shelf.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=shelf) as fresh:  # whole, or not there
                data = read_histories([path], config=config, split=ALL, code=made.modalities, salt=key)
                tables = features(data, Path(fresh) / "features") if made.modalities and features else None
                train(made.name, data, tables, model_options=model_options, train_options=train_options,
                      out=Path(fresh) / "run", select=NONE)  # fmt: skip
                write_json(Path(fresh) / "run" / DONE, about)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(Path(fresh) / "run", folder)
            _forget(shelf, folder)
        os.utime(folder)
        found = kept or (Dataset.load(folder / "dataset"), Recommender.load(folder / "recommender"))
        return cls(Path(path), revision, *found, reused=kept is not None)

    @property
    def name(self) -> str:
        """What item ids begin with."""
        return str(self.data.nodes["repository"].ids[0])

    @cached_property
    def now(self) -> int:
        """Time of the newest contribution, in seconds."""
        assert self.data.train.times is not None
        return int(self.data.train.times.max())

    @cached_property
    def taken(self) -> csr_matrix:
        """What each person worked on, most of all lately (co-change, Eq. 4)."""
        return profiles(self.data.train, CoChangeConfig())

    @cached_property
    def near(self) -> csr_matrix:
        """Row j: files that are worked on together with file j (co-change, Eq. 3)."""
        return neighbors(self.data.train, CoChangeConfig())

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of people, read from the clone and kept nowhere."""
        log = Repository(self.path).run(
            "log", "--use-mailmap", "--no-merges", "--encoding=UTF-8", "--format=%aN%x00%aE",
            "--end-of-options", self.revision, "--",
        )  # fmt: skip
        people, found = People(salt()), dict[int, str]()
        for line in dict.fromkeys(reversed(log.split(b"\n"))):  # the name that was used last stays
            name, _, email = line.partition(b"\0")
            for hash_ in people.hashes(Person(name, email), self.name):
                user = self._users.get(hash_)
                if user is not None:
                    found[user] = name.decode("utf-8", "replace")
        return found

    def person(self, who: str) -> int:
        """The user that an address, a login or a name is of.

        Raises:
            DataError: nobody of that name contributed; names the nearest.
        """
        user = self._users.get(People(salt()).lookup(who))
        if user is None:
            same = [u for u, name in self.names.items() if name.casefold() == who.strip().casefold()]
            user = same[0] if len(same) == 1 else None
        if user is None:
            raise DataError(
                f"{self.path}: no contribution by {who!r} to files that count, up to {self.revision[:12]}; "
                f"expected an address or a name as in git log.{nearest(who, self.names.values())}"
            )
        return user

    def path_of(self, item: object) -> str:
        """The path of an item, from the top of the repository."""
        return str(item).removeprefix(f"{self.name}/")

    def files(self, path: str, nearby: bool = False) -> np.ndarray:
        """Files at or under a path of the repository, as item indices ``(n,)``.

        Args:
            path: from its top.
            nearby: take the files of the folder where nobody worked on the file, as on a new one.

        Raises:
            DataError: there are none; names the nearest.
        """
        asked = printable(os.fsencode(path.strip())).strip("/").removeprefix("./") if path.strip("/") else ""
        known = [self.path_of(item) for item in self.data.items.ids]
        if asked in ("", "."):
            return np.arange(len(known))
        found = [i for i, item in enumerate(known) if item == asked or item.startswith(f"{asked}/")]
        if not found and nearby and "/" in asked:
            return self.files(asked.rpartition("/")[0], nearby=True)
        if not found:
            folders = (self.path_of(d).rstrip("/") for d in self.data.nodes["directory"].ids)
            places = {*known, *folders}
            raise DataError(
                f"{self.path}: {path} is no file or folder that anybody worked on, up to "
                f"{self.revision[:12]}; paths are from the top of the repository.{nearest(asked, places)}"
            )
        return np.array(found)

    @cached_property
    def _users(self) -> dict[str, int]:
        addresses = self.data.nodes["address"].ids
        return {str(addresses[int(a)]): int(user) for a, user in self.data.relations[ADDRESS].T}


def default_cache() -> Path:
    """Where histories are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("graphrec", appauthor=False)) / "code"


def _kept(folder: Path, about: Mapping[str, Any]) -> tuple[Dataset, Recommender] | None:
    """What the cache has; None where that is nothing, of something else, or damaged, and is made anew."""
    try:
        if read_json(folder / DONE) != about:
            return None
        return Dataset.load(folder / "dataset"), Recommender.load(folder / "recommender")
    except (GraphrecError, OSError):
        return None


def _forget(shelf: Path, newest: Path) -> None:
    """Removes what was not asked for lately; a history that is being made has no end yet and stays."""
    done = sorted((p for p in shelf.iterdir() if (p / DONE).is_file() and p != newest),
                  key=lambda p: p.stat().st_mtime)  # fmt: skip
    for old in done[: max(0, len(done) - KEPT + 1)]:
        shutil.rmtree(old, ignore_errors=True)
