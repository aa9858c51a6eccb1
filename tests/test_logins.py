"""Whose account an agent works on, how its login stands, and that no secret is ever shown."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.adapters import logins
from nightcrew.adapters.agents.claude import Claude
from nightcrew.adapters.agents.codex import Codex
from nightcrew.adapters.agents.command import Command
from nightcrew.errors import ConfigError
from nightcrew.ports import Agent, Login, Task

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
SECRET = "made-up-secret-0123456789"
LEFT_OUT = ("ANTHROPIC_", "CLAUDE_", "CODEX_", "OPENAI_", "AWS_")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any login, on Linux."""
    for name in [name for name in os.environ if name.startswith(LEFT_OUT)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def claude(name: str = "claude", **table: object) -> Claude:
    return Claude(name, {"program": "sh", **table})


def codex(name: str = "codex", **table: object) -> Codex:
    return Codex(name, {"program": "sh", **table})


def oauth(
    folder: Path, *, access: str = SECRET, refresh: str = SECRET, ends: float | None = 3600.0, **more: Any
) -> Path:
    """Claude Code's file, good for so many seconds from NOW."""
    folder.mkdir(exist_ok=True)
    expires = 0 if ends is None else int((NOW.timestamp() + ends) * 1000)
    held = {"accessToken": access, "refreshToken": refresh, "expiresAt": expires, "scopes": ["user:inference"], **more}
    (folder / ".credentials.json").write_text(json.dumps({"claudeAiOauth": held}))
    return folder


def tokens(folder: Path, ends: float = 3600.0, refresh: str = SECRET) -> Path:
    """codex's file, with a token good for so many seconds from NOW."""
    folder.mkdir(exist_ok=True)
    claims = base64.urlsafe_b64encode(json.dumps({"exp": int(NOW.timestamp() + ends)}).encode()).decode().rstrip("=")
    held = {"OPENAI_API_KEY": None, "tokens": {"access_token": f"e.{claims}.s", "refresh_token": refresh}}
    (folder / "auth.json").write_text(json.dumps(held))
    return folder


def told(agent: Agent) -> Login:
    """Its login; whatever is said of it does not show the secret."""
    login = agent.login(NOW)
    assert SECRET not in repr(login)
    return login


# ---- lanes


def test_agents_of_one_kind_and_login_share_a_lane_whatever_their_names(home: Path) -> None:
    assert claude().seat == claude("cheap", models=["haiku"]).seat == claude("deep", config_dir="~/.claude").seat
    assert (claude().seat.lane, claude().seat.provider) == ("claude", "anthropic")
    assert codex().seat == codex("other").seat
    assert (codex().seat.lane, codex().seat.provider) == ("codex", "openai")


def test_two_logins_are_two_lanes_and_an_account_can_be_named(home: Path) -> None:
    work = claude("a", config_dir="~/.claude-work")
    assert work.seat.lane == "claude@claude-work"
    assert claude("b", env={"CLAUDE_CONFIG_DIR": str(home / ".claude-work")}).seat == work.seat
    assert claude("c", token="$WORK_TOKEN").seat.lane == "claude@work_token"
    assert claude("d", api_key="$WORK_KEY", config_dir="~/.claude-work").seat.lane == "claude@work_key"
    assert claude("e", config_dir="~/.claude-work", account="work").seat.lane == "claude@work"
    assert codex("f", config_dir="~/.codex-work").seat.lane == "codex@codex-work"
    assert codex("g", account="work").seat.lane == "codex@work"


def test_a_key_that_is_written_out_tells_accounts_apart_and_is_not_shown(home: Path) -> None:
    one = claude("a", env={"ANTHROPIC_API_KEY": SECRET}).seat
    other = claude("b", env={"ANTHROPIC_API_KEY": f"{SECRET}2"}).seat
    assert one.lane != other.lane
    assert SECRET not in repr((one, other))


@pytest.mark.parametrize(
    ("env", "provider"),
    [
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, "bedrock"),
        ({"CLAUDE_CODE_USE_VERTEX": "true"}, "vertex"),
        ({"CLAUDE_CODE_USE_FOUNDRY": "1"}, "foundry"),
        ({"CLAUDE_CODE_USE_BEDROCK": "0"}, "anthropic"),
        ({"ANTHROPIC_BASE_URL": "https://me:secret@llm.example.com/v1"}, "llm.example.com"),
        ({"ANTHROPIC_BASE_URL": "http://[broken"}, "anthropic"),
    ],
)
def test_the_environment_says_whose_servers(
    home: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], provider: str
) -> None:
    in_table = claude("a", env=env).seat
    assert (in_table.provider, in_table.account) == (provider, "" if provider == "anthropic" else provider)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (claude().seat.provider, claude().seat.lane) == (provider, "claude")  # for all agents alike


