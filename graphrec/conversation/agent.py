"""Who leads conversations with people; loads without the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.rules import Policy, Rule, rule
from graphrec.conversation.session import FORMAT as SESSIONS, Session
from graphrec.conversation.states import Trained
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import CheckpointError, ConfigError, DataError, nearest
from graphrec.core.files import digest, read_array, write_array
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.data.content import title

FORMAT = FileFormat("conversation")
HEAD = "conversation.json"


class ConversationalRecommender:
    """Asks and recommends. One object leads any number of conversations, from any number of threads: what
    they share is only read.

    Args:
        setting: catalog, vectors and rules.
        policy: decides between asking and recommending: a rule, or a trained one.
        users: external ids.
        items: external ids.
        history: what users are known to like.
        titles: by item id.
        images: paths of pictures by item id, relative to ``picture_root``.
        picture_root: their folder, if there is one.
        name: the policy's, as :func:`~graphrec.conversation.rules.rule` reads it; None for a trained one.
    """

    def __init__(
        self,
        setting: Setting,
        policy: Policy,
        users: Vocabulary,
        items: Vocabulary,
        history: Interactions,
        titles: Mapping[str, str] | None = None,
        images: Mapping[str, str] | None = None,
        name: str | None = None,
        picture_root: Path | None = None,
    ) -> None:
        self.setting, self.policy, self.name = setting, policy, name
        self.users, self.items, self.history = users, items, history
        self.titles, self.images = dict(titles or {}), dict(images or {})
        self.picture_root = picture_root
        self._attributes = {n: i for i, n in enumerate(setting.catalog.names)}
        self._groups = {n: i for i, n in enumerate(setting.catalog.group_names)}

    @classmethod
    def from_policy(cls, policy: str | Policy, setting: Setting, data: Dataset) -> Self:
        """From a policy and the dataset it is for.

        Args:
            policy: a rule's name, or a policy such as :meth:`SCPR.trained`.
            setting: catalog, vectors and rules.
            data: ids, history (train), titles and pictures are taken from it.
        """
        texts = data.content.get("text")
        titles = {i: title(t) for i, t in zip(data.items.ids, texts or (), strict=False) if t is not None}
        pictures = data.content.get("image")
        images = {i: v for i, v in zip(data.items.ids, pictures or (), strict=False) if v is not None}
        name = policy if isinstance(policy, str) else None
        decides = rule(policy) if isinstance(policy, str) else policy
        root = pictures.root.absolute() if pictures is not None and pictures.root is not None else None
        return cls(setting, decides, data.users, data.items, data.train, titles, images, name, root)

    def changed(
        self,
        policy: str | None = None,
        belief: Literal["candidates", "posterior"] | None = None,
        error: float | None = None,
    ) -> Self:
        """The same with another rule, or another way to take answers in.

        Args:
            policy: a rule's name; None keeps the policy.
            belief: see :class:`ConversationConfig`; None keeps it.
            error: likewise.

        Raises:
            ConfigError: no such rule, or a share out of range.
        """
        changes = {"belief": belief, "error": error}
        config = self.setting.config.replace(**{k: v for k, v in changes.items() if v is not None})
        setting = Setting(self.setting.catalog, self.setting.vectors, config, self.setting.prior)
        decides, name = (self.policy, self.name) if policy is None else (rule(policy), policy)
        return type(self)(
            setting, decides, self.users, self.items, self.history, self.titles, self.images, name,
            self.picture_root,
        )  # fmt: skip

    def start(self, user: str | None = None, likes: Sequence[str] = ()) -> Session:
        """A new conversation.

        Args:
            user: external id; None for somebody unknown.
            likes: names of attributes the person begins with.

        Raises:
            UnknownIdError: no such user; leave it out to talk to somebody unknown.
            ConfigError: no such attribute; names the nearest.
        """
        return Session(self, user, likes)

    def resume(self, state: Mapping[str, Any]) -> Session:
        """A conversation from what :meth:`Session.state` returned.

        Raises:
            DataError: it is not such a state, was led by another agent, or does not go as this agent leads.
        """
        try:
            state = SESSIONS.read(state, "session", "start anew", DataError)
            agent, events = state["agent"], list(state["events"])
            session = Session(self, state["user"], state["likes"])
        except (KeyError, TypeError) as cause:
            raise DataError(
                f"not the state of a session ({type(cause).__name__}: {cause}); expected what "
                "Session.state() returned"
            ) from cause
        if agent != self.fingerprint:
            raise DataError(
                f"the session was led by agent {str(agent)[:12]}, this one is {self.fingerprint[:12]}; load "
                "the agent that led it, or start anew"
            )
        for number, event in enumerate(events, 1):
            turn = session.next()
            try:
                said = turn.question if turn.kind == "question" else [item.id for item in turn.items]
                if event["asked" if turn.kind == "question" else "shown"] != said:
                    raise DataError(f"event {number} of the session is {event}; expected {said!r}")
                session.answer(event["answer"] if turn.kind == "question" else event["chosen"])
            except (KeyError, TypeError, ConfigError) as cause:
                raise DataError(
                    f"event {number} of the session, {event!r}, is not one of this agent's: {cause}"
                ) from cause
        return session

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of all that decides how conversations go."""
        trained = self.policy if isinstance(self.policy, Trained) else Trained((), {})
        weights = trained.weights
        parts = [p for k in sorted(weights) for p in (k, weights[k])]
        if self.setting.prior is not None:
            parts += ["prior", self.setting.prior]
        of, catalog = self.setting.vectors, self.setting.catalog
        return digest(
            "conversation", self.setting.config.model_dump(mode="json"),
            self.name or ["trained", *trained.parts], *parts,
            of.users, of.items, of.attributes, catalog.attributes, catalog.of_item,
            list(catalog.names), list(catalog.group_names), self.items.fingerprint,
        )  # fmt: skip

    # -- names -----------------------------------------------------------------------------------------------

    def attribute(self, name: str) -> int:
        """Index of an attribute.

        Raises:
            ConfigError: there is none of this name; names the nearest.
        """
        return _index(self._attributes, name, "attribute")

    def question(self, name: str) -> int:
        """Index of a question: an attribute, or a group where those are asked about.

        Raises:
            ConfigError: there is none of this name; names the nearest.
        """
        return _index(self._groups, name, "group") if self.setting.enumerated else self.attribute(name)

    def title(self, item: int) -> str:
        """What an item is called; its id where nothing else is known."""
        id_ = str(self.items[item])
        return self.titles.get(id_, id_)

    def history_of(self, user: int | None) -> np.ndarray:
        """Items of a user ``(n,) int``; none of somebody unknown."""
        if user is None:
            return np.empty(0, np.int64)
        return self.history.items[self.history.indptr[user] : self.history.indptr[user + 1]]

    # -- on disk ---------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes a directory: ``.npy`` files and, last, ``conversation.json``, which names them.

        Args:
            path: directory to create; what is in it stays whole until this is.

        Raises:
            CheckpointError: it cannot be written.
            ConfigError: the policy is neither a rule of this library nor a trained one.
        """
        catalog = self.setting.catalog
        items = np.arange(catalog.n_items).repeat(np.diff(catalog.of_item))
        arrays = {
            **self.setting.vectors._asdict(),
            "has": np.stack([items, catalog.attributes]),
            "groups": catalog.groups,
            "history": np.stack([self.history.users, self.history.items]),
        }
        if self.setting.prior is not None:
            arrays["prior"] = self.setting.prior
        policy: dict[str, Any] = {"rule": self.name}
        if isinstance(self.policy, Trained):
            policy = {"parts": list(self.policy.parts)}
            arrays |= {f"network_{k}": v for k, v in self.policy.weights.items()}
        elif self.name is None or not isinstance(self.policy, Rule):
            raise ConfigError(f"a policy of {type(self.policy).__name__} cannot be saved; name a rule")
        head = {
            "policy": policy,
            "rules": self.setting.config.model_dump(mode="json"),
            "users": list(self.users.ids),
            "items": list(self.items.ids),
            "attributes": list(catalog.names),
            "group_names": list(catalog.group_names),
            "titles": self.titles,
            "images": self.images,
            "picture_root": None if self.picture_root is None else str(self.picture_root),
        }
        files: dict[str, tuple[str, str, Write]] = {
            part: (digest(a), "npy", partial(write_array, array=a)) for part, a in arrays.items()
        }
        commit(Path(path) / HEAD, FORMAT, head, files, retry="save again")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            CheckpointError: a file is missing, not the one that was written, or of another format.
        """
        saved = Committed(Path(path) / HEAD, FORMAT, "save it again")

        def array(part: str) -> np.ndarray:
            return read_array(saved.file(part), CheckpointError)

        head = saved.head
        try:
            users, items = Vocabulary(head["users"], "user"), Vocabulary(head["items"])
            shelf = Catalog(
                array("has"), len(items), head["attributes"], array("groups"), head["group_names"]
            )
            of = DialogueVectors(array("users"), array("items"), array("attributes"))
            prior = array("prior") if "prior" in saved.files else None
            setting = Setting(shelf, of, ConversationConfig(**head["rules"]), prior)
            pairs, name = array("history"), head["policy"].get("rule")
            history = Interactions(pairs[0], pairs[1], len(users), len(items), name="history")
            if name is None:
                parts = tuple(head["policy"]["parts"])
                weights = {k.removeprefix("network_"): array(k) for k in saved.files if k[:8] == "network_"}
                policy: Policy = Trained(parts, weights)
            else:
                policy = rule(name)
            root = None if head["picture_root"] is None else Path(head["picture_root"])
            return cls(setting, policy, users, items, history, head["titles"], head["images"], name, root)
        except (KeyError, TypeError, ValueError, ConfigError, DataError) as cause:
            raise CheckpointError(
                f"{saved.path}: is not what save() wrote ({type(cause).__name__}: {cause}); save it again"
            ) from cause


def _index(known: Mapping[str, int], name: str, kind: str) -> int:
    if name not in known:
        raise ConfigError(
            f"{kind} {name!r} is not one of the {len(known):,} there are.{nearest(name, known)}"
        )
    return known[name]
