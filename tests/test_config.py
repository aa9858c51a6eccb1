"""Every mistake in nightcrew.toml is named with its file, its key and its cure; a right file becomes our own types."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from nightcrew.config import Config, Secret, find, load, secret
from nightcrew.core.model import Budget, Cap, Caps, FollowUp, GateSettings, Hooks, Keep, Policy, Repo
from nightcrew.errors import ConfigError

SMALL = """
[board]
kind = "folder"
path = "tickets"

[agents.claude]

[[repos]]
name = "web"
path = "."
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that is a git repository on branch `trunk`."""
    subprocess.run(["git", "init", "-q", "-b", "trunk", str(tmp_path)], check=True)
    return tmp_path


def written(home: Path, text: str) -> Path:
    file = home / "nightcrew.toml"
    file.write_text(text, encoding="utf-8")
    return file


def loaded(home: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    return load(written(home, text), environ or {})


def test_a_small_file_is_enough_and_the_rest_has_defaults(home: Path) -> None:
    config = loaded(home, SMALL)
    assert config.path == home / "nightcrew.toml"
    assert (config.home, config.state_dir) == (home, home / ".nightcrew")
    assert config.workspaces_dir == home / ".nightcrew" / "workspaces"
    assert (config.name, config.database_url, config.scan_every, config.workspace) == ("nightcrew", "", 120.0, "auto")
    assert config.boards == {"folder": ("folder", {"path": "tickets"})}
    assert config.forges == {"local": ("local", {})}
    assert (config.agents, config.agents_order) == ({"claude": ("claude", {})}, ("claude",))
    assert config.policy == Policy()
    assert config.repos == (Repo("web", str(home), base="trunk"),)


FULL = """
[crew]
name = "owls"
state_dir = "var"
workspaces_dir = "trees"
database_url = "$DB"
scan_every = 30
workspace = "worktree"
identity = ["Owl", "owl@example.com"]
agents = ["codex", "claude"]

[limits]
max_running = 3
max_attempts = 7
failures_per_model = 1
backoff_base = 1

[limits.attempt]
minutes = 1.5
stall_minutes = 2
tokens = 1000
money = 2.5
turns = 9

[boards.todo]
kind = "folder"
path = "tickets"
[boards.later]
kind = "folder"

[forges.hub]
kind = "local"
reviewers = ["ann"]

[agents.claude]
models = ["sonnet", "opus"]
[agents.codex]
[agents.mine]
kind = "command"
command = ["run", "$PROMPT"]

[[repos]]
name = "api"
url = "https://example.com/api.git"
base = "dev"
forge = "local"
labels = ["backend"]
projects = ["API"]
keywords = ["server", "data base"]
agents = ["mine"]
max_running = 2
[repos.gates]
commands = ["make test"]
timeout = 60
protected = ["ci/**"]
max_files = 5
max_lines = 50
secrets = false
review = "codex"
[repos.hooks]
before_run = "make deps"
timeout = 5

