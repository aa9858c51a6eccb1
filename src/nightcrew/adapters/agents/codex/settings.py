"""`[agents.<name>]` of a codex, and codex's own settings as its command line takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from nightcrew.settings import read_settings

PASSED = (
    "CODEX_API_KEY", "OPENAI_API_KEY", "CODEX_HOME", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "OPENAI_PROJECT",
    "CODEX_CA_CERTIFICATE", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip


_PAGE = "See docs/reference/configuration.md."


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[agents.<name>]` with kind "codex". Every key may be left out."""

    program: str = "codex"  # a name on the PATH, or a whole path
    models: tuple[str, ...] = ()  # the ladder, cheapest first; () = the model of codex's own config.toml
    effort: str = ""  # reasoning effort, e.g. "high"; "" = the model's own
    account: str = ""  # agents of one account share its limits; default: told from the login below
    provider: str = ""  # whose servers; default: openai, codex's own model_provider, or the host of OPENAI_BASE_URL
    config_dir: str = ""  # the account's folder (CODEX_HOME): one for all its sessions, writable, never a copy
    api_key: str = ""  # "$NAME" of an API key; goes before a login in config_dir
    memory: Annotated[int, Meta(ge=1, le=10**6)] = 256  # megabytes that a session takes, until that is measured
    env: dict[str, str] = {}  # more environment; "$NAME" is taken from nightcrew's environment when a session starts
    pass_env: tuple[str, ...] = PASSED  # taken over from nightcrew's environment where they are set
    sandbox: Literal["danger-full-access", "workspace-write", "read-only"] = "danger-full-access"  # codex's own sandbox
    writable_roots: tuple[str, ...] = (".git",)  # of workspace-write; relative ones are the workspace's
    approve: bool = False  # the answer should codex ask in spite of its approval policy, which is "never"
    network_tries: int = 5  # then the provider is out of reach; codex itself would try for ever
    config: dict[str, object] = {}  # codex's own settings (`-c key=value`): tables or dotted keys
    extra_args: tuple[str, ...] = ()  # put at the end of the command line


def settings_of(name: str, table: Mapping[str, object]) -> Settings:
    """The settings in a table of nightcrew.toml. Raises ConfigError naming `[agents.<name>] key` and the cure."""
    return read_settings(Settings, f"[agents.{name}]", table)


def flags(config: Mapping[str, object]) -> tuple[str, ...]:
    """Codex's own settings as `-c key=value`.

    >>> flags({"features": {"x": True}, "projects": {"/a.b": {"trust_level": "untrusted"}}})
    ('-c', 'features.x=true', '-c', 'projects={"/a.b" = {"trust_level" = "untrusted"}}')
    """
    return tuple(part for key, value in _dotted(config) for part in ("-c", f"{key}={_toml(value)}"))


def _dotted(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Tables as dotted keys, so that codex's config.toml keeps its part; not where a name would not survive that."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value and all(str(name).replace("_", "").isalnum() for name in value):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _toml(value: object) -> str:
    """JSON's strings, numbers and lists are TOML's; tables are written inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inside) for inside in value) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)
