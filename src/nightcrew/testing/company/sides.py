"""The sides of a fake company: any of its boards with any of its forges, filled with tickets, and looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nightcrew.testing.company.gitea import Gitea
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.company.gitlab_state import Issue as GitLabIssue
from nightcrew.testing.company.gitlab_state import Place as GitLabPlace
from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.jira_state import Issue as JiraIssue
from nightcrew.testing.company.linear import Linear
from nightcrew.testing.company.standin import Standin

PRIORITY_LABELS = {1: "P0", 2: "P1", 3: "P2", 4: "P3"}
FILES = {"README.md": "# Web\n", "app.py": "print('hello')\n"}


@dataclass(frozen=True)
class Shown:
    """One ticket as people see it on the board. `state` is one of working, review, done, blocked, failed, open."""

    key: str
    state: str
    comments: int
    link: str  # what the progress comment or the native link leads to


@dataclass(frozen=True)
class Opened:
    """One pull request as people see it."""

    number: int
    branch: str
    state: str
    body: str


class BoardSide(Protocol):
    """A board. `toml` are the lines of its [board], `env` what they refer to."""

    @property
    def standin(self) -> Standin: ...
    @property
    def toml(self) -> str: ...
    @property
    def env(self) -> Mapping[str, str]: ...

    def ticket(self, title: str, priority: int = 0, blocked_by: Sequence[str] = ()) -> str:
        """Somebody writes a ticket; its key. `blocked_by` are keys."""

    def shown(self) -> list[Shown]:
        """Every ticket, in the order they were made."""


class ForgeSide(Protocol):
    """A forge with one repository. `toml` are the lines of its [forges.hub]."""

    @property
    def standin(self) -> Standin: ...
    @property
    def toml(self) -> str: ...
    @property
    def env(self) -> Mapping[str, str]: ...

    def clone_url(self) -> str: ...
    def pulls(self) -> list[Opened]: ...
    def head(self, number: int) -> str: ...
    def merge(self, number: int) -> None: ...
    def ask(self, number: int, text: str) -> str:
        """Ada asks for a change; the head it was asked at."""


class GitHubSide:
    """Issues and pull requests of one repository; both sides may be the same GitHub."""

    def __init__(self, standin: GitHub, name: str = "acme/web") -> None:
        self.standin, self.name = standin, name
        self.env = {"GITHUB_TOKEN": "ghp_nightcrew"}
        with standin.turn:
            if name not in standin.state.places:
                standin.state.repository(name, FILES)

    @property
    def toml(self) -> str:
        return f'kind = "github"\nurl = "{self.standin.url}"\npace = 100000\n'

    def clone_url(self) -> str:
        return self.standin.clone_url(self.name)

    def pulls(self) -> list[Opened]:
        with self.standin.turn:
            found = [issue for issue in self.standin.state.places[self.name].issues.values() if issue.pull]
            return [Opened(i.number, i.pull.head, "merged" if i.pull.merged_at else i.state, i.body)
                    for i in found if i.pull]  # fmt: skip

    def merge(self, number: int) -> None:
        self.standin.state.merge(self.name, number)

    def head(self, number: int) -> str:
        with self.standin.turn:
            place = self.standin.state.places[self.name]
            return self.standin.state.head(place, place.issues[number])

    def ask(self, number: int, text: str) -> str:
        self.standin.state.say(self.name, number, "ada", text)
        return self.head(number)


class GitHubIssues(GitHubSide):
    """The board."""

    @property
    def toml(self) -> str:
        return f'{super().toml}repos = ["{self.name}"]\nlabels = ["nightcrew"]\n'

    def ticket(self, title: str, priority: int = 0, blocked_by: Sequence[str] = ()) -> str:
        labels = ("nightcrew", *((PRIORITY_LABELS[priority],) if priority else ()))
        numbers = tuple(int(key.rpartition("#")[2]) for key in blocked_by)
        made = self.standin.state.issue(self.name, title, "Please.", labels, blocked_by=numbers)
        return f"{self.name.partition('/')[2]}#{made.number}"

    def shown(self) -> list[Shown]:
        with self.standin.turn:
            found = [i for i in self.standin.state.places[self.name].issues.values() if not i.pull]
            return [Shown(f"{self.name.partition('/')[2]}#{i.number}", self._state(i.state, i.reason, i.labels),
                          len(i.comments), i.comments[0].body if i.comments else "") for i in found]  # fmt: skip

    def _state(self, state: str, reason: str | None, labels: Sequence[str]) -> str:
        if state == "closed":
            return "done" if reason == "completed" else "closed"
        return next((label[11:] for label in labels if label.startswith("nightcrew: ")), "open")


class GitLabSide:
    """Issues and merge requests of one project."""

    def __init__(self, standin: GitLab, name: str = "acme/web") -> None:
        self.standin, self.name = standin, name
        self.env = {"GITLAB_TOKEN": "glpat-nightcrew"}
        with standin.turn:
            if name not in standin.state.places:
                standin.state.project(name, FILES)

    @property
    def toml(self) -> str:
        return f'kind = "gitlab"\nurl = "{self.standin.url}"\npace = 100000\n'

    @property
    def place(self) -> GitLabPlace:
        return self.standin.state.places[self.name]

    def clone_url(self) -> str:
        return self.standin.clone_url(self.name)

    def pulls(self) -> list[Opened]:
        states = {"opened": "open"}
        with self.standin.turn:
            found = self.place.merges.values()
            return [Opened(m.iid, m.source, states.get(m.state, m.state), m.body) for m in found]

    def merge(self, number: int) -> None:
        with self.standin.turn:
            self.standin.state.merge(self.place, self.place.merges[number])

    def head(self, number: int) -> str:
        with self.standin.turn:
            return self.standin.state.head(self.place, self.place.merges[number])

    def ask(self, number: int, text: str) -> str:
        with self.standin.turn:
            self.standin.state.note(self.place.merges[number], "ada", text)
        return self.head(number)


class GitLabIssues(GitLabSide):
    """The board."""

    @property
    def toml(self) -> str:
        return f'{super().toml}projects = ["{self.name}"]\nlabels = ["nightcrew"]\n'

    def ticket(self, title: str, priority: int = 0, blocked_by: Sequence[str] = ()) -> str:
        labels = ("nightcrew", *((PRIORITY_LABELS[priority],) if priority else ()))
        made = self.standin.state.issue(self.name, title, "Please.", labels)
        made.blocked_by = [(self.name, int(key.rpartition("#")[2])) for key in blocked_by]
        return f"{self.name.partition('/')[2]}#{made.iid}"

    def shown(self) -> list[Shown]:
        with self.standin.turn:
            return [self._shown(issue) for issue in self.place.issues.values()]

    def _shown(self, issue: GitLabIssue) -> Shown:
        label = next((one.partition("::")[2] for one in issue.labels if one.startswith("nightcrew::")), "open")
        said = [note.body for note in issue.notes() if note.author == "nightcrew" and not note.system]
        state = "done" if issue.state == "closed" and label in ("open", "done") else label
        return Shown(f"{self.name.partition('/')[2]}#{issue.iid}", state, len(said), "".join(said[:1]))


class GiteaSide:
    """Pull requests of one repository."""

    def __init__(self, standin: Gitea, name: str = "acme/web") -> None:
        self.standin, self.name = standin, name
        self.env = {"GITEA_TOKEN": "gta_nightcrew"}
        with standin.turn:
            standin.state.repository(name, FILES)

    @property
    def toml(self) -> str:
        return f'kind = "gitea"\nurl = "{self.standin.url}"\n'

    def clone_url(self) -> str:
        return self.standin.clone_url(self.name)

    def pulls(self) -> list[Opened]:
        with self.standin.turn:
            found = self.standin.state.places[self.name].pulls.values()
            return [Opened(p.number, p.head, "open" if p.open else "merged" if p.merged_at else "closed", p.body)
                    for p in found]  # fmt: skip

    def merge(self, number: int) -> None:
        self.standin.state.merge(self.name, number)

    def head(self, number: int) -> str:
        with self.standin.turn:
            place = self.standin.state.places[self.name]
            return self.standin.state.head(place, place.pulls[number])

    def ask(self, number: int, text: str) -> str:
        self.standin.state.say(self.name, number, "ada", text)
        return self.head(number)


class LinearTeam:
    """The board: one team."""

    def __init__(self, standin: Linear) -> None:
        self.standin = standin
        self.env = {"LINEAR_API_KEY": "lin_api_nightcrew"}

    @property
    def toml(self) -> str:
        return f'kind = "linear"\nurl = "{self.standin.address}"\nteam = "ENG"\nlabels = ["nightcrew"]\n'

    def ticket(self, title: str, priority: int = 0, blocked_by: Sequence[str] = ()) -> str:
        labels = ("nightcrew", "web")
        made = self.standin.state.issue(title, "Please.", labels, priority=priority, blocked_by=blocked_by)
        return str(made["identifier"])

    def shown(self) -> list[Shown]:
        names = {"Todo": "open", "In Progress": "working", "In Review": "review", "Done": "done", "Canceled": "closed"}
        state = self.standin.state
        with self.standin.turn:
            return [Shown(one["identifier"], names.get(one["state"]["name"], "other"), len(state.said(one["id"])),
                          "".join(state.links(one["id"]))) for one in state.issues.values()]  # fmt: skip


class JiraProject:
    """The board: one project, whose searches lag behind its writes."""

    def __init__(self, standin: Jira) -> None:
        self.standin = standin
        self.env = {"JIRA_TOKEN": "jira-nightcrew"}
        standin.state.project("ENG", name="Web")
        standin.state.lag = 1

    @property
    def toml(self) -> str:
        login = 'email = "nightcrew@acme.example"\n'
        return f'kind = "jira"\nurl = "{self.standin.url}"\nprojects = ["ENG"]\nlabels = ["nightcrew"]\n{login}'

    def ticket(self, title: str, priority: int = 0, blocked_by: Sequence[str] = ()) -> str:
        name = ("Medium", "Highest", "High", "Medium", "Low")[priority]
        made = self.standin.state.issue("ENG", title, labels=("nightcrew", "web"), priority=name)
        for blocker in blocked_by:
            self.standin.state.blocks(blocker, made.key)
        return made.key

    def shown(self) -> list[Shown]:
        with self.standin.turn:
            return [self._shown(issue) for issue in self.standin.state.issues.values()]

    def _shown(self, issue: JiraIssue) -> Shown:
        names = {"To Do": "open", "In Progress": "working", "Done": "done"}
        link = next((str(one["object"]["url"]) for one in issue.links.values()), "")
        return Shown(issue.key, names.get(issue.status.name, "other"), len(issue.comments), link)


BOARDS: dict[str, Callable[[Path], BoardSide]] = {
    "github": lambda folder: GitHubIssues(GitHub(folder)), "gitlab": lambda folder: GitLabIssues(GitLab(folder)),
    "linear": lambda folder: LinearTeam(Linear()), "jira": lambda folder: JiraProject(Jira()),
}  # fmt: skip
"""Kind -> the side, whose stand-in keeps its files in a folder and is not running yet."""
FORGES: dict[str, Callable[[Path], ForgeSide]] = {
    "github": lambda folder: GitHubSide(GitHub(folder)), "gitlab": lambda folder: GitLabSide(GitLab(folder)),
    "gitea": lambda folder: GiteaSide(Gitea(folder)),
}  # fmt: skip
"""The same for forges."""


def forge_beside(board: BoardSide, kind: str, folder: Path) -> ForgeSide:
    """The forge; where it is the service that the board is on, the same stand-in."""
    if kind == "github" and isinstance(board, GitHubSide):
        return GitHubSide(board.standin, board.name)
    if kind == "gitlab" and isinstance(board, GitLabSide):
        return GitLabSide(board.standin, board.name)
    return FORGES[kind](folder)
