"""Whose login a codex uses, how that stands, and how a person renews it. Secrets are looked at, never shown."""

from __future__ import annotations

import base64
import json
import os
import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from nightcrew.adapters.agents.codex.faults import count_at, event_in, inner, text_at
from nightcrew.adapters.agents.codex.settings import Settings
from nightcrew.adapters.logins import folder, home, host_of, named, seat, stale, value_of, whole, word_for
from nightcrew.core.model import Seat
from nightcrew.errors import ConfigError
from nightcrew.ports import Login
from nightcrew.settings import environment

KEYS = ("CODEX_API_KEY", "OPENAI_API_KEY")
FOLDER, FILE = "CODEX_HOME", "auth.json"
KEYRING = (
    "a background service may not be able to open the keyring; for one, write cli_auth_credentials_store = "
    '"file" in codex\'s config.toml and log in anew'
)


class Home:
    """The account of `[agents.<name>]`. Raises ConfigError for a secret that is written out, or a wrong folder."""

    def __init__(self, name: str, own: Settings) -> None:
        self.where, self.own = f"[agents.{name}]", own
        self.variable = named(self.where, "api_key", own.api_key)
        self.folder = folder(self.where, "config_dir", own.config_dir)
        self.seat = self._seat()

    def environ(self) -> dict[str, str]:
        """What a session is given of nightcrew's environment, and its login. Raises ConfigError for what is missing.

        A login that the table names is the only one: an inherited key may be another account's.
        """
        passed = [name for name in self.own.pass_env if not ((self.variable or self.folder) and name in KEYS)]
        env = environment(self.where, {}, passed)
        if self.folder:
            env[FOLDER] = str(self.folder)
        if self.variable:
            env["CODEX_API_KEY"] = value_of(self.where, "api_key", self.variable)
        return env | environment(self.where, self.own.env)

    def key(self, env: Mapping[str, str]) -> str:
        """The key to log in with, "" to use the login that is there; one given to codex by name goes before that."""
        if key := env.get("CODEX_API_KEY"):
            return key
        return "" if (_place(env) / FILE).exists() else env.get("OPENAI_API_KEY", "")

    def login(self, now: datetime) -> Login:
        """See `Agent.login`: the first that there is, in the order in which it would be used."""
        try:
            env = self.environ()
        except ConfigError as error:
            return Login("none", False, error.sentence())
        place = _place(env)
        config = _config(place) | self.own.config
        if (other := str(config.get("model_provider", ""))) not in ("", "openai"):
            return Login("own", True, f"codex's model_provider {other} has credentials of its own")
        if env.get("CODEX_API_KEY"):
            said = f"an API key (${self.variable or 'CODEX_API_KEY'})"
            return Login("key", True, said, same=word_for(env["CODEX_API_KEY"]))
        path, cure = place / FILE, f"run `nightcrew lanes login {self.seat.lane}`"
        if path.exists():
            return _judged(path, now, cure)
        if env.get("OPENAI_API_KEY"):
            return Login("key", True, "an API key ($OPENAI_API_KEY)", same=word_for(env["OPENAI_API_KEY"]))
        if config.get("cli_auth_credentials_store") in ("keyring", "auto"):
            warns = (
                'a background service may not open it; for one, set cli_auth_credentials_store = "file" and log in anew'
            )
            return Login("keychain", True, "the keyring, as far as can be told", warns=warns)
        return Login("none", False, f"there is no login in {place}: {cure}")

    def log_in(self) -> tuple[tuple[str, ...], dict[str, str]] | None:
        """See `Agent.log_in`: a login in the account's folder; a key is made elsewhere."""
        inherited = _value(self.own.env.get(FOLDER, "")) or os.environ.get(FOLDER, "")
        where = self.folder or (whole(inherited) if inherited else None)
        if self.variable or (not self.folder and os.environ.get("CODEX_API_KEY")):
            return None
        argv = (str(whole(self.own.program)), "login")
        return argv, {FOLDER: str(where)} if where else {}

    def _seat(self) -> Seat:
        env, around = self.own.env, {name: os.environ.get(name, "") for name in self.own.pass_env}
        key = self.own.api_key or env.get("CODEX_API_KEY") or env.get("OPENAI_API_KEY") or ""
        key = key if key.startswith("$") or not key else f"key-{word_for(key)[:6]}"
        place = self.own.config_dir or env.get(FOLDER, "")
        said = {"key": key} if key else {"folder": str(whole(place))} if place else {}
        inherited = host_of(around.get("OPENAI_BASE_URL", "")) or "openai"
        provider = self.own.provider or str(self.own.config.get("model_provider", ""))
        provider = provider or host_of(_value(env.get("OPENAI_BASE_URL", ""))) or inherited
        usual = {"key": "$OPENAI_API_KEY" if key == "$OPENAI_API_KEY" else "$CODEX_API_KEY",
                 "folder": around.get(FOLDER) or str(home() / ".codex"), "provider": inherited}  # fmt: skip
        return seat("codex", self.own.account, provider, said | {"provider": provider}, usual)


def _judged(path: Path, now: datetime, cure: str) -> Login:
    """codex's auth.json: a key, or the tokens of an account, which codex renews."""
    try:
        held = event_in(path.read_bytes())
    except OSError as error:
        return Login("file", False, f"{path} cannot be read ({error.strerror}): {cure}")
    tokens, renews = inner(held, "tokens"), text_at(held, "tokens", "refresh_token")
    if not text_at(tokens, "access_token"):
        if text_at(held, "OPENAI_API_KEY"):
            return Login("key", True, f"an API key in {path}", same=word_for(text_at(held, "OPENAI_API_KEY")))
        return Login("file", False, f"there is no login in {path}: {cure}")
    expires = _expires(text_at(tokens, "access_token"))
    over = expires is not None and expires <= now.timestamp()
    if over and not renews:
        return Login("file", False, f"the login in {path} has expired and cannot be renewed: {cure}", expires)
    why, mount = stale(path) if renews else "", "use the whole folder, writable"
    if why and over:
        return Login("file", False, f"the login in {path} has expired, and {why}: {mount}", expires)
    goes = f"{why}: the login goes stale when it expires; {mount}" if why else ""
    return Login("file", True, f"a login in {path.parent}, renewed by codex", expires, goes, word_for(renews))


def _expires(token: str) -> float | None:
    """When a token (JWT) ends, as it says itself; None when it does not."""
    try:
        middle = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    return float(count_at(claims, "exp")) or None


def _place(env: Mapping[str, str]) -> Path:
    return Path(env[FOLDER]) if env.get(FOLDER) else home() / ".codex"


def _config(place: Path) -> dict[str, object]:
    try:
        return tomllib.loads((place / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _value(written: str) -> str:
    return os.environ.get(written[1:], "") if written.startswith("$") else written