def test_codex_on_another_provider_is_another_lane(home: Path) -> None:
    there = codex("local", config={"model_provider": "ollama"})
    assert (there.seat.lane, there.seat.provider, told(there).kind) == ("codex@ollama", "ollama", "own")
    assert codex("gate", env={"OPENAI_BASE_URL": "https://gate.example.com:8443/v1"}).seat.provider == (
        "gate.example.com:8443"
    )


def test_programs_of_ones_own_share_a_lane_when_they_name_the_account(home: Path) -> None:
    def mine(name: str, **table: object) -> Command:
        return Command(name, {"command": ["/opt/my-agent", "run"], **table})

    assert (mine("a").seat.lane, mine("a").seat.provider) == ("a", "a")
    assert mine("a", account="work").seat == mine("b", account="work", provider="a").seat
    assert mine("a", account="work").seat.lane == "my-agent@work"
    assert mine("a").memory == 64 << 20
    assert mine("a", memory=2048).memory == 2 << 30


def test_memory_is_what_a_session_takes_until_it_is_measured(home: Path) -> None:
    assert (claude().memory, codex().memory) == (1 << 30, 256 << 20)
    assert claude(memory=2000).memory == 2000 << 20


def test_a_user_without_a_home_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # as for a container's made-up user
    assert (told(claude()).ok, claude().seat.lane, codex().seat.lane) == (False, "claude", "codex")
    assert "/.claude" in told(claude()).says


# ---- secrets


