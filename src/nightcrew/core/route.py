"""Which repository a ticket is for: ordered rules, each step said, nothing guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from unicodedata import category, east_asian_width, normalize

from nightcrew.core.model import Repo, Ticket


@dataclass(frozen=True)
class RouteStep:
    """One rule and what it found. `outcome` is match, none (the next rule is asked), tie or unknown (both end it)."""

    rule: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class Route:
    """The decision. `repo` is None when it is unknown: such a ticket is never run. `reason` is one sentence for people.

    `agents` is the repository's order of preference, () = the crew's. `model` and `agent` are what labels wish
    ("model:opus", "agent:codex"), "" when they wish nothing; they are untrusted and may name what does not exist.
    """

    repo: Repo | None
    agents: tuple[str, ...]
    requires: tuple[str, ...]
    reason: str
    steps: tuple[RouteStep, ...]
    model: str = ""
    agent: str = ""


@dataclass(frozen=True)
class _Found:
    """What one rule says: the repositories it names, in words, and whether the ticket insists on this rule."""

    repos: tuple[Repo, ...]
    detail: str
    final: bool = False


def route(ticket: Ticket, repos: Sequence[Repo]) -> Route:
    """The one repository that the first matching rule names; several or none is unknown. Never raises."""
    model, model_steps = _wish(ticket.labels, "model")
    agent, agent_steps = _wish(ticket.labels, "agent")
    steps: list[RouteStep] = []
    chosen, reason = None, "No rule names a repository for it."
    for rule, ask in _RULES.items():
        found = ask(ticket, repos)
        if not found.repos and not found.final:
            steps.append(RouteStep(rule, "none", found.detail))
            continue
        chosen, outcome, reason = _verdict(found)
        steps.append(RouteStep(rule, outcome, found.detail))
        break
    wishes = (*model_steps, *agent_steps)
    return Route(chosen, chosen.agents if chosen else (), ticket.requires, reason, (*steps, *wishes), model, agent)


def explain(decision: Route) -> list[str]:
    """The decision and how it came about, one line each, for `nightcrew route TICKET`."""
    lines = [f"{decision.repo.name if decision.repo else 'unknown'}: {decision.reason}"]
    lines += [f"  {step.rule:9}{step.outcome:8} {step.detail}" for step in decision.steps]
    if decision.requires:
        lines.append(f"  needs a node with {', '.join(_show(name) for name in decision.requires)}")
    return lines


def _verdict(found: _Found) -> tuple[Repo | None, str, str]:
    if len(found.repos) == 1:
        return found.repos[0], "match", f"{found.detail}."
    if not found.repos:
        return None, "unknown", f"{found.detail}."
    return None, "tie", f"{found.detail}: a tie, so it is not run. Name the repository on the ticket."


def _explicit(ticket: Ticket, repos: Sequence[Repo]) -> _Found:
    wish = _fold(ticket.repo.strip())
    if not wish:
        return _Found((), "the ticket names no repository")
    named = tuple(repo for repo in repos if _fold(repo.name) == wish)
    if named:
        return _Found(named, f"the ticket names {_names(named)}")
    near = get_close_matches(wish[:80], [_fold(repo.name) for repo in repos], 1)
    ask = next((f" (is it {repo.name}?)" for repo in repos if near and _fold(repo.name) == near[0]), "")
    return _Found((), f'the ticket names "{_show(ticket.repo)}", which is no known repository{ask}', final=True)


def _label(ticket: Ticket, repos: Sequence[Repo]) -> _Found:
    return _stated("label", ticket.labels, {repo: repo.labels for repo in repos})


def _project(ticket: Ticket, repos: Sequence[Repo]) -> _Found:
    known = {repo: (*repo.projects, *_slug(repo.url)) for repo in repos}
    return _stated("project", (ticket.project,), known)


def _slug(url: str) -> tuple[str, ...]:
    """`owner/name` of a repository on a forge: how the issues of that very repository name their project."""
    path = re.sub(r"^(?:[a-z][a-z0-9+.-]*://[^/]+/|[^/:]+:)", "", url) if ":" in url else ""
    return (path.strip("/").removesuffix(".git"),) if "/" in path.strip("/") else ()


def _stated(what: str, said: Iterable[str], known: Mapping[Repo, tuple[str, ...]]) -> _Found:
    """The repositories that list one of the words the ticket states."""
    words = {_fold(word.strip()) for word in said} - {""}
    hits = {repo: [word for word in listed if _fold(word.strip()) in words] for repo, listed in known.items()}
    named = tuple(repo for repo, found in hits.items() if found)
    if not named:
        return _Found((), f"no {what} of the ticket belongs to a repository" if words else f"the ticket has no {what}")
    return _Found(named, " and ".join(f'{what} "{_show(hits[repo][0])}" belongs to {repo.name}' for repo in named))


def _keywords(ticket: Ticket, repos: Sequence[Repo]) -> _Found:
    text = _fold(f"{ticket.title}\n{ticket.body}")
    hits = {repo: sorted({word for word in map(_fold, repo.keywords) if _mentions(text, word)}) for repo in repos}
    most = max((len(found) for found in hits.values()), default=0)
    if not most:
        return _Found((), "no keyword of a repository stands in title or body")
    best = tuple(repo for repo, found in hits.items() if len(found) == most)
    return _Found(best, " and ".join(f"{_quoted(hits[repo])} in title or body: {repo.name}" for repo in best))


def _only(ticket: Ticket, repos: Sequence[Repo]) -> _Found:
    """The only repository, where its owner wrote nothing about which tickets are for it."""
    if len(repos) != 1:
        return _Found((), "there are several repositories" if repos else "there is no repository")
    (repo,) = repos
    if repo.labels or repo.projects or repo.keywords:
        return _Found((), f"{repo.name} is not for every ticket: it lists labels, projects or keywords")
    # An issue on a forge names the repository that it is about: another one. A project elsewhere may be "iOS/Android".
    if "/" in ticket.project and ticket.id.startswith(f"{ticket.project}#"):
        return _Found((), f'the ticket is about "{_show(ticket.project)}"')
    return _Found((repo,), f"{repo.name} is the only repository")


_RULES: dict[str, Callable[[Ticket, Sequence[Repo]], _Found]] = {
    "repo": _explicit,
    "label": _label,
    "project": _project,
    "keywords": _keywords,
    "only": _only,
}


def wish(labels: Sequence[str], kind: str) -> str:
    """What a label such as `model:opus` asks for, "" when none does or what it asks for cannot be a name."""
    return _wish(labels, kind)[0]


def _wish(labels: Sequence[str], kind: str) -> tuple[str, tuple[RouteStep, ...]]:
    """What labels like "model:opus" wish for. Contradicting or odd ones are said and left out."""
    pairs = (label.strip().partition(":") for label in labels)
    values = sorted({value.strip() for name, colon, value in pairs if colon and _fold(name.strip()) == kind})
    if not values:
        return "", ()
    # It becomes an argument of a command line: nothing that could be read as an option.
    if len(values) == 1 and re.fullmatch(r"[A-Za-z0-9][\w.:/@\[\]-]{0,99}", values[0], re.ASCII):
        return values[0], (RouteStep(kind, "match", f'a label wishes for {kind} "{values[0]}"'),)
    why = "contradict one another" if len(values) > 1 else "cannot be a name"
    return "", (RouteStep(kind, "tie" if len(values) > 1 else "none", f"{_quoted(values)}: {kind} labels that {why}"),)


def _mentions(text: str, words: str) -> bool:
    """Whether `words` stand in `text` as whole words, whatever space is between them. Both are folded."""
    pattern = re.compile(r"\s+".join(re.escape(part) for part in words.split()))
    start = 0
    while pattern.pattern and (found := pattern.search(text, start)):
        if _apart(text, found.start()) and _apart(text, found.end()):
            return True
        start = found.start() + 1
    return False


def _apart(text: str, at: int) -> bool:
    """Whether a word may end or begin before `text[at]`."""
    return at in (0, len(text)) or not (_in_word(text[at - 1]) and _in_word(text[at]))


def _in_word(char: str) -> bool:
    # Chinese, Japanese and Korean are written without spaces: there, every character is a word of its own.
    return (char == "_" or category(char)[0] in "LMN") and east_asian_width(char) not in "WF"


def _fold(text: str) -> str:
    return normalize("NFC", normalize("NFC", text).casefold())


def _names(repos: Iterable[Repo]) -> str:
    return " and ".join(repo.name for repo in repos)


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{_show(word)}"' for word in words)


def _show(text: str) -> str:
    """Untrusted text short and on one line, safe for any terminal."""
    flat = "".join(char if char.isprintable() else "?" for char in text[:61])
    return flat if len(text) <= 60 else flat[:59] + "…"
