"""What the documentation says holds: pages are as the code is, links lead somewhere, examples load, and lines run."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from nightcrew import config
from nightcrew.adapters.agents.command import Command
from nightcrew.app import adapter
from nightcrew.cli import COMMANDS, cli
from nightcrew.core.outcome import Outcome
from nightcrew.stages import brief
from nightcrew.testing.reference import fields_of, page, settings_of
from tests.conftest import AUTHOR, Repository
from tests.standins import claude

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language ("" for those that name none)."""
    fenced = re.findall(r"^```(.*?)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.S | re.M)
    return [block for named, block in fenced if named == language]


def without_blocks(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)


# -- pages and links ---------------------------------------------------------------------------------------------------
def test_the_reference_is_as_the_code_is() -> None:
    argv = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_its_section() -> None:
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    groups = {"pr": cli.get_command(None, "pr"), "rescue": cli.get_command(None, "rescue")}  # type: ignore[arg-type]
    below = [f"{name} {sub}" for name, group in groups.items() for sub in getattr(group, "commands", {})]
    assert len(below) > 5
    assert [name for name in [*COMMANDS, *below] if f"\n## nightcrew {name}\n" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "code", without_blocks(path)))
    assert [link for link in links if not leads_somewhere(path, link)] == []


def leads_somewhere(path: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return link.startswith(("https://", "mailto:"))
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    return target.is_relative_to(ROOT) and target.exists() and (not anchor or anchor in anchors(target))


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", without_blocks(path), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        path = ahead.pop()
        if path not in seen and path.suffix == ".md":
            seen.add(path)
            links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
            ahead += [(path.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert sorted(set(PAGES) - seen) == []


def test_the_tests_that_the_design_names_are_there() -> None:
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("design.md", "followup.md"))
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", pages)
    assert len(named) > 10
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_the_design_shows_every_module() -> None:
    (house,) = [block for block in blocks(DOCS / "design.md", "") if "src/nightcrew/" in block]
    package = ROOT / "src" / "nightcrew"
    top = [p.name + "/" * p.is_dir() for p in package.iterdir() if not p.name.startswith(("__init__", "__pycache__"))]
    core = [p.stem for p in (package / "core").glob("[a-z]*.py")]
    assert [name for name in [*top, *core] if name not in house and name != "py.typed"] == []


ADAPTERS = [("boards", "folder"), ("agents", "claude"), ("agents", "codex"), ("agents", "command")]


@pytest.mark.parametrize(("port", "kind"), ADAPTERS)
def test_every_setting_says_what_it_means(port: str, kind: str) -> None:
    settings = settings_of(port, kind)
    assert settings
    assert [field.name for field in fields_of(settings) if not field.says] == []


def test_every_key_of_the_configuration_says_what_it_means() -> None:
    rows = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8").splitlines()
    keys = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows if row.startswith("| `")]
    assert len(keys) > 60
    assert [key for key, _type, _default, says in keys if not says] == []


def test_every_outcome_and_state_is_on_its_page() -> None:
    assert [o for o in Outcome if f"\n| `{o}` |" not in page("outcomes")] == []
    assert page("states").count("-->") > 20


# -- examples ----------------------------------------------------------------------------------------------------------
def examples(language: str) -> list[ParameterSet]:
    """Every block of a language, to be named by its page."""
    found = [(name, number, block) for name, path in zip(NAMES, PAGES, strict=True)
             for number, block in enumerate(blocks(path, language), 1)]  # fmt: skip
    return [pytest.param(block, id=f"{name}-{number}") for name, number, block in found]


@pytest.mark.parametrize("text", examples("toml"))
def test_an_example_of_the_configuration_loads(text: str, repo: Repository) -> None:
    file = repo.write("nightcrew.toml", whole(text))
    loaded = config.load(file, {"NIGHTCREW_DATABASE_URL": "postgresql://localhost/nightcrew"})
    for name, (kind, settings) in loaded.boards.items():
        assert adapter("boards", kind)(name, settings, repo.path).name == name
    for name, (kind, settings) in loaded.agents.items():
        assert adapter("agents", kind)(name, settings).name == name


def whole(text: str) -> str:
    """An example with the tables that it leaves out."""
    there = tomllib.loads(text)
    repos = '[[repos]]\nname = "app"\npath = "."\n'
    if "repos" not in there or isinstance(there["repos"], dict):
        text = text.replace("[repos.", f"{repos}[repos.", 1) if "repos" in there else f"{text}\n{repos}"
    text += "" if "agents" in there else "\n[agents.claude]\n"
    return text + ("" if {"board", "boards"} & there.keys() else '\n[board]\nkind = "folder"\npath = "tickets"\n')


@pytest.mark.parametrize("text", examples("python"))
def test_an_example_in_python_is_python(text: str) -> None:
    assert compile(text, "example", "exec")


def test_the_example_of_a_workflow_is_one() -> None:
    (text,) = blocks(DOCS / "how-to" / "write-a-workflow.md", "markdown")
    workflow = brief.checked(text.encode(), {})
    assert (workflow.commands, workflow.protected) == (("npm run lint",), ("migrations/**",))
    assert (workflow.hooks.after_create, bool(workflow.template)) == ("npm ci", True)


def test_the_lines_a_program_may_print_are_read_as_the_page_says() -> None:
    (lines,) = blocks(DOCS / "how-to" / "use-your-own-agent.md", "")
    ending = Command("mine", {"command": ["true"]}).read(
        (line.encode() for line in lines.splitlines()), 1, "", datetime(2026, 11, 22, tzinfo=UTC)
    )
    assert (ending.outcome, ending.resets_at, ending.usage.tokens) == (Outcome.RATE_LIMITED, 1795651200, 1500)


# -- lines that a newcomer types ---------------------------------------------------------------------------------------
@pytest.fixture
def newcomer(repo: Repository, tmp_path: Path) -> dict[str, str]:
    """A home with a repository, and an environment with nightcrew and a stand-in for Claude Code on the PATH."""
    shutil.move(repo.path, tmp_path / "your-repository")
    claude(tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8", **AUTHOR}


def said(env: dict[str, str], script: str) -> str:
    """What a shell prints for these lines; fails when one of them does."""
    argv = ["sh", "-e", "-c", script]
    done = subprocess.run(argv, env=env, cwd=env["HOME"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
async def test_the_five_lines_of_the_readme_lead_to_a_pull_request(newcomer: dict[str, str]) -> None:
    (lines,) = [block for block in blocks(ROOT / "README.md", "sh") if "nightcrew init" in block]
    assert len(lines.splitlines()) == 5
    repository = Path(newcomer["HOME"]) / "your-repository"
    shell = await asyncio.create_subprocess_exec(
        "sh", "-e", "-c", f"exec 2>stderr\n{lines}", env=newcomer, cwd=newcomer["HOME"], start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            while not (repository / ".git" / "nightcrew" / "pulls" / "1.json").exists():
                assert shell.returncode is None, (repository.parent / "stderr").read_text()
                await asyncio.sleep(0.05)
    finally:
        os.killpg(shell.pid, signal.SIGINT)
        await shell.wait()
    again = "cd your-repository && nightcrew up --until-idle && nightcrew pr list && nightcrew pr diff 1"
    there = said(newcomer, again)
    assert len(list((repository / ".git" / "nightcrew" / "pulls").glob("*.json"))) == 1
    assert "Retry failed uploads once" in there
    assert "+one more line" in there


@pytest.mark.slow
def test_the_lines_of_the_quickstart_lead_to_a_merged_pull_request(newcomer: dict[str, str]) -> None:
    lines = "".join(block for block in blocks(DOCS / "quickstart.md", "sh") if "pip install" not in block)
    printed = said(newcomer, lines)
    assert "#1 merged." in printed
    repository = Repository(Path(newcomer["HOME"]) / "your-repository")
    assert (repository.path / "WORK.md").read_text() == "one more line\n" * 2
    assert "state: done" in next((repository.path / "tickets").glob("NC-1*")).read_text()
    assert "No open pull requests." in said(newcomer, "cd your-repository && nightcrew pr list")
