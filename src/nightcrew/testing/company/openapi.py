"""Requests and answers held against an official OpenAPI description (a slice of it, kept beside this file)."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from typing import Any

import msgspec
from openapi_schema_validator import OAS30ReadValidator, OAS30WriteValidator
from referencing import Registry
from referencing.jsonschema import DRAFT4

UNLISTED = (401, 403, 404, 429)
"""Answers any operation may give, which descriptions do not always list; 5xx besides."""


class Description:
    """The slice `name`.json of schemas/. Paths are as the description writes them: `/repos/{owner}/{repo}/issues`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The slice, read when it is first needed."""
        raw = files("nightcrew.testing.company").joinpath("schemas", f"{self.name}.json").read_bytes()
        spec: dict[str, Any] = msgspec.json.decode(raw)
        return spec

    @cached_property
    def _registry(self) -> Registry[Any]:
        registry: Registry[Any] = Registry().with_resource("urn:spec", DRAFT4.create_resource(self.spec))
        return registry

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """What the description says about that operation, None when it has none."""
        found: dict[str, Any] | None = self.spec["paths"].get(path, {}).get(method.lower())
        return found

    def request(self, method: str, path: str, query: dict[str, str], raw: bytes) -> list[str]:
        """What is wrong with a request: an unknown operation or query parameter, a body that does not fit."""
        operation = self.operation(method, path)
        if operation is None:
            return ["the description has no such operation"]
        known = {self._at(p)["name"] for p in self._parameters(method, path) if self._at(p)["in"] == "query"}
        wrong = [f"unknown query parameter {name}" for name in query if name not in known]
        body = self._at(operation.get("requestBody", {}))
        schema = body.get("content", {}).get("application/json", {}).get("schema")
        if raw and schema is not None:
            wrong += self._errors(OAS30WriteValidator, schema, msgspec.json.decode(raw))
        elif body.get("required") and schema is not None and not raw:
            wrong.append("the body is missing")
        return wrong

    def answer(self, method: str, path: str, status: int, raw: bytes) -> list[str]:
        """What is wrong with an answer: a status that is not listed, a body that does not fit."""
        operation = self.operation(method, path)
        if operation is None or status in UNLISTED or status >= 500:
            return []
        listed = operation["responses"].get(str(status), operation["responses"].get("default"))
        if listed is None:
            return [f"the description lists no answer {status}"]
        content = self._at(listed).get("content", {})
        schema = next((kind.get("schema") for name, kind in content.items() if "json" in name), None)
        if schema is None or not raw:
            return []
        return self._errors(OAS30ReadValidator, schema, msgspec.json.decode(raw))

    def example(self, name: str) -> Any:
        """One of the official examples, a copy."""
        return msgspec.json.decode(msgspec.json.encode(self.spec["components"]["examples"][name]["value"]))

    def _parameters(self, method: str, path: str) -> list[dict[str, Any]]:
        own = (self.operation(method, path) or {}).get("parameters", [])
        return [*self.spec["paths"][path].get("parameters", []), *own]

    def _at(self, part: dict[str, Any]) -> dict[str, Any]:
        """The part itself, or what its $ref points at."""
        while "$ref" in part:
            found: Any = self.spec
            for step in part["$ref"].removeprefix("#/").split("/"):
                found = found[step.replace("~1", "/").replace("~0", "~")]
            part = found
        return part

    def _errors(self, kind: Any, schema: dict[str, Any], value: Any) -> list[str]:
        rooted = _rooted(schema)
        found = kind(rooted, registry=self._registry).iter_errors(value)
        return [f"{'/'.join(map(str, e.absolute_path)) or 'body'}: {e.message[:200]}" for e in found][:5]


def _rooted(schema: Any) -> Any:
    """The schema with its references made absolute, so that they lead into the registry.

    A `discriminator` only says which branch of a `oneOf` to look at first; the branches themselves decide.
    """
    if isinstance(schema, dict):
        kept = {k: v for k, v in schema.items() if k != "discriminator" or "propertyName" not in v}
        return {k: f"urn:spec{v}" if k == "$ref" and v.startswith("#") else _rooted(v) for k, v in kept.items()}
    return [_rooted(one) for one in schema] if isinstance(schema, list) else schema
