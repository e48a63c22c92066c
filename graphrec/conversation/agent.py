"""The agent that leads conversations with people; it loads without the training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.rules import Policy, Rule, parse_rule
from graphrec.conversation.states import TrainedPolicy
from graphrec.conversation.vectors import DialogueVectors
from graphrec.core.bundle import Committed, FileFormat, Write, commit
from graphrec.core.errors import CheckpointError, ConfigError, DataError, nearest
from graphrec.core.files import digest, read_array, write_array
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.data.content import titles as item_titles

FORMAT = FileFormat("conversation")
"""Format of a saved agent."""
MANIFEST = "conversation.json"
"""The file of a saved agent that names the others."""
NETWORK = "network_"
"""Prefix of the names of a trained policy's arrays in a saved agent."""


@dataclass(eq=False, repr=False)
class ConversationalRecommender:
    """Asks and recommends. One object leads any number of conversations, from any number of threads, as they
    only read what they share.

    Attributes:
        setting: catalog, vectors and rules.
        policy: decides between asking and recommending: a rule or a trained policy.
        users: external ids.
        items: external ids.
        history: known interactions of the users.
        titles: titles by item id.
        images: paths of pictures by item id, relative to ``picture_root``.
        name: name of the rule, as :func:`~graphrec.conversation.rules.parse_rule` reads it; None for a
            trained policy.
        picture_root: folder of the pictures, if there are any.
    """

    setting: Setting
    policy: Policy
    users: Vocabulary
    items: Vocabulary
    history: Interactions
    titles: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    picture_root: Path | None = None

    def __post_init__(self) -> None:
        self._attributes = {n: i for i, n in enumerate(self.setting.catalog.names)}
        self._groups = {n: i for i, n in enumerate(self.setting.catalog.group_names)}

    @classmethod
    def from_policy(cls, policy: str | Policy, setting: Setting, data: Dataset) -> Self:
        """Creates an agent from a policy and the dataset it is for.

        Args:
            policy: a rule's name, or a policy such as :meth:`SCPR.trained_policy`.
            setting: catalog, vectors and rules.
            data: source of ids, history (train), titles and pictures.
        """
        pictures = data.content.get("image")
        named = zip(data.items.ids, item_titles(data.content), strict=False)
        titles = {item: name for item, name in named if name is not None}
        images = {i: v for i, v in zip(data.items.ids, pictures or (), strict=False) if v is not None}
        root = pictures.root.absolute() if pictures is not None and pictures.root is not None else None
        return cls(
            setting,
            parse_rule(policy) if isinstance(policy, str) else policy,
            data.users,
            data.items,
            data.train,
            titles,
            images,
            policy if isinstance(policy, str) else None,
            root,
        )

    def replace(
        self,
        policy: str | None = None,
        belief: Literal["candidates", "posterior"] | None = None,
        error: float | None = None,
    ) -> Self:
        """A copy with another rule, or another way to use answers.

        Args:
            policy: a rule's name; None keeps the policy.
            belief: see :class:`ConversationConfig`; None keeps it.
            error: see :class:`ConversationConfig`; None keeps it.

        Raises:
            ConfigError: there is no such rule, or the share is out of range.
        """
        changes = {"belief": belief, "error": error}
        config = self.setting.config.replace(**{k: v for k, v in changes.items() if v is not None})
        agent = dataclasses.replace(self, setting=dataclasses.replace(self.setting, config=config))
        if policy is not None:
            agent.policy = parse_rule(policy)
            agent.name = policy
        return agent

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of everything that decides how conversations go."""
        policy = self.policy if isinstance(self.policy, TrainedPolicy) else TrainedPolicy((), {})
        parts: list[Any] = [p for k in sorted(policy.weights) for p in (k, policy.weights[k])]
        if self.setting.prior is not None:
            parts += ["prior", self.setting.prior]
        vectors = self.setting.vectors
        catalog = self.setting.catalog
        return digest(
            "conversation",
            self.setting.config.model_dump(mode="json"),
            self.name or ["trained", *policy.fields],
            *parts,
            vectors.users,
            vectors.items,
            vectors.attributes,
            catalog.attributes,
            catalog.item_offsets,
            list(catalog.names),
            list(catalog.group_names),
            self.items.fingerprint,
        )

    # -- names -----------------------------------------------------------------------------------------------

    def attribute_index(self, name: str) -> int:
        """Index of an attribute.

        Raises:
            ConfigError: there is no attribute of this name; the error names the nearest one.
        """
        return _index(self._attributes, name, "attribute")

    def question_index(self, name: str) -> int:
        """Index of a question: of an attribute, or of a group with enumerated questions.

        Raises:
            ConfigError: there is no question of this name; the error names the nearest one.
        """
        if self.setting.enumerated:
            return _index(self._groups, name, "group")
        return self.attribute_index(name)

    def title(self, item: int) -> str:
        """An item's title; its id where there is no title."""
        id_ = str(self.items[item])
        return self.titles.get(id_, id_)

    # -- saving and loading ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes a directory: ``.npy`` files and, last, ``conversation.json``, which names them.

        Args:
            path: directory to create; an existing agent in it stays intact until the new one is complete.

        Raises:
            CheckpointError: the directory cannot be written.
            ConfigError: the policy is neither a rule of this library nor a trained policy.
        """
        catalog = self.setting.catalog
        items = np.arange(catalog.n_items).repeat(np.diff(catalog.item_offsets))
        arrays = {
            **self.setting.vectors._asdict(),
            "has": np.stack([items, catalog.attributes]),
            "groups": catalog.groups,
            "history": np.stack([self.history.users, self.history.items]),
        }
        if self.setting.prior is not None:
            arrays["prior"] = self.setting.prior
        policy: dict[str, Any] = {"rule": self.name}
        if isinstance(self.policy, TrainedPolicy):
            policy = {"parts": list(self.policy.fields)}
            arrays |= {f"{NETWORK}{k}": v for k, v in self.policy.weights.items()}
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
            name: (digest(array), "npy", partial(write_array, array=array)) for name, array in arrays.items()
        }
        commit(Path(path) / MANIFEST, FORMAT, head, files, retry="save again")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what :meth:`save` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, or of another format.
        """
        saved = Committed(Path(path) / MANIFEST, FORMAT, "save it again")

        def array(name: str) -> np.ndarray:
            return read_array(saved.file(name), CheckpointError)

        head = saved.head
        try:
            users = Vocabulary(head["users"], "user")
            items = Vocabulary(head["items"])
            catalog = Catalog(
                array("has"), len(items), head["attributes"], array("groups"), head["group_names"]
            )
            vectors = DialogueVectors(array("users"), array("items"), array("attributes"))
            prior = array("prior") if "prior" in saved.files else None
            setting = Setting(catalog, vectors, ConversationConfig(**head["rules"]), prior)
            pairs = array("history")
            history = Interactions(pairs[0], pairs[1], len(users), len(items), name="history")
            name = head["policy"].get("rule")
            policy: Policy
            if name is None:
                weights = {k.removeprefix(NETWORK): array(k) for k in saved.files if k.startswith(NETWORK)}
                policy = TrainedPolicy(tuple(head["policy"]["parts"]), weights)
            else:
                policy = parse_rule(name)
            root = None if head["picture_root"] is None else Path(head["picture_root"])
            return cls(setting, policy, users, items, history, head["titles"], head["images"], name, root)
        except (KeyError, TypeError, ValueError, ConfigError, DataError) as cause:
            raise CheckpointError(
                f"{saved.path}: is not what save() wrote ({type(cause).__name__}: {cause}); save it again"
            ) from cause


def _index(indices: Mapping[str, int], name: str, kind: str) -> int:
    if name not in indices:
        raise ConfigError(
            f"{kind} {name!r} is not one of the {len(indices):,} there are.{nearest(name, indices)}"
        )
    return indices[name]
