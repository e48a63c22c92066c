"""Typed configuration: frozen, unknown keys refused with the nearest known one, a docstring under every
field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphrec.core.errors import ConfigError, nearest


def option(default: Any, *, affects_result: bool = True, **constraints: Any) -> Any:
    """A pydantic field that states whether the option decides what is computed.

    Args:
        default: the option's default.
        affects_result: False for an option that only says where, how visibly or how safely to compute. Two
            runs that differ in such options alone are the same run: one may resume the other.
        constraints: further arguments of :func:`pydantic.Field`, such as ``ge=1``.
    """
    return Field(default, json_schema_extra={"affects_result": affects_result}, **constraints)


class Config(BaseModel):
    """Base of every configuration class.

    Options recorded by earlier versions are read under the names and values of this one: a class lists its
    renamed options and values, and its subclasses inherit the lists.

    Attributes:
        renamed_options: former name -> present name.
        renamed_values: option, by its present name -> former value -> present value.

    Raises:
        ConfigError: an option is unknown (the nearest known one is named), has the wrong type or is out of
            range.
    """

    renamed_options: ClassVar[Mapping[str, str]] = {}
    renamed_values: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def __init__(self, **options: Any) -> None:
        options = type(self).upgrade(options)
        for name, value in options.items():
            if isinstance(value, bool) and name in type(self).model_fields:
                kind = _type_name(type(self).model_fields[name].annotation)
                if "bool" not in kind and "Any" not in kind:  # pydantic would read true as 1
                    raise ConfigError(f"{name} = {value!r}: a truth value; expected {kind}")
        try:
            super().__init__(**options)
        except ValidationError as cause:
            raise ConfigError(explain(cause, type(self))) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed, validated like a new one."""
        return type(self)(**{**self.model_dump(), **changes})

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Option name -> default, JSON-able; required options are left out."""
        return cls.model_construct().model_dump(mode="json")

    @classmethod
    def upgrade(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options under their present names and values, however an earlier version spelled them.

        Raises:
            ConfigError: an option is given under both its names.
        """
        names: dict[str, str] = {}
        values: dict[str, Mapping[str, Any]] = {}
        for base in reversed(cls.__mro__):
            names |= vars(base).get("renamed_options", {})
            for name, renamed in vars(base).get("renamed_values", {}).items():
                values[name] = {**values.get(name, {}), **renamed}
        upgraded: dict[str, Any] = {}
        for former, value in options.items():
            name = former if former in cls.model_fields else names.get(former, former)
            if name != former and name in options:
                raise ConfigError(f"{former} is the former name of {name}, and both are given; give {name}")
            upgraded[name] = values.get(name, {}).get(value, value) if isinstance(value, str) else value
        return upgraded

    @classmethod
    def result_options(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Of recorded options, those that decide what is computed, comparable between versions.

        Args:
            recorded: JSON-able options, of this version or an earlier one.

        Returns:
            Value by present name. An option the earlier version did not have has its default; options
            declared with ``affects_result=False`` are left out.
        """
        complete = {**cls.defaults(), **cls.upgrade(recorded)}
        return {name: value for name, value in complete.items() if cls.affects_result(name)}

    @classmethod
    def affects_result(cls, name: str) -> bool:
        """Whether an option decides what is computed; one that is not known here does."""
        extra = cls.model_fields[name].json_schema_extra if name in cls.model_fields else None
        return not isinstance(extra, dict) or bool(extra.get("affects_result", True))

    @classmethod
    def options(cls) -> dict[str, str]:
        """Option name -> ``type = default: docstring``, for help texts."""
        return {
            name: f"{_type_name(info.annotation)} = {info.default!r}: {info.description or ''}"
            for name, info in cls.model_fields.items()
        }


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def explain(error: ValidationError, config: type[BaseModel], prefix: str = "") -> str:
    """A validation error as one readable line per mistake."""
    known = list(config.model_fields)
    lines = []
    for mistake in error.errors():
        name = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            lines.append(f"{prefix}{name} is not an option; the options are {known}.{nearest(name, known)}")
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            # What is wrong with several options together stands at none of them.
            lines.append(f"{prefix}{name} = {mistake['input']!r}: {message}" if name else message)
    return "; ".join(lines)