[[repos]]
name = "web"
path = "."
"""


def test_every_key_reaches_its_place_in_our_types(home: Path) -> None:
    config = loaded(home, FULL, {"DB": "postgresql://u:pw@db/x"})
    assert (config.name, config.scan_every, config.workspace) == ("owls", 30.0, "worktree")
    assert (config.state_dir, config.workspaces_dir) == (home / "var", home / "trees")
    assert config.identity == ("Owl", "owl@example.com")
    assert config.agents_order == ("codex", "claude")
    assert config.policy == Policy(3, 7, 1, 1.0, budget=Budget(90.0, 120.0, tokens=1000, money=2.5, turns=9))
    assert config.boards == {"todo": ("folder", {"path": "tickets"}), "later": ("folder", {})}
    assert config.forges == {"hub": ("local", {"reviewers": ["ann"]}), "local": ("local", {})}
    assert config.agents["mine"] == ("command", {"command": ["run", "$PROMPT"]})
    gates = GateSettings(("make test",), 60.0, ("ci/**",), 5, 50, False, "codex")
    api = Repo("api", "https://example.com/api.git", "dev", "local", ("backend",), ("API",), ("server", "data base"),
               ("mine",), gates, Hooks(before_run="make deps", timeout=5.0), max_running=2)  # fmt: skip
    assert config.repos == (api, Repo("web", str(home), "trunk", "hub"))


def test_a_secret_is_told_to_nobody_but_the_one_who_asks(home: Path) -> None:
    text = FULL.replace('kind = "command"', 'kind = "command"\ntoken = "hunter2"')
    config = loaded(home, text, {"DB": "postgresql://u:hunter2@db/x"})
    url = config.database_url
    assert "hunter2" not in f"{config!r} {config} {url} {url!r} {url:>9} {[url]}" + "%s" % url  # noqa: UP031
    assert url.reveal() == "postgresql://u:hunter2@db/x"
    assert type(url.reveal()) is str
    assert (str(Secret("")), bool(Secret(""))) == ("", False)
    assert pickle.loads(pickle.dumps(url)).reveal() == url.reveal()


def test_a_dollar_name_reads_the_environment_and_says_when_it_is_not_set() -> None:
    assert secret("$A_1", {"A_1": "x"}).reveal() == "x"
    assert secret("pa$$word", {}).reveal() == "pa$$word"
    with pytest.raises(ConfigError, match=r"token: the environment has no A_1\.") as caught:
        secret("$A_1", {"A_1": ""}, "token")
    assert "export A_1=" in caught.value.hint


def test_reading_the_same_file_again_gives_an_equal_config_and_a_changed_one_does_not(home: Path) -> None:
    assert loaded(home, SMALL) == loaded(home, SMALL)
    assert loaded(home, SMALL) != loaded(home, "[limits]\nmax_running = 2\n" + SMALL)


def test_the_file_is_searched_upwards_unless_it_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = home / "a" / "b"
    deep.mkdir(parents=True)
    other = written(deep, SMALL)
    other.rename(home / "a" / "other.toml")
    file = written(home, SMALL)
    monkeypatch.chdir(deep)
    assert find(None, {}) == file
    assert find(None, {"NIGHTCREW_CONFIG": "../other.toml"}) == home / "a" / "other.toml"
    assert find(file, {"NIGHTCREW_CONFIG": "../other.toml"}) == file


@pytest.mark.parametrize(
    ("path", "environ", "said"),
    [
        (Path("gone.toml"), {}, r"gone\.toml: there is no such file \(--config\)"),
        (Path(), {}, r"is a folder, not a file \(--config\)"),
        (None, {"NIGHTCREW_CONFIG": "gone.toml"}, r"there is no such file \(\$NIGHTCREW_CONFIG\)"),
        (None, {}, "There is no nightcrew.toml in"),
    ],
)
def test_a_missing_file_is_said_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path | None, environ: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as caught:
        load(path, environ)
    assert "nightcrew init" in caught.value.hint


def changed(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


REPO = 'path = "."'
MISTAKES = [
    ("", "the file says nothing", "nightcrew init"),
    ("# only a comment\n", "the file says nothing", "nightcrew init"),
    ("[board\n", "not valid TOML: .*line 1, column 7", "quotes"),
    ("a = [" * 5000, "not valid TOML", "quotes"),
    (changed("[board]", "[bord]"), r"\[bord\]: unknown here", "Did you mean `board`"),
    ('name = "x"\n' + SMALL, "name: unknown here", r"under \[crew\]"),
    ("[crew]\nstatedir = 'x'\n" + SMALL, r"\[crew\] statedir: unknown key", "Did you mean `state_dir`"),
    ("[crew]\nstate_dir = ' '\n" + SMALL, r"\[crew\] state_dir: it is empty", "leave the line out"),
    ("[crew]\nworkspace = 'overley'\n" + SMALL, r'\[crew\] workspace: "overley" is not', "Did you mean `overlay`"),
    ("[crew]\nscan_every = 0\n" + SMALL, r"\[crew\] scan_every: expected a number > 0, got 0", "scan_every"),
    ("[crew]\nscan_every = nan\n" + SMALL, r"\[crew\] scan_every: expected a number", "scan_every"),
    ("[crew]\nscan_every = inf\n" + SMALL, r"\[crew\] scan_every: expected a number", "scan_every"),
    ("[crew]\nscan_every = 2026-01-01\n" + SMALL, "scan_every: expected a number, got a date", "scan_every = 1.5"),
    ("[crew]\nidentity = ['a']\n" + SMALL, "identity: expected a list of length 2, got 1", "identity = "),
    ("[crew]\nidentity = ['a', 'b>\\n']\n" + SMALL, "identity: git takes no", "crew@example.com"),
    ("[crew]\nagents = ['cluade']\n" + SMALL, r'\[crew\] agents: "cluade" is not known', "Did you mean `claude`"),
    ("[crew]\nagents = ['claude', 'claude']\n" + SMALL, "agents: .* twice", "once"),
    ("[crew]\nagents = 'claude'\n" + SMALL, "agents: expected a list, got text", r'agents = \["one", "two"\]'),
    ("[crew]\ndatabase_url = '$NOPE'\n" + SMALL, r"\[crew\] database_url: the environment has no NOPE", "export NOPE"),
    ("[crew]\ndatabase_url = 'mysql://u:hunter2@h'\n" + SMALL, "database_url: no such kind", "postgresql://"),
    ("[limits]\nmax_runing = 3\n" + SMALL, r"\[limits\] max_runing: unknown key", "Did you mean `max_running`"),
    ("[limits]\nmax_running = -1\n" + SMALL, r"max_running: expected a whole number >= 1, got -1", "max_running = 3"),
    ("[limits]\nmax_running = true\n" + SMALL, "max_running: expected a whole number, got true or false", "= 3"),
    ("[limits]\nbackoff_max = 1\n" + SMALL, "backoff_max: it is less than backoff_base", "Raise"),
    ("[limits.attempt]\nmoney = -0.5\n" + SMALL, r"\[limits.attempt\] money: expected a number >= 0", "money = 1.5"),
    ("[limits.attempt]\nhours = 1\n" + SMALL, r"\[limits.attempt\] hours: unknown key", "minutes"),
    ("[limits.attempt]\nminutes=1\nseconds=1\n" + SMALL, r"\[limits.attempt\] minutes: seconds says it too", "one"),
    (changed('kind = "folder"', ""), r"\[board\] kind: it is missing", 'kind = "folder"'),
    (changed('kind = "folder"', "kind = 3"), r"\[board\] kind: expected text", "kind = "),
    (changed("[board]", "[agents.x]"), "there is no board", r"`\[board\]`"),
    (SMALL + "[boards.x]\n", "there is \\[boards\\] too", "boards.NAME"),
    (changed("[board]", "[boards.'a:b']"), r'"a:b" cannot be a name', "letters"),
    (changed("[agents.claude]", "[agents]\nclaude = 'x'"), r"\[agents\]\.*: expected a table, got text", "agents"),
    (changed("[agents.claude]", ""), "there is no agent", r"\[agents.claude\]"),
    (changed("[[repos]]", "[repos]"), r"\[repos\]: expected a list, got a table", r"\[\[repos\]\]"),
    (SMALL.partition("[[repos]]")[0], "there is no repository", r"\[\[repos\]\]"),
    (changed('name = "web"', ""), r"\[\[repos\]\] name \(repository 1\): it is missing", 'name = "web"'),
    (changed('"web"', '"a/../b"'), 'name .*"a/../b" cannot be a name', "letters"),
    (changed('"web"', '""'), 'name .*"" cannot be a name', "letters"),
    (SMALL + "[[repos]]\nname='Web'\npath='.'\n", '"Web" and "web" are the same', "Rename"),
    (changed(REPO, ""), "path .*neither path nor url", "path = "),
    (changed(REPO, 'path = "."\nurl = "https://h/x"'), "both path and url", "one of them"),
    (changed(REPO, 'path = "gone"'), r"path \(repository 'web'\): there is no folder .*gone", "Correct the path"),
    (changed(REPO, 'path = "sub"'), "path .*sub is not a git repository", "begins at"),
    (changed(REPO, 'path = "a\\u0000b"'), "path .*NUL", "Remove"),
    (changed(REPO, 'path = "~no-such-user-here/x"'), "path .*cannot be followed", "whole path"),
    (changed(REPO, 'url = "../web"'), 'url .*"../web" is no address', "path = "),
    (changed(REPO, 'url = "--upload-pack=x:y"'), "url .*is no address", "path"),
    (changed(REPO, 'url = "https://u:hunter2@h/x"'), "url .*carries a password", "credential helper"),
    (SMALL + 'base = ""\n', "base .*it is empty", "leave the line out"),
    (SMALL + 'base = "--help"\n', 'base .*"--help" is no branch name', 'base = "main"'),
    (SMALL + 'base = "refs/heads/main"\n', "base .*is no branch name", "plain name"),
    (SMALL + 'forge = "githab"\n[forges.github]\n', 'forge .*"githab" is not known', "Did you mean `github`"),
    (SMALL + 'agents = ["codex"]\n', r'agents .*"codex" is not known', "Known: claude"),
    (SMALL + 'labels = "x"\n', "labels .*expected a list, got text", r"labels = \["),
    (SMALL + 'keywords = ["a", " "]\n', "keywords .*an entry is empty", "Remove"),
    (SMALL + "keywords = ['a', 3]\n", r"keywords\[1\] .*expected text, got a whole number", "keywords = "),
    (SMALL + "max_running = -1\n", "max_running .*expected a whole number >= 0, got -1", "max_running"),
    (SMALL + "[repos.gates]\ntiemout = 1\n", r"\[repos.gates\] tiemout \(repository 'web'\)", "Did you mean `timeout`"),
    (SMALL + "[repos.gates]\ntimeout = 0\n", r"\[repos.gates\] timeout .*expected a number > 0", "timeout = 1.5"),
    (SMALL + "[repos.gates]\nreview = 'codex'\n", r'\[repos.gates\] review .*"codex" is not known', "Known: claude"),
    (SMALL + "[repos.gates]\norder = ['commandz']\n", r"\[repos.gates\] order .*not known", "Did you mean `commands`"),
    (SMALL + "gates = 1\n", "gates .*expected a table", "gates"),
    (SMALL + "[repos.hooks]\nbefor_run = 'x'\n", r"\[repos.hooks\] befor_run", "Did you mean `before_run`"),
]


@pytest.mark.parametrize(("text", "said", "cure"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_sentence_with_file_key_and_cure(home: Path, text: str, said: str, cure: str) -> None:
    (home / "sub").mkdir()
    with pytest.raises(ConfigError, match=said) as caught:
        loaded(home, text)
    sentence = caught.value.sentence()
    assert sentence.startswith(str(home / "nightcrew.toml"))
    assert "\n" not in sentence
    assert not {"hunter2", "`int`", "`str`", "array", "$."} & set(sentence.split())
    assert "hunter2" not in sentence
    assert re.search(cure, caught.value.hint), caught.value.hint


def test_a_file_that_is_not_utf8_or_has_a_byte_order_mark_is_understood(home: Path) -> None:
    file = written(home, SMALL)
    file.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load(file, {}).repos[0].name == "web"
    file.write_bytes(b"# \xff\n" + SMALL.encode())
    with pytest.raises(ConfigError, match="byte 2 is not UTF-8"):
        load(file, {})


def git(*args: str, cwd: Path) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", *who, *args], cwd=cwd, check=True, capture_output=True)


def test_the_base_branch_is_what_head_names_in_every_kind_of_repository(home: Path) -> None:
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=home)
    git("clone", "-q", "--bare", ".", "bare.git", cwd=home)
    git("worktree", "add", "-q", "-b", "feature/x", "linked", cwd=home)
    for path, branch in (("bare.git", "trunk"), ("linked", "feature/x")):
        config = loaded(home, changed(REPO, f"path = {json.dumps(path)}"))
        assert (config.repos[0].url, config.repos[0].base) == (str(home / path), branch)


def test_a_base_that_head_does_not_name_is_asked_for_not_guessed(home: Path) -> None:
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=home)
    git("checkout", "-q", "--detach", cwd=home)
    with pytest.raises(ConfigError, match=r"base .*cannot be told from HEAD"):
        loaded(home, SMALL)
    assert loaded(home, SMALL + 'base = "trunk"\n').repos[0].base == "trunk"


def test_relative_paths_start_at_the_folder_of_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("init", "-q", "-b", "main", "there/web", cwd=home)
    (home / "conf").mkdir()
    written(home / "conf", changed(REPO, 'path = "../there/web"'))
    monkeypatch.chdir(home)
    config = load(Path("conf/nightcrew.toml"), {})
    assert config.repos[0].url == str(home / "there" / "web")
    assert config.state_dir == home / "conf" / ".nightcrew"


EXAMPLE = Path(__file__).parent.parent / "docs" / "config.example.toml"


def test_the_example_in_the_docs_loads_and_shows_every_key(home: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    config = loaded(home, text)
    shown = {"lanes": {"claude": 4}, "boards": {"todo": 4}, "labels": {"heavy": 1}}
    assert (config.policy, config.keep) == (Policy(**shown), Keep())
    assert (config.state_dir, config.workspaces_dir) == (home / ".nightcrew", home / ".nightcrew" / "workspaces")
    settings = {"policy", "path", "home", "boards", "forges", "agents_order", "repos"}
    kinds = (Config, Policy, Budget, Caps, Cap, Keep, Repo, GateSettings, Hooks, FollowUp)
    keys = {f.name for kind in kinds for f in fields(kind)} - settings - {"budget", "caps"}
    assert {key for key in keys if not re.search(rf"\b{key}\b", text)} == set()
