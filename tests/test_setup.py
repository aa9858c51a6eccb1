"""`nightcrew init` finds out what is there and writes a nightcrew.toml that loads as it is."""

from __future__ import annotations

import re
import subprocess
import tomllib
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.app import adapter
from nightcrew.config import load
from nightcrew.errors import ConfigError
from nightcrew.setup import KINDS, Kind, Pulls, Survey, Wanted, config_text, guess, pulls_for, survey, write_config
from tests.conftest import AUTHOR, Repository


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for programs, first on the PATH of `environ`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def environ(programs: Path) -> dict[str, str]:
    return {"PATH": f"{programs}:/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin", "HOME": "/nonexistent", **AUTHOR}


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_a_plain_repository_is_seen_as_it_is(repo: Repository, environ: dict[str, str]) -> None:
    found = survey(repo.path / "docs", environ)
    assert (found.root, found.base, found.remote, found.dirty) == (repo.path, "main", "", False)
    assert (found.language, found.test_command, found.tickets) == ("", "", None)
    repo.write("new.txt", "")
    (repo.path / "tickets").mkdir()
    after = survey(repo.path, environ)
    assert (after.dirty, after.tickets) == (True, repo.path / "tickets")


def test_agents_on_the_path_are_asked_for_their_version(
    repo: Repository, environ: dict[str, str], programs: Path
) -> None:
    program(programs, "claude", 'echo "2.1.330 (Claude Code)"')
    program(programs, "codex", 'echo "codex-cli 0.169.0"')
    assert survey(repo.path, environ).agents == (("claude", "2.1.330"), ("codex", "0.169.0"))


def test_an_agent_that_does_not_answer_is_ended_with_all_it_started(
    repo: Repository, environ: dict[str, str], programs: Path, tmp_path: Path
) -> None:
    program(programs, "claude", f"sleep 60 & echo $! > {tmp_path}/child; wait")
    program(programs, "codex", "exit 3")
    found = survey(repo.path, environ, patience=0.5)
    assert found.agents == (("claude", ""), ("codex", ""))
    child = tmp_path / "child"
    assert not (child.exists() and alive(child.read_text().strip()))


def alive(pid: str) -> bool:
    ps = subprocess.run(["ps", "-o", "stat=", "-p", pid], check=False, capture_output=True, text=True)
    state = ps.stdout.strip()
    return state != "" and not state.startswith("Z")


