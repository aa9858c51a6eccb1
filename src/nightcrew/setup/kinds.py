"""Boards and forges that are services, as `nightcrew init` knows them: data, so that one more is a few lines."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Kind:
    """A board that is a service. Where `hosts` are given, a forge of the same name is there too."""

    name: str  # of its entry point
    title: str
    token: str  # the environment variable its token is usually in
    places: str  # the setting that names whose tickets are taken
    place: str  # what one of them is called
    cure: str  # where one gets a token, and what it must be able to do
    options: Mapping[str, str]  # option of `init` -> the setting it gives; the first one names places
    hosts: tuple[str, ...] = ()
    key: str = "token"  # the setting that holds the credential
    asks: tuple[tuple[str, str, str], ...] = ()  # what it needs besides: (setting, in words, "" or KEY=VALUE without)
    single: frozenset[str] = frozenset()  # settings that take one name, not a list
    routes: bool = True  # a ticket's project is the place it is in
    any_place: str = ""  # what is named while none is chosen yet, where the adapter insists on one

    def value(self, setting: str, names: Sequence[str]) -> object:
        """These names as that setting takes them."""
        return (names[0] if names else "") if setting in self.single else tuple(names)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("github", "GitHub Issues", "GITHUB_TOKEN", "repos", "repository",
             "Make one at https://github.com/settings/personal-access-tokens (contents, issues, pull requests: write)",
             {"repo_slug": "repos"}, ("github.com",)),
        Kind("gitlab", "GitLab issues", "GITLAB_TOKEN", "projects", "project",
             "Make one at https://gitlab.com/-/user_settings/personal_access_tokens (scope: api)",
             {"project": "projects", "repo_slug": "projects"}, ("gitlab.com",), any_place="any/any"),
        Kind("linear", "Linear", "LINEAR_API_KEY", "team", "team",
             "Make a personal API key in Linear under Settings, Security & access (read, write)",
             {"team": "team", "project": "project"}, single=frozenset({"team", "project"}), routes=False),
        Kind("jira", "Jira", "JIRA_TOKEN", "projects", "project",
             "Make an API token at https://id.atlassian.com/manage-profile/security/api-tokens",
             {"project": "projects"}, asks=(("url", "the address of its site, like https://acme.atlassian.net", ""),
                   ("email", "the address of the login whose token it is", "api=data-center"))),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Pulls:
    """Where pull requests are opened: the kind of forge, its variable, its address ("" = the usual one)."""

    kind: str
    token: str
    url: str = ""


@dataclass(frozen=True)
class Wanted:
    """What was chosen for a board that is a service. `token` is the name of the variable, never what is in it."""

    kind: Kind
    token: str
    places: tuple[str, ...] = ()
    label: str = ""
    url: str = ""  # "" = the service's usual address
    more: Mapping[str, object] = field(default_factory=dict)
    pulls: Pulls | None = None  # None: they stay on this machine
    projects: tuple[str, ...] = ()  # whose tickets belong to the repository, besides those it finds by its address

    def settings(self) -> dict[str, object]:
        """Its table, as an adapter takes it."""
        table: dict[str, object] = {self.kind.places: self.kind.value(self.kind.places, self.places), **self.more}
        table |= {"labels": (self.label,)} if self.label else {}
        table |= {self.kind.key: f"${self.token}"}
        return table | ({"url": self.url} if self.url else {})


def guess(remote: str) -> str:
    """The kind whose host the remote is on, "" for none.

    >>> [guess(remote) for remote in ("git@github.com:acme/web.git", "https://gitlab.example.com/acme/web", "/srv/web")]
    ['github', 'gitlab', '']
    """
    host = place_of(remote)[0].partition(":")[0]
    return next((name for name, kind in KINDS.items() if kind.hosts and (host in kind.hosts or name in host)), "")


def place_of(remote: str) -> tuple[str, str]:
    """Host (with its port, if it is an HTTP one) and path of a remote; ("", "") for a folder.

    >>> place_of("ssh://git@gitlab.com:2222/acme/crew/web.git"), place_of("git@github.com:acme/web")
    (('gitlab.com', 'acme/crew/web'), ('github.com', 'acme/web'))
    """
    parts = urlsplit(remote)
    if parts.scheme in ("http", "https", "ssh", "git") and parts.hostname:
        host = parts.netloc.rpartition("@")[2] if parts.scheme.startswith("http") else parts.hostname
        return host, _path(parts.path)
    scp = re.fullmatch(r"(?:[^@/:]+@)?([\w.-]{2,}):(?!/)(.+)", remote)  # "C:\\" is no host
    return (scp[1], _path(scp[2])) if scp else ("", "")


def _path(text: str) -> str:
    return text.strip("/").removesuffix(".git")


def over_http(remote: str) -> str:
    """The address to fetch from with a token; "" for a folder.

    >>> over_http("git@github.com:acme/web.git"), over_http("http://ada@localhost:3000/acme/web")
    ('https://github.com/acme/web.git', 'http://localhost:3000/acme/web.git')
    """
    host, path = place_of(remote)
    scheme = "http" if remote.startswith("http://") else "https"
    return f"{scheme}://{host}/{path}.git" if host else ""


def pulls_for(remote: str, board: Wanted, forges: Collection[str], environ: Mapping[str, str]) -> Pulls | None:
    """The forge that the remote is on, when it is installed and its token is there; None else."""
    host = place_of(remote)[0]
    own = {urlsplit(board.url).netloc, urlsplit(board.url).hostname} - {"", None}
    for name, kind in KINDS.items():
        if name not in forges or not kind.hosts or not host:
            continue
        if name == board.kind.name and (host in own or (not own and host in kind.hosts)):
            return Pulls(name, board.token, board.url)
        if host in kind.hosts and environ.get(kind.token):
            return Pulls(name, kind.token)
    return None
