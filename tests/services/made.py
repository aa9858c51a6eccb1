"""The adapters under test, set up for what is in the stand-ins."""

from __future__ import annotations

from pathlib import Path

from nightcrew.adapters.boards.github import GitHubBoard
from nightcrew.adapters.boards.gitlab import GitLabBoard
from nightcrew.adapters.boards.jira import JiraBoard
from nightcrew.adapters.boards.linear import LinearBoard
from nightcrew.adapters.forges.gitea import GiteaForge
from nightcrew.adapters.forges.github import GitHubForge
from nightcrew.adapters.forges.gitlab import GitLabForge
from nightcrew.testing.company.gitea import Gitea
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.linear import Linear

ROOT = Path("/")


def github_board(github: GitHub, **settings: object) -> GitHubBoard:
    made = GitHubBoard("b", {"url": github.url, "repos": ["acme/web"], **settings}, ROOT)
    made.service.pace = None
    return made


def github_forge(github: GitHub, **settings: object) -> GitHubForge:
    made = GitHubForge("hub", {"url": github.url, **settings}, ROOT)
    made.service.pace = None
    return made


def gitlab_board(gitlab: GitLab, **settings: object) -> GitLabBoard:
    return GitLabBoard("b", {"url": gitlab.url, "projects": ["acme/web"], "pace": 10_000, **settings}, ROOT)


def gitlab_forge(gitlab: GitLab, **settings: object) -> GitLabForge:
    return GitLabForge("lab", {"url": gitlab.url, "pace": 10_000, **settings}, ROOT)


def gitea_forge(gitea: Gitea, **settings: object) -> GiteaForge:
    return GiteaForge("tea", {"url": gitea.url, **settings}, ROOT)


def jira_board(jira: Jira, **settings: object) -> JiraBoard:
    told = {"url": jira.url, "projects": ["ENG"], "email": "nightcrew@acme.example", **settings}
    return JiraBoard("b", told, ROOT)


def linear_board(linear: Linear, **settings: object) -> LinearBoard:
    return LinearBoard("b", {"url": linear.address, "team": "ENG", **settings}, ROOT)
