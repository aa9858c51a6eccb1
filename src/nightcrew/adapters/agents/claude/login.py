"""Whose login a Claude Code uses, how that stands, and how a person renews it. Secrets are looked at, never shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from nightcrew.adapters.agents.claude.settings import Settings
from nightcrew.adapters.agents.claude.stream import as_dict, as_text
from nightcrew.adapters.logins import folder, home, host_of, named, seat, stale, value_of, whole, word_for
from nightcrew.core.model import Seat
from nightcrew.errors import ConfigError
from nightcrew.ports import Login
from nightcrew.settings import environment

KEYS = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY")
TOKEN, FOLDER, FILE = "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", ".credentials.json"
CLOUDS = {
    "CLAUDE_CODE_USE_BEDROCK": "bedrock", "CLAUDE_CODE_USE_VERTEX": "vertex", "CLAUDE_CODE_USE_FOUNDRY": "foundry",
}  # fmt: skip
KEYCHAIN = (
    "macOS keeps the login in the keychain, which a background service (launchd, ssh) cannot open; for one, make a "
    'token with `claude setup-token` and name it: token = "$CLAUDE_CODE_OAUTH_TOKEN"'
)


class Account:
    """The account of `[agents.<name>]`. Raises ConfigError for a secret that is written out, or a wrong folder."""

    def __init__(self, name: str, own: Settings) -> None:
        self.where, self.own = f"[agents.{name}]", own
        self.token, self.key = named(self.where, "token", own.token), named(self.where, "api_key", own.api_key)
        self.folder = folder(self.where, "config_dir", own.config_dir)
        self.seat = self._seat()

    def environ(self) -> dict[str, str]:
        """What a session is given of nightcrew's environment, and its login. Raises ConfigError for what is missing.

        A login that the table names is the only one: an inherited key, which the CLI prefers, may be another account's.
        """
        env = {name: os.environ[name] for name in self.own.pass_env if name in os.environ}
        if self.token or self.key or self.folder:
            env = {name: value for name, value in env.items() if name not in (*KEYS, TOKEN)}
        if self.folder:
            env[FOLDER] = str(self.folder)
        if self.token:
            env[TOKEN] = value_of(self.where, "token", self.token)
        if self.key:
            env["ANTHROPIC_API_KEY"] = value_of(self.where, "api_key", self.key)
        return env | environment(self.where, self.own.env)

    def home(self, env: Mapping[str, str]) -> Path:
        """Where the CLI keeps what it knows."""
        return whole(env[FOLDER]) if env.get(FOLDER) else home() / ".claude"

    def login(self, now: datetime) -> Login:
        """See `Agent.login`: the first that there is, in the order in which the CLI itself looks."""
        try:
            env = self.environ()
        except ConfigError as error:
            return Login("none", False, error.sentence())
        if cloud := _cloud(env):
            return Login("own", True, f"{cloud}: the cloud's own credentials are used")
        for name in KEYS:
            if env.get(name):
                return Login("key", True, f"an API key (${self.key or name})", same=word_for(env[name]))
        if env.get(TOKEN):
            return Login("token", True, f"a long-lived token (${self.token or TOKEN})", same=word_for(env[TOKEN]))
        return self._file(self.home(env), now)

    def log_in(self) -> tuple[tuple[str, ...], dict[str, str]] | None:
        """See `Agent.log_in`: a long-lived token is made anew, a login in a folder is renewed there."""
        try:
            env = self.environ()
        except ConfigError:
            env = {}  # the variable that is missing is what is to be made
        if self.key or _cloud(env) or any(env.get(name) for name in KEYS):
            return None
        where = {FOLDER: str(self.home(env))} if self.folder or env.get(FOLDER) else {}
        argv = ("setup-token",) if self.token or env.get(TOKEN) else ("auth", "login")
        return (str(whole(self.own.program)), *argv), where

    def _seat(self) -> Seat:
        said, usual = _said(self.own), {"key": "$ANTHROPIC_API_KEY", "token": f"${TOKEN}"}
        around = {name: os.environ.get(name, "") for name in self.own.pass_env}
        usual["folder"] = around.get(FOLDER) or str(home() / ".claude")
        usual["provider"] = _provider(around)
        provider = self.own.provider or _provider(around | _around(self.own.env))
        return seat("claude", self.own.account, provider, said | {"provider": provider}, usual)

    def _file(self, place: Path, now: datetime) -> Login:
        path, cure = place / FILE, f"run `nightcrew lanes login {self.seat.lane}`"
        try:
            held = as_dict(as_dict(msgspec.json.decode(path.read_bytes())).get("claudeAiOauth"))
        except FileNotFoundError:
            return self._without_file(place, cure)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return Login("file", False, f"{path} cannot be read: {cure}")
        return _judged(path, held, now, cure) if held else self._without_file(place, cure)

    def _without_file(self, place: Path, cure: str) -> Login:
        if as_text(_held(place / "settings.json").get("apiKeyHelper")):
            return Login("own", True, f"apiKeyHelper of {place / 'settings.json'}")
        config = place / ".claude.json" if self.folder or os.environ.get(FOLDER) else home() / ".claude.json"
        if as_text(_held(config).get("primaryApiKey")):
            return Login("key", True, f"an API key in {config}")
        if sys.platform == "darwin":
            return Login("keychain", True, "the keychain, as far as can be told", warns=KEYCHAIN)
        return Login("none", False, f"there is no login in {place}: {cure}")


def _judged(path: Path, held: Mapping[str, object], now: datetime, cure: str) -> Login:
    """A login file: what expired is good while it can be renewed; a refused renewal leaves it blank."""
    access, renews = as_text(held.get("accessToken")), as_text(held.get("refreshToken"))
    expires, last = _seconds(held.get("expiresAt")), _seconds(held.get("refreshTokenExpiresAt"))
    if not access and not renews:
        return Login("file", False, f"the login in {path} was refused and wiped: {cure}")
    over = expires is not None and expires <= now.timestamp()
    if over and (not renews or (last is not None and last <= now.timestamp())):
        return Login("file", False, f"the login in {path} has expired and cannot be renewed: {cure}", expires)
    if not renews:
        return Login("file", True, f"a login in {path} that is never renewed", expires)
    why, mount = stale(path), "use the whole folder, writable"
    if why and over:
        return Login("file", False, f"the login in {path} has expired, and {why}: {mount}", expires)
    goes = f"{why}: the login goes stale when it expires; {mount}" if why else ""
    return Login("file", True, f"a login in {path.parent}, renewed by Claude Code", expires, goes, word_for(renews))


def _said(own: Settings) -> dict[str, str]:
    """The login that the table names, if any: by the first of key, token and folder, as the CLI looks for them."""
    env = own.env
    written = {
        "key": own.api_key or next((_shown(env[name]) for name in KEYS if env.get(name)), ""),
        "token": own.token or _shown(env.get(TOKEN, "")),
        "folder": str(whole(own.config_dir or env.get(FOLDER, ""))) if own.config_dir or env.get(FOLDER)
        else "",
    }  # fmt: skip
    return next(({what: said} for what, said in written.items() if said), {})


def _shown(value: str) -> str:
    """A variable's name as it is; a secret that is written out as a word that tells it from others."""
    return value if value.startswith("$") or not value else f"key-{word_for(value)[:6]}"


def _around(env: Mapping[str, str]) -> dict[str, str]:
    """The table's variables, as far as the environment has what they name."""
    return {name: os.environ.get(value[1:], "") if value.startswith("$") else value for name, value in env.items()}


def _provider(env: Mapping[str, str]) -> str:
    return _cloud(env) or host_of(env.get("ANTHROPIC_BASE_URL", "")) or "anthropic"


def _cloud(env: Mapping[str, str]) -> str:
    return next((name for key, name in CLOUDS.items() if env.get(key, "").lower() not in ("", "0", "false", "no")), "")


def _held(path: Path) -> Mapping[str, object]:
    try:
        return as_dict(msgspec.json.decode(path.read_bytes()))
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return {}


def _seconds(milliseconds: object) -> float | None:
    """An epoch in milliseconds as one in seconds; None for what is no such moment."""
    number = isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool)
    return float(milliseconds) / 1000 if number and 0 < milliseconds < 1e16 else None  # type: ignore[operator,arg-type]
