"""Registries: names of models, readers and extractors, and where each is defined.

A built-in entry is one line ``"name": "module:attribute"`` in a dictionary. An installed package adds entries
of its own by entry points of the same form, for example in its ``pyproject.toml``::

    [project.entry-points."graphrec.models"]
    my-model = "my_package.my_model:MyModel"

Entry points are read when a registry is listed or a name is not built in; what they name is imported on use.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from graphrec.core.errors import ConfigError, nearest


class Plugin(NamedTuple):
    """An entry of an installed package.

    Attributes:
        target: ``module:attribute``.
        package: name and version of the package.
    """

    target: str
    package: str


class Registry(MutableMapping[str, str]):
    """Names and where each is defined, as ``module:attribute``; built-in ones first, then those of packages.

    A name that is built in cannot be taken by a package, and a name that two packages declare belongs to
    neither; :attr:`clashes` says so.

    Args:
        kind: what the entries are, for messages, such as ``"model"``.
        group: the entry point group of packages.
        builtin: the entries of this project.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind, self.group, self.builtin = kind, group, builtin

    def __getitem__(self, name: str) -> str:
        if name in self.builtin:
            return self.builtin[name]
        return self._plugins[name].target

    def __setitem__(self, name: str, target: str) -> None:
        self.builtin[name] = target

    def __delitem__(self, name: str) -> None:
        del self.builtin[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        yield from (name for name in self._plugins if name not in self.builtin)

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def _plugins(self) -> dict[str, Plugin]:
        declared = _declared(self.group, tuple(sys.path))
        return {name: plugins[0] for name, plugins in declared.items() if len(plugins) == 1}

    @property
    def clashes(self) -> list[str]:
        """One sentence for every name that is declared more than once."""
        sentences = []
        for name, plugins in _declared(self.group, tuple(sys.path)).items():
            packages = " and ".join(plugin.package for plugin in plugins)
            if name in self.builtin:
                sentences.append(
                    f"{self.kind} {name!r} of {packages} is left out: graphrec has a {self.kind} of this "
                    f"name ({self.builtin[name]})"
                )
            elif len(plugins) > 1:
                sentences.append(f"{self.kind} {name!r} is left out: {packages} both declare it")
        return sentences

    def package(self, name: str) -> str | None:
        """Name and version of the package that adds an entry; None for a built-in one."""
        return None if name in self.builtin else self._plugins[name].package

    def load(self, name: str) -> Any:
        """Imports what a name stands for.

        Raises:
            ConfigError: no such name, two packages declare it, or its package fails to import.
        """
        if name in self.builtin:
            return _imported(self.builtin[name])
        plugin = self._plugins.get(name)
        if plugin is None:
            for sentence in self.clashes:
                if sentence.startswith(f"{self.kind} {name!r} "):
                    raise ConfigError(f"{sentence}; uninstall one of them")
            raise ConfigError(
                f"{self.kind} {name!r} is not one of {sorted(self)}.{nearest(name, list(self))}"
            )
        try:
            return _imported(plugin.target)
        except Exception as cause:  # whatever a stranger's module raises
            raise ConfigError(
                f"{self.kind} {name!r} of {plugin.package} cannot be loaded from {plugin.target!r}: "
                f"{type(cause).__name__}: {cause}"
            ) from cause


@cache
def _declared(group: str, path: tuple[str, ...]) -> dict[str, list[Plugin]]:
    """Entries of the packages on ``path``, by name in lower case; a package counts once."""
    from importlib.metadata import entry_points

    declared: dict[str, list[Plugin]] = {}
    for point in entry_points(group=group):
        package = "an unnamed package"
        if point.dist is not None:
            package = f"{point.dist.metadata['Name']} {point.dist.version}"
        plugin = Plugin(point.value.replace(" ", ""), package)
        if plugin not in declared.setdefault(point.name.lower(), []):
            declared[point.name.lower()].append(plugin)
    return {name: sorted(declared[name], key=lambda plugin: plugin.package) for name in sorted(declared)}


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
