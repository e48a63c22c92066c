"""Who is who in histories: one person with several names and addresses, and nobody's name or address kept.

Names and e-mails are hashed as they are read, with a key (``salt``); people are told apart and put together
by the hashes alone. Two addresses are one person's when ``.mailmap`` says so (git applies it), when they
are the same but for case, when both are GitHub's no-reply addresses of one login, or when commits to one
repository carry both with the same full name.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from graphrec.data.git.log import Person
from graphrec.data.git.paths import words

NOREPLY = re.compile(rb"^(?:\d+\+)?([^@+]+)@users\.noreply\.github\.com$")
NOBODY = words("""
    root admin administrator user users unknown none nobody anonymous guest test ubuntu debian vagrant
    git github gitlab developer dev me you name your-name author committer localhost
""")
"""Names that many people go by."""
PLACEHOLDERS = re.compile(
    rb"(^|@)(localhost|localhost\.localdomain|none|unknown|example\.(com|org|net)|\(none\))$"
)
"""Addresses that many people have."""
BOTS = re.compile(
    rb"\[bot\]|(^|[^a-z])bot$|^bot([^a-z]|$)|^(\d+\+)?(dependabot|renovate|greenkeeper|pre-commit[-.]ci|"
    rb"github[- ]actions|pyup|codecov|weblate|transifex|snyk|imgbot|allcontributors|semantic-release|"
    rb"travis ?ci|mergify|lgtm-com|deepsource|restyled|sonarcloud|whitesource|requires\.io|stickler)"
)
"""Names and addresses of programs."""


def is_bot(person: Person) -> bool:
    """Whether a name or an address is a program's."""
    name, email = person.name.lower().strip(), person.email.lower().partition(b"@")[0]
    return bool(BOTS.search(name) or BOTS.search(email))


class People:
    """Puts names and addresses together, hashed.

    Args:
        salt: key of the hashes. Who has it can look people up by address; without one anybody can who guesses
            the address.
    """

    def __init__(self, salt: str = "") -> None:
        self._key = blake2b(salt.encode(), digest_size=32).digest()
        self._node: dict[bytes, int] = {}
        self._parent: list[int] = []
        self._hashes: list[bytes] = []
        self._seen: dict[tuple[str, Person], int] = {}

    def hash(self, kind: bytes, value: bytes) -> bytes:
        """What is kept of a name or an address: 12 bytes."""
        return blake2b(kind + b"\0" + value, digest_size=12, key=self._key).digest()

    def register(self, person: Person, repository: str) -> int:
        """A number for a person as a commit names it; see :meth:`numbers`.

        Args:
            person: name and address.
            repository: where full names tell people apart.
        """
        known = self._seen.get((repository, person))
        if known is None:
            keys = self._keys(person, repository)
            nodes = [self._at(key) for key in keys]
            for other in nodes[1:]:
                self._join(nodes[0], other)
            known = self._seen[repository, person] = nodes[0]
        return known

    def forget(self) -> None:
        """Drops what is kept in memory for speed, names and addresses among it."""
        self._seen.clear()

    def number(self) -> tuple[list[int], list[str], dict[str, int]]:
        """Who all are.

        Returns:
            For every number that :meth:`register` has given the person, from 0; an id for each person; and the
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
        """The hash that :meth:`number` has of an address or a login."""
        raw = name.strip().encode("utf-8", "surrogateescape")
        kind, value = self._address(raw) if b"@" in raw else (b"login", raw.lower())
        return self.hash(kind, value).hex()

    def hashes(self, person: Person, repository: str) -> list[str]:
        """Those that :meth:`number` has of a name and an address."""
        return [key.hex() for key in self._keys(person, repository)]

    def _keys(self, person: Person, repository: str) -> list[bytes]:
        name, keys = b" ".join(person.name.split()), []
        email = person.email.strip()
        usable = bool(email) and not PLACEHOLDERS.search(email.lower())
        if usable:
            keys.append(self.hash(*self._address(email)))
        if (b" " in name and name.lower().decode("utf-8", "replace") not in NOBODY) or not usable:
            keys.append(self.hash(b"name", repository.encode("utf-8", "surrogateescape") + b"\0" + name))
        return keys

    @staticmethod
    def _address(email: bytes) -> tuple[bytes, bytes]:
        login = NOREPLY.match(email.lower())
        return (b"login", login.group(1)) if login else (b"email", email.lower())

    def _at(self, key: bytes) -> int:
        node = self._node.get(key)
        if node is None:
            node = self._node[key] = len(self._parent)
            self._parent.append(node)
            self._hashes.append(key)
        return node

    def _find(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = node = self._parent[self._parent[node]]
        return node

    def _join(self, one: int, other: int) -> None:
        one, other = self._find(one), self._find(other)
        self._parent[max(one, other)] = min(one, other)