def test_the_base_is_the_default_branch_of_the_remote_else_the_one_checked_out(
    repo: Repository, environ: dict[str, str], tmp_path: Path
) -> None:
    repo.git("clone", "-q", str(repo.path), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    clone.git("switch", "-q", "-c", "feature/x")
    assert survey(clone.path, environ).base == "main"
    clone.git("branch", "-q", "-D", "main")
    assert survey(clone.path, environ).base == "feature/x"
    clone.git("checkout", "-q", "--detach")
    clone.git("branch", "-q", "-D", "feature/x")
    with pytest.raises(ConfigError, match="is on no branch"):
        survey(clone.path, environ)


def test_the_password_of_a_remote_is_left_out(repo: Repository, environ: dict[str, str]) -> None:
    repo.git("remote", "add", "origin", "https://ann:hunter2@example.com/x.git")
    assert survey(repo.path, environ).remote == "https://ann@example.com/x.git"


@pytest.mark.parametrize(
    ("files", "language", "command"),
    [
        ({"pyproject.toml": "[tool.pytest]"}, "Python", "python3 -m pytest"),
        ({"pyproject.toml": "[project]", "tests/x": "", "uv.lock": ""}, "Python", "uv run pytest"),
        ({"pyproject.toml": "pytest", "poetry.lock": ""}, "Python", "poetry run pytest"),
        ({"pyproject.toml": "", "Makefile": "a: b\ntest: a\n\tx"}, "Python", "make test"),
        ({"package.json": '{"scripts": {"test": "vitest"}}'}, "JavaScript", "npm test"),
        ({"package.json": '{"scripts": {"test": "x"}}', "pnpm-lock.yaml": ""}, "JavaScript", "pnpm test"),
        ({"package.json": '{"scripts": {"test": "x"}}', "yarn.lock": ""}, "JavaScript", "yarn test"),
        ({"package.json": '{"scripts": {"test": "echo \\"Error: no test specified\\""}}'}, "JavaScript", ""),
        ({"package.json": "[1"}, "JavaScript", ""),
        ({"package.json": '{"scripts": ["test"]}'}, "JavaScript", ""),
        ({"Cargo.toml": ""}, "Rust", "cargo test"),
        ({"go.mod": ""}, "Go", "go test ./..."),
        ({"Makefile": "test:\n\tx"}, "", "make test"),
        ({"Makefile": "test := x\ntesting:\n"}, "", ""),
    ],
)
def test_the_test_command_is_guessed_from_the_files(
    repo: Repository, environ: dict[str, str], files: dict[str, str], language: str, command: str
) -> None:
    for name, text in files.items():
        repo.write(name, text)
    found = survey(repo.path, environ)
    assert (found.language, found.test_command) == (language, command)


def test_what_is_missing_is_said_with_the_cure(environ: dict[str, str], tmp_path: Path) -> None:
    outside = {**environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    with pytest.raises(ConfigError, match="is not in a git repository") as caught:
        survey(tmp_path, outside)
    assert "git init" in caught.value.hint
    Repository(tmp_path).git("init", "-q")
    with pytest.raises(ConfigError, match="has no commits yet") as caught:
        survey(tmp_path, outside)
    assert "git commit" in caught.value.hint
    with pytest.raises(ConfigError, match="git is not on the PATH"):
        survey(tmp_path, {"PATH": str(tmp_path)})


def test_the_written_file_loads_as_it_is(repo: Repository, environ: dict[str, str], programs: Path) -> None:
    program(programs, "codex", "echo 1.2.3")
    repo.write("Cargo.toml", "")
    file = repo.path / "nightcrew.toml"
    text = write_config(survey(repo.path, environ), file)
    assert file.read_text() == text
    config = load(file, {})
    assert (config.agents_order, config.boards["folder"]) == (("codex",), ("folder", {"path": "tickets"}))
    only = config.repos[0]
    assert (only.name, only.url, only.base) == ("upstream", str(repo.path), "main")
    assert only.gates.commands == ("cargo test",)


def test_every_commented_default_is_a_key_that_loads(repo: Repository) -> None:
    found = Survey(repo.path, "main")
    file = repo.path / "nightcrew.toml"
    plain = load(_written(file, config_text(found, repo.path)), {})
    text = re.sub(r"^# (?=[a-z_]+ = )", "", config_text(found, repo.path), flags=re.M)
    full = load(
        _written(file, text.replace('commands = ["make test"]', "commands = []")), {"DATABASE_URL": "sqlite:///x"}
    )
    assert len(text.splitlines()) == len(config_text(found, repo.path).splitlines())
    assert (full.policy, full.repos, full.agents_order) == (plain.policy, plain.repos, plain.agents_order)
    assert (full.scan_every, full.state_dir, full.workspace) == (plain.scan_every, plain.state_dir, plain.workspace)
    assert full.identity == plain.identity


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def test_odd_names_and_commands_still_make_valid_toml(repo: Repository, tmp_path: Path) -> None:
    odd = repo.path.rename(tmp_path / 'Ünï "code" \\n')
    found = Survey(odd, 'feat/"x"', test_command='echo "a\\b"\t\x7f')
    parsed = tomllib.loads(config_text(found, odd))
    assert parsed["repos"][0]["gates"]["commands"] == ['echo "a\\b"\t\x7f']
    config = load(_written(odd / "nightcrew.toml", config_text(found, odd)), {})
    assert (config.repos[0].base, config.repos[0].url) == ('feat/"x"', str(odd))


def test_an_existing_file_is_never_overwritten(repo: Repository) -> None:
    file = repo.write("nightcrew.toml", "mine")
    with pytest.raises(ConfigError, match=r"is there already; nothing was changed"):
        write_config(Survey(repo.path, "main"), file)
    assert file.read_text() == "mine"
    assert not (repo.path / "tickets").exists()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_config(Survey(tmp_path, "main"), tmp_path / "gone" / "nightcrew.toml")


def test_an_example_ticket_comes_only_with_a_new_tickets_folder(repo: Repository) -> None:
    write_config(Survey(repo.path, "main"), repo.path / "nightcrew.toml")
    assert "\nstate: example\n" in (repo.path / "tickets" / "example.md").read_text()
    (repo.path / "nightcrew.toml").unlink()
    (repo.path / "tickets" / "example.md").unlink()
    write_config(Survey(repo.path, "main"), repo.path / "nightcrew.toml")
    assert list((repo.path / "tickets").iterdir()) == []


def test_the_state_folder_stays_out_of_git(repo: Repository) -> None:
    write_config(Survey(repo.path, "main"), repo.path / "nightcrew.toml")
    (repo.path / ".nightcrew" / "state.db").write_text("x")
    assert repo.git("status", "--porcelain", "--untracked-files=all").split() == [
        "??", "nightcrew.toml", "??", "tickets/example.md",
    ]  # fmt: skip


# -- boards that are services ------------------------------------------------------------------------------------------
def wanted(kind: Kind, **more: object) -> Wanted:
    chosen = {
        "places": ("acme/web",),
        "label": "nightcrew",
        "more": {key: "https://acme.example.com" for key, _, _ in kind.asks},
    }
    return Wanted(kind, "MY_TOKEN", **{**chosen, **more})  # type: ignore[arg-type]


HERE = {point.name for point in entry_points(group="nightcrew.boards")} & KINDS.keys()


@pytest.mark.parametrize("kind", [KINDS[name] for name in sorted(HERE)], ids=sorted(HERE))
def test_the_file_for_a_service_loads_and_its_adapters_take_it(
    kind: Kind, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    remote = f"git@{kind.hosts[0]}:acme/web.git" if kind.hosts else "https://github.com/acme/web"
    told = wanted(kind, places=("ENG",)) if kind.name == "jira" else wanted(kind)
    pulls = pulls_for(remote, told, ["github", "gitlab"], {"GITHUB_TOKEN": "word"})
    assert pulls is not None
    file = repo.path / "nightcrew.toml"
    text = write_config(Survey(repo.path, "main", remote), file, replace(told, pulls=pulls))
    config = load(file, {})
    ((name, (made, settings)),) = config.boards.items()
    assert (made, settings[kind.key]) == (kind.name, "$MY_TOKEN")
    assert adapter("boards", made)(name, settings, repo.path).name == name
    only = config.repos[0]
    assert (only.url, only.forge) == (f"https://{(kind.hosts or ('github.com',))[0]}/acme/web.git", pulls.kind)
    assert adapter("forges", pulls.kind)("hub", config.forges[pulls.kind][1], repo.path).name == "hub"
    assert "s3cret" not in text
    assert not (repo.path / "tickets").exists()


@given(names=st.lists(st.text(min_size=1), min_size=1), label=st.text(min_size=1), project=st.text())
def test_whatever_people_call_their_projects_the_file_says_it_back(names: list[str], label: str, project: str) -> None:
    more = {"project": project, "projects": True, "states": {label: "open"}, "authors": names}
    slugs = [f"acme/{name}" for name in names]
    told = wanted(KINDS["github"], places=slugs, label=label, projects=tuple(slugs), more=more)
    parsed = tomllib.loads(config_text(Survey(Path("/srv/web"), "main"), Path("/srv/web"), told))
    assert parsed["board"] == {"kind": "github", "repos": slugs, "labels": [label], "token": "$MY_TOKEN", **more}
    assert parsed["repos"][0]["projects"] == slugs


@pytest.mark.parametrize("kind", ["linear", "jira"])
def test_a_project_that_is_no_repository_is_not_written_for_then_no_other_ticket_would_be_taken(kind: str) -> None:
    told = wanted(KINDS[kind], projects=("iOS/Android", "Web"))
    assert (
        "projects"
        not in tomllib.loads(config_text(Survey(Path("/srv/web"), "main"), Path("/srv/web"), told))["repos"][0]
    )


def test_what_the_address_does_not_say_about_the_repository_is_written(repo: Repository) -> None:
    plain = wanted(KINDS["github"], projects=("acme/web", "acme/plans"))
    far = Survey(repo.path, "main", "https://github.com/acme/web.git")
    parsed = tomllib.loads(config_text(far, repo.path, plain))
    assert parsed["repos"][0]["projects"] == ["acme/web", "acme/plans"]
    assert parsed["repos"][0]["path"] == "."
    with_forge = wanted(KINDS["github"], projects=("acme/web", "acme/plans"), pulls=Pulls("github", "MY_TOKEN"))
    assert tomllib.loads(config_text(far, repo.path, with_forge))["repos"][0]["projects"] == ["acme/plans"]


@pytest.mark.parametrize(
    ("remote", "kind"),
    [
        ("https://github.com/acme/web.git", "github"), ("git@gitlab.com:acme/crew/web.git", "gitlab"),
        ("ssh://git@gitlab.example.com:2222/acme/web", "gitlab"), ("/srv/github/web.git", ""), ("", ""),
        ("../gitlab/web", ""), ("https://example.com/github/web", ""), ("C:\\code\\web", ""),
    ],
)  # fmt: skip
def test_the_board_is_guessed_from_the_remote(remote: str, kind: str) -> None:
    assert guess(remote) == kind


@pytest.mark.parametrize(
    ("remote", "url", "environ", "pulls"),
    [
        ("git@github.com:acme/web", "", {}, Pulls("github", "MY_TOKEN")),
        ("http://127.0.0.1:3000/acme/web.git", "http://127.0.0.1:3000", {}, Pulls("github", "MY_TOKEN", "http://127.0.0.1:3000")),
        ("git@git.acme.io:acme/web", "https://git.acme.io/api/v3", {}, Pulls("github", "MY_TOKEN", "https://git.acme.io/api/v3")),
        ("git@github.com:acme/web", "https://git.acme.io/api/v3", {}, None),
        ("git@gitlab.com:acme/web", "", {}, None),
        ("git@gitlab.com:acme/web", "", {"GITLAB_TOKEN": "word"}, Pulls("gitlab", "GITLAB_TOKEN")),
        ("/srv/web.git", "", {"GITLAB_TOKEN": "word"}, None),
    ],
)  # fmt: skip
def test_the_forge_is_where_the_remote_is_and_its_token_there(
    remote: str, url: str, environ: dict[str, str], pulls: Pulls | None
) -> None:
    assert pulls_for(remote, wanted(KINDS["github"], url=url), ["github", "gitlab", "local"], environ) == pulls
