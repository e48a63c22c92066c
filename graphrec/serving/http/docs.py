"""The page that documents the service: its routes, fields and examples, without any script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

_STYLE = files("graphrec.serving.http").joinpath("docs.css").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"
"""Content security policy of the page: its own style and nothing else."""


def docs_page(openapi: Mapping[str, Any], address: str) -> str:
    """The page as HTML.

    Args:
        openapi: the OpenAPI schema of the service.
        address: where the service is reached, such as ``http://127.0.0.1:8000``, for the examples.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    source = files("graphrec.serving.http").joinpath("docs.html").read_text(encoding="utf-8")
    routes = [
        _route(method.upper(), path, operation, openapi, address)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return environment.from_string(source).render(info=openapi["info"], routes=routes, style=_STYLE)


def _route(
    method: str, path: str, operation: Mapping[str, Any], openapi: Mapping[str, Any], address: str
) -> dict[str, Any]:
    body = operation.get("requestBody")
    fields: list[dict[str, str]] = []
    example: dict[str, Any] = {}
    if body is not None:
        schema = _resolve(body["content"]["application/json"]["schema"], openapi)
        required = schema.get("required", [])
        for name, field in schema["properties"].items():
            default = "required" if name in required else json.dumps(field.get("default"))
            about = field.get("description", "")
            fields.append({"name": name, "type": _type(field, openapi), "default": default, "about": about})
            if name in required:
                example[name] = _example(field, openapi)
    curl = "curl"
    if body is not None:
        curl = f"curl -H 'content-type: application/json' -d '{json.dumps(example)}'"
    return {
        "method": method,
        "path": path,
        "about": operation.get("description", ""),
        "fields": fields,
        "example": f"{curl} {address}{path}",
        "answers": [(status, answer["description"]) for status, answer in operation["responses"].items()],
    }


def _resolve(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference names."""
    while "$ref" in schema:
        schema = openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _type(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    schema = _resolve(schema, openapi)
    if "anyOf" in schema:
        return " or ".join(_type(choice, openapi) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], openapi)}"
    if "properties" in schema:
        parts = [f"{name}: {_type(field, openapi)}" for name, field in schema["properties"].items()]
        return f"object ({'; '.join(parts)})"
    return str(schema.get("type", "any"))


def _example(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Any:
    """A value of the schema's form, to be replaced by the reader."""
    schema = _resolve(schema, openapi)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], openapi)
    if schema.get("type") == "array":
        return [_example(schema["items"], openapi)] * min(schema.get("minItems", 1) or 1, 3)
    if "properties" in schema:
        return {name: _example(field, openapi) for name, field in schema["properties"].items()}
    return {"string": "ID", "integer": 1, "number": 0.5, "boolean": True}.get(schema.get("type", ""))
