"""Identifies people across names and addresses, without storing names or addresses.

Names and e-mail addresses are hashed as they are read, with a key (``salt``); people are identified by the
hashes alone. Two addresses belong to one person when ``.mailmap`` says so (git applies it), when they differ
only in case, when both are GitHub's no-reply addresses of one login, or when commits to one repository have
both with the same full name.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from graphrec.data.git.log import Person
from graphrec.data.git.paths import words

NOREPLY = re.compile(rb"^(?:\d+\+)?([^@+]+)@users\.noreply\.github\.com$")
SHARED_NAMES = words("""
    root admin administrator user users unknown none nobody anonymous guest test ubuntu debian vagrant
    git github gitlab developer dev me you name your-name author committer localhost
""")
"""Names that many people use."""
SHARED_ADDRESSES = re.compile(
    rb"(^|@)(localhost|localhost\.localdomain|none|unknown|example\.(com|org|net)|\(none\))$"
)
"""Addresses that many people use."""
BOTS = re.compile(
    rb"\[bot\]|(^|[^a-z])bot$|^bot([^a-z]|$)|^(\d+\+)?(dependabot|renovate|greenkeeper|pre-commit[-.]ci|"
    rb"github[- ]actions|pyup|codecov|weblate|transifex|snyk|imgbot|allcontributors|semantic-release|"
    rb"travis ?ci|mergify|lgtm-com|deepsource|restyled|sonarcloud|whitesource|requires\.io|stickler)"
)
"""Names and addresses of programs."""


def is_bot(person: Person) -> bool:
    """Whether a name or an address belongs to a program."""
    name = person.name.lower().strip()
    email = person.email.lower().partition(b"@")[0]
    return bool(BOTS.search(name) or BOTS.search(email))


class People:
    """Groups hashed names and addresses into people.

    Args:
        salt: key of the hashes, with which people can be looked up by address; without a key, anybody who
            guesses an address can do so.
    """

    def __init__(self, salt: str = "") -> None:
        self._key = blake2b(salt.encode(), digest_size=32).digest()
        self._node_of: dict[bytes, int] = {}
        self._parent: list[int] = []
        self._hashes: list[bytes] = []
        self._node_of_person: dict[tuple[str, Person], int] = {}

    def hash(self, kind: bytes, value: bytes) -> bytes:
        """The stored hash of a name or an address: 12 bytes."""
        return blake2b(kind + b"\0" + value, digest_size=12, key=self._key).digest()

    def register(self, person: Person, repository: str) -> int:
        """A number for the name and address in a commit; :meth:`number` maps it to a person.

        Args:
            person: name and address.
            repository: repository in which equal full names are one person.
        """
        node = self._node_of_person.get((repository, person))
        if node is None:
            node, *others = [self._node(key) for key in self._keys(person, repository)]
            for other in others:
                self._join(node, other)
            self._node_of_person[repository, person] = node
        return node

    def forget_names(self) -> None:
        """Clears the cache of :meth:`register`, which holds names and addresses."""
        self._node_of_person.clear()

    def number(self) -> tuple[list[int], list[str], dict[str, int]]:
        """Numbers the people.

        Returns:
            The person, from 0, of every number that :meth:`register` returned; the id of each person; and the
            person by the hash of each address, login and name, in hex.
        """
        roots = [self._find(node) for node in range(len(self._parent))]
        least: dict[int, bytes] = {}
        for node, root in enumerate(roots):
            least[root] = min(least.get(root, self._hashes[node]), self._hashes[node])
        order = sorted(least, key=lambda root: least[root])
        person = {root: number for number, root in enumerate(order)}
        by_hash = {self._hashes[node].hex(): person[root] for node, root in enumerate(roots)}
        return [person[root] for root in roots], [f"u-{least[root].hex()}" for root in order], by_hash

    def lookup(self, name: str) -> str:
        """The hash of an address or a login in the result of :meth:`number`."""
        raw = name.strip().encode("utf-8", "surrogateescape")
        kind, value = self._address(raw) if b"@" in raw else (b"login", raw.lower())
        return self.hash(kind, value).hex()

    def hashes(self, person: Person, repository: str) -> list[str]:
        """The hashes of a name and an address in the result of :meth:`number`."""
        return [key.hex() for key in self._keys(person, repository)]

    def _keys(self, person: Person, repository: str) -> list[bytes]:
        keys = []
        name = b" ".join(person.name.split())
        email = person.email.strip()
        usable = bool(email) and not SHARED_ADDRESSES.search(email.lower())
        if usable:
            keys.append(self.hash(*self._address(email)))
        if (b" " in name and name.lower().decode("utf-8", "replace") not in SHARED_NAMES) or not usable:
            keys.append(self.hash(b"name", repository.encode("utf-8", "surrogateescape") + b"\0" + name))
        return keys

    @staticmethod
    def _address(email: bytes) -> tuple[bytes, bytes]:
        login = NOREPLY.match(email.lower())
        return (b"login", login.group(1)) if login else (b"email", email.lower())

    def _node(self, key: bytes) -> int:
        node = self._node_of.get(key)
        if node is None:
            node = self._node_of[key] = len(self._parent)
            self._parent.append(node)
            self._hashes.append(key)
        return node

    def _find(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def _join(self, one: int, other: int) -> None:
        roots = (self._find(one), self._find(other))
        self._parent[max(roots)] = min(roots)
