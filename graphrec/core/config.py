"""Typed configuration: frozen, unknown keys refused with the nearest known one, a docstring under every
field.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from graphrec.core.errors import ConfigError, nearest


class Config(BaseModel):
    """Base of every configuration class.

    Raises:
        ConfigError: an option is unknown (the nearest known one is named), has the wrong type or is out of
            range.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            if isinstance(value, bool) and name in type(self).model_fields:
                kind = str(type(self).model_fields[name].annotation)
                if "bool" not in kind and "Any" not in kind:  # pydantic would read true as 1
                    raise ConfigError(f"{name} = {value!r}: a truth value; expected {_plain(kind)}")
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
    def options(cls) -> dict[str, str]:
        """Option name -> ``type = default: docstring``, for help texts."""
        lines = {}
        for name, info in cls.model_fields.items():
            kind = getattr(info.annotation, "__name__", None) if isinstance(info.annotation, type) else None
            kind = kind or str(info.annotation).replace("typing.", "")
            lines[name] = f"{kind} = {info.default!r}: {info.description or ''}"
        return lines


def _plain(kind: str) -> str:
    return kind.removeprefix("<class '").removesuffix("'>").replace("typing.", "")


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