@pytest.mark.parametrize("key", ["token", "api_key"])
def test_a_secret_in_the_file_is_refused_and_not_repeated(home: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[agents.work\] {key}") as wrong:
        claude("work", **{key: SECRET})
    assert SECRET not in wrong.value.sentence()
    assert '"$MY_TOKEN"' in wrong.value.sentence()


def test_a_folder_that_is_no_whole_path_is_refused(home: Path) -> None:
    for make in (claude, codex):
        with pytest.raises(ConfigError, match="config_dir"):
            make("work", config_dir="logins/work")


def environ(agent: Claude | Codex, folder: Path) -> dict[str, str]:
    return dict(agent.launch(Task(folder, "do it", folder, "0b2c6a5e-0a31-4f0e-9a3e-2f8c1f6f0a11")).env)


def test_the_login_that_a_table_names_is_the_only_one_its_sessions_get(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY", "CODEX_API_KEY"):
        monkeypatch.setenv(name, "somebody-elses")
    monkeypatch.setenv("WORK", SECRET)
    by_token = environ(claude("a", token="$WORK"), home)
    assert (by_token["CLAUDE_CODE_OAUTH_TOKEN"], "ANTHROPIC_API_KEY" in by_token) == (SECRET, False)
    by_folder = environ(claude("b", config_dir="~/.claude-work"), home)
    assert by_folder["CLAUDE_CONFIG_DIR"] == str(home / ".claude-work")
    assert "somebody-elses" not in by_folder.values()
    assert environ(codex("c", api_key="$WORK"), home)["CODEX_API_KEY"] == SECRET
    assert "somebody-elses" not in environ(codex("d", config_dir="~/.codex-work"), home).values()
    assert environ(claude(), home)["ANTHROPIC_API_KEY"] == "somebody-elses"


def test_a_variable_that_is_missing_is_named_at_launch_and_in_the_login(home: Path) -> None:
    for agent in (claude("work", token="$NOT_THERE"), codex("work", api_key="$NOT_THERE")):
        with pytest.raises(ConfigError, match="NOT_THERE"):
            environ(agent, home)
        assert (told(agent).ok, "NOT_THERE" in told(agent).says) == (False, True)


# ---- how a login stands


def test_the_first_login_that_the_cli_would_find_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (told(claude()).kind, told(claude()).ok) == ("none", False)
    assert "nightcrew lanes login claude" in told(claude()).says
    oauth(home / ".claude")
    assert told(claude()).kind == "file"
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", SECRET)
    assert told(claude()).kind == "token"
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    assert (told(claude()).kind, told(claude()).says) == ("key", "an API key ($ANTHROPIC_API_KEY)")
    monkeypatch.setenv("CLAUDE_CODE_USE_BEDROCK", "1")
    assert told(claude()).kind == "own"


def test_a_key_that_the_cli_keeps_or_is_given_by_a_program_is_found(home: Path) -> None:
    (folder := home / ".claude-work").mkdir()
    (folder / ".claude.json").write_text(json.dumps({"primaryApiKey": SECRET}))
    work = claude("work", config_dir=str(folder))
    assert (told(work).kind, told(work).says) == ("key", f"an API key in {folder}/.claude.json")
    (folder / "settings.json").write_text(json.dumps({"apiKeyHelper": f"echo {SECRET}"}))
    assert (told(work).kind, told(work).says) == ("own", f"apiKeyHelper of {folder}/settings.json")


@pytest.mark.parametrize(
    ("file", "ok", "says"),
    [
        ({"ends": 3600}, True, "renewed by Claude Code"),
        ({"ends": -3600}, True, "renewed by Claude Code"),
        ({"ends": -3600, "refresh": ""}, False, "has expired and cannot be renewed"),
        ({"ends": 3600, "refresh": ""}, True, "never renewed"),
        ({"ends": -60, "refreshTokenExpiresAt": 1}, False, "has expired and cannot be renewed"),
        ({"ends": None, "access": "", "refresh": ""}, False, "refused and wiped"),
    ],
)
def test_a_login_file_is_good_while_it_can_be_renewed(home: Path, file: dict[str, Any], ok: bool, says: str) -> None:
    folder = oauth(home / ".claude-work", **file)
    login = told(claude("work", config_dir=str(folder), account="work"))
    assert (login.kind, login.ok, says in login.says) == ("file", ok, True)
    assert ok or "`nightcrew lanes login claude@work`" in login.says
    assert login.expires_at == (NOW.timestamp() + file["ends"] if file["ends"] else None)


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"claudeAiOauth": 3}', "\0", "null"])
def test_a_torn_login_file_is_no_login(home: Path, torn: str) -> None:
    folder = oauth(home / ".claude")
    (folder / ".credentials.json").write_text(torn)
    assert not told(claude()).ok


def test_codex_is_told_by_its_file_and_its_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (told(codex()).kind, told(codex()).ok) == ("none", False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert told(codex()).kind == "key"
    login = told(codex("work", config_dir=str(tokens(home / ".codex-work", ends=60))))
    assert (login.kind, login.ok, login.expires_at) == ("file", True, NOW.timestamp() + 60)
    assert not told(codex("work", config_dir=str(tokens(home / ".codex-old", -60, refresh="")))).ok
    (tokens(home / ".codex") / "auth.json").write_text(json.dumps({"OPENAI_API_KEY": SECRET}))
    assert told(codex()).kind == "key"
    (home / ".codex" / "auth.json").write_text("{}")
    assert (told(codex()).kind, told(codex()).ok) == ("file", False)
    (home / ".codex" / "auth.json").unlink()
    (home / ".codex" / "config.toml").write_text('cli_auth_credentials_store = "keyring"\n')
    monkeypatch.delenv("OPENAI_API_KEY")
    assert (told(codex()).kind, bool(told(codex()).warns)) == ("keychain", True)


def test_on_a_mac_without_a_file_the_keychain_is_named_with_what_a_service_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    login = told(claude())
    assert (login.kind, login.ok) == ("keychain", True)
    assert "launchd" in login.warns
    assert "claude setup-token" in login.warns


def test_copies_of_one_login_have_the_same_word_and_others_do_not(home: Path) -> None:
    one, copy = (claude(name, config_dir=str(oauth(home / name))) for name in ("one", "copy"))
    other = claude("other", config_dir=str(oauth(home / "other", refresh="another")))
    assert told(one).same == told(copy).same != told(other).same


# ---- files that go stale


def test_a_login_where_it_can_be_renewed_is_not_stale(home: Path) -> None:
    assert logins.stale(oauth(home / "own") / ".credentials.json") == ""


def inside_mount(mount: str, script: str, *args: str) -> str:
    """What Python prints for `script` where something was mounted, seen by nobody else (Linux)."""
    root = [] if os.geteuid() == 0 else ["-U", "-r"]
    argv = ["unshare", *root, "-m", "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable, "-c", script, *args]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


STALE = "import sys, pathlib; from nightcrew.adapters.logins import stale; print(stale(pathlib.Path(sys.argv[1])))"
linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts of its own for one process are Linux's")


@linux
def test_a_read_only_folder_and_a_file_mounted_on_its_own_go_stale(home: Path) -> None:
    file = oauth(home / "shared") / ".credentials.json"
    (home / "host.json").write_text(file.read_text())
    mounted = inside_mount(f"mount --bind {home / 'host.json'} {file}", STALE, str(file))
    assert mounted == f"{file} is mounted on its own"
    folder = f"mount --bind {file.parent} {file.parent} && mount -o remount,bind,ro {file.parent}"
    assert inside_mount(folder, STALE, str(file)) == f"the folder {file.parent} cannot be written to"


@linux
def test_a_login_that_goes_stale_is_a_warning_while_it_lasts_and_then_no_login(home: Path) -> None:
    script = f"""
import sys
from datetime import datetime
from nightcrew.adapters.agents.claude import Claude
now = datetime.fromisoformat({NOW.isoformat()!r})
login = Claude("a", {{"config_dir": sys.argv[1]}}).login(now)
print(login.ok, "cannot be written to" in login.warns + login.says)"""
    for ends, told in ((3600, "True True"), (-3600, "False True")):
        folder = oauth(home / "shared", ends=ends)
        mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
        assert inside_mount(mount, script, str(folder)) == told


# ---- logging in


def test_a_person_logs_in_with_the_agents_own_program_in_the_accounts_folder(home: Path) -> None:
    work = str(home / ".claude-work")
    assert claude("a", program="claude", config_dir=work).log_in() == (
        ("claude", "auth", "login"), {"CLAUDE_CONFIG_DIR": work},
    )  # fmt: skip
    assert claude("b", program="claude").log_in() == (("claude", "auth", "login"), {})
    assert claude("c", program="claude", token="$T").log_in() == (("claude", "setup-token"), {})
    assert claude("d", api_key="$K").log_in() is None
    assert codex("e", program="codex", config_dir="~/x").log_in() == (
        ("codex", "login"), {"CODEX_HOME": str(home / "x")},
    )  # fmt: skip
    assert codex("f", api_key="$K").log_in() is None
    mine = Command("g", {"command": ["sh"], "login": ["my-agent", "login"], "env": {"A": "b", "K": "$K"}})
    assert mine.log_in() == (["my-agent", "login"], {"A": "b"})
    assert Command("h", {"command": ["sh"]}).log_in() is None


# ---- whatever lies there


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
                    max_leaves=9)  # fmt: skip
WRAPS = ("claudeAiOauth", "tokens")
FIELDS = ("accessToken", "refreshToken", "expiresAt", "refreshTokenExpiresAt", "access_token", "refresh_token")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    held=JSON | st.fixed_dictionaries(dict.fromkeys(FIELDS, JSON)), wrap=st.sampled_from(["claudeAiOauth", "tokens"])
)
def test_no_file_whatever_makes_looking_at_a_login_fail(
    tmp_path_factory: pytest.TempPathFactory, held: object, wrap: str
) -> None:
    folder = tmp_path_factory.mktemp("login")
    for name in (".credentials.json", "auth.json", "settings.json", "config.toml"):
        (folder / name).write_text(json.dumps({wrap: held}))
    for agent in (claude("a", config_dir=str(folder)), codex("b", config_dir=str(folder))):
        login = agent.login(NOW)
        assert login.says.strip()
        assert login.expires_at is None or login.expires_at > 0
