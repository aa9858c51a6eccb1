"""A ticket goes to the one repository a rule names, or nowhere; ties and unknown names are said, never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.core.model import Repo, Ticket
from nightcrew.core.route import Route, explain, route

API = Repo("api", "x", labels=("backend",), projects=("Platform",), keywords=("server", "data base"), agents=("codex",))
WEB = Repo("web", "x", labels=("frontend", "ui"), projects=("Site",), keywords=("button", "c++", "データ", "straße"))
REPOS = (API, WEB)


def decided(title: str = "t", *, repos: tuple[Repo, ...] = REPOS, **fields: object) -> Route:
    return route(Ticket(**{"board": "board", "id": "1", "key": "T-1", "title": title, **fields}), repos)  # type: ignore[arg-type]


def rule_of(decision: Route) -> str:
    return decision.steps[-1].rule


def test_an_explicit_repository_wins_over_every_other_rule() -> None:
    decision = decided("button", repo=" API ", labels=("ui",), project="Site")
    assert (decision.repo, rule_of(decision)) == (API, "repo")
    assert decision.agents == ("codex",)
    assert decision.reason == "the ticket names api."


def test_an_unknown_explicit_repository_ends_it_at_once_with_the_nearest_name() -> None:
    decision = decided("button", repo="wob", labels=("ui",))
    assert decision.repo is None
    assert [(step.rule, step.outcome) for step in decision.steps] == [("repo", "unknown")]
    assert decision.reason == 'the ticket names "wob", which is no known repository (is it web?).'


@pytest.mark.parametrize(
    ("fields", "repo", "rule"),
    [
        ({"labels": (" Backend", "ui-less"), "project": "site"}, API, "label"),
        ({"project": "SITE", "title": "server"}, WEB, "project"),
        ({"title": "The SERVER, it fails"}, API, "keywords"),
        ({"body": "the data\n\t base is slow"}, API, "keywords"),
        ({"body": "use C++, please"}, WEB, "keywords"),
        ({"body": "このデータを見る"}, WEB, "keywords"),
        ({"body": "DIE STRASSE"}, WEB, "keywords"),
        ({"title": "server button", "body": "data base"}, API, "keywords"),
    ],
)
def test_the_first_rule_that_matches_decides(fields: dict[str, str], repo: Repo, rule: str) -> None:
    decision = decided(**{"title": "t", **fields})
    assert (decision.repo, rule_of(decision), decision.steps[-1].outcome) == (repo, rule, "match")


@pytest.mark.parametrize("body", ["servers", "observer", "my_server", "database", "server2", "serveŕ", "serve\u0301r"])
def test_a_part_of_a_word_is_no_keyword(body: str) -> None:
    assert decided(body=body).repo is None


def test_a_keyword_is_text_and_no_pattern() -> None:
    dotted = Repo("dotted", "x", keywords=("a.c", "(x|y)"))
    assert decided("abc x y", repos=(dotted,)).repo is None
    assert decided("a.c", repos=(dotted,)).repo is dotted


def test_saying_a_keyword_often_counts_once() -> None:
    assert decided("server server server button c++").repo is WEB


@pytest.mark.parametrize(
    ("fields", "rule", "said"),
    [
        ({"labels": ("ui", "backend")}, "label", 'label "backend" belongs to api and label "ui" belongs to web'),
        ({"body": "server button"}, "keywords", '"server" in title or body: api and "button" in title or body: web'),
    ],
)
def test_a_tie_is_unknown_and_says_between_whom(fields: dict[str, str], rule: str, said: str) -> None:
    decision = decided(**fields, project="Site") if rule == "label" else decided(**fields)
    assert decision.repo is None
    assert (rule_of(decision), decision.steps[-1].outcome) == (rule, "tie")
    assert decision.reason == f"{said}: a tie, so it is not run. Name the repository on the ticket."


def test_a_ticket_that_no_rule_places_is_unknown_and_shows_every_rule() -> None:
    decision = decided(labels=("chore",), requires=("macos",))
    assert explain(decision) == [
        "unknown: No rule names a repository for it.",
        "  repo     none     the ticket names no repository",
        "  label    none     no label of the ticket belongs to a repository",
        "  project  none     the ticket has no project",
        "  keywords none     no keyword of a repository stands in title or body",
        "  only     none     there are several repositories",
        "  needs a node with macos",
    ]


ALONE = Repo("alone", "https://forge.example/acme/alone.git")


@pytest.mark.parametrize(("fields", "repos", "taken"), [
    ({}, (ALONE,), True), ({"project": "Site", "labels": ("chore",)}, (ALONE,), True),
    ({"repo": "web"}, (ALONE,), False),
    ({"project": "acme/alone"}, (ALONE,), True), ({"project": "iOS/Android"}, (ALONE,), True),
    ({"project": "acme/other", "id": "acme/other#1"}, (ALONE,), False),
    ({}, (replace(ALONE, labels=("ui",)),), False), ({}, (replace(ALONE, projects=("Site",)),), False),
    ({}, (replace(ALONE, keywords=("ui",)),), False), ({}, (ALONE, Repo("two", "x")), False), ({}, (), False),
])  # fmt: skip
def test_the_only_repository_takes_every_ticket_unless_it_or_the_ticket_says_otherwise(
    fields: dict[str, str], repos: tuple[Repo, ...], taken: bool
) -> None:
    assert bool(decided(repos=repos, **fields).repo) is taken


def test_labels_may_wish_for_a_model_and_an_agent() -> None:
    decision = decided("server", labels=("Model: opus", "agent:codex", "model:opus"))
    assert (decision.repo, decision.model, decision.agent) == (API, "opus", "codex")
    assert 'a label wishes for model "opus"' in "\n".join(explain(decision))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("model:opus", "model:sonnet"), '"opus", "sonnet": model labels that contradict one another'),
        (("model:--dangerous",), '"--dangerous": model labels that cannot be a name'),
        (("model:a b",), "cannot be a name"),
        (("model:",), "cannot be a name"),
        (("model:" + "x" * 200,), "cannot be a name"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_said_and_left_out(labels: tuple[str, ...], said: str) -> None:
    decision = decided("server", labels=labels)
    assert (decision.repo, decision.model) == (API, "")
    assert said in "\n".join(explain(decision))


# The same worlds on every machine, however slow it is.
steady = settings(deadline=None, derandomize=True, database=None)

WORDS = st.sampled_from(["api", "web", "docs", "server", "button", "C++", "data base", "é", "データ", "ui", "a.b", ""])
LISTS = st.lists(WORDS.filter(bool), max_size=3).map(tuple)
HOSTILE = st.text(max_size=60) | st.sampled_from(["\x1b[2J", "\ud800", "((((", "{{ x }}", "a" * 5000, "\u202e"])
PROSE = st.lists(WORDS | HOSTILE, max_size=6).map(" ".join)
REPO = st.builds(Repo, WORDS.filter(bool), st.just("x"), labels=LISTS, projects=LISTS, keywords=LISTS)
SOME_REPOS = st.lists(REPO, max_size=4, unique_by=lambda repo: repo.name.casefold())
TICKET = st.builds(
    Ticket, st.just("b"), HOSTILE, HOSTILE, PROSE, PROSE,
    repo=WORDS | HOSTILE, project=WORDS | HOSTILE, labels=st.lists(WORDS | HOSTILE, max_size=4).map(tuple),
)  # fmt: skip


def loosely(text: str) -> str:
    return "".join(text.casefold().split())


def may_match(ticket: Ticket, repo: Repo) -> bool:
    """Whether any rule could name this repository, told in the loosest way."""
    prose = loosely(ticket.title + ticket.body)
    return (
        loosely(ticket.repo) == loosely(repo.name)
        or bool({loosely(word) for word in ticket.labels} & {loosely(word) for word in repo.labels})
        or loosely(ticket.project) in {loosely(word) for word in repo.projects}
        or any(loosely(word) in prose for word in repo.keywords)
        or not (repo.labels or repo.projects or repo.keywords)
    )


@steady
@given(TICKET, SOME_REPOS)
def test_no_repository_is_chosen_that_no_rule_names(ticket: Ticket, repos: list[Repo]) -> None:
    decision = route(ticket, repos)
    assert decision.repo is None or (decision.repo in repos and may_match(ticket, decision.repo))
    assert (decision.repo is None) == (not any(s.outcome == "match" for s in decision.steps if s.rule in RULES))


RULES = ("repo", "label", "project", "keywords", "only")


@steady
@given(TICKET, SOME_REPOS)
def test_the_order_of_repositories_and_labels_decides_nothing(ticket: Ticket, repos: list[Repo]) -> None:
    turned = Ticket(**{**ticket.__dict__, "labels": ticket.labels[::-1]})
    one, other = route(ticket, repos), route(turned, repos[::-1])
    assert (one.repo, one.model, one.agent) == (other.repo, other.model, other.agent)
    assert [(s.rule, s.outcome) for s in one.steps] == [(s.rule, s.outcome) for s in other.steps]


@steady
@given(TICKET, SOME_REPOS, st.sampled_from([" zzz", "\n\n", " ... 123 "]))
def test_text_that_is_no_keyword_changes_nothing(ticket: Ticket, repos: list[Repo], noise: str) -> None:
    noisy = Ticket(**{**ticket.__dict__, "title": noise + ticket.title, "body": ticket.body + noise})
    assert route(noisy, repos).repo == route(ticket, repos).repo


@steady
@given(TICKET, SOME_REPOS)
def test_whatever_the_ticket_says_the_explanation_is_short_printable_lines(ticket: Ticket, repos: list[Repo]) -> None:
    for line in explain(route(ticket, repos)):
        assert line.isprintable()
        assert len(line) < 1000
        line.encode()


def test_a_very_long_ticket_is_routed_like_any_other() -> None:
    many = tuple(Repo(f"r{n}", "x", keywords=tuple(f"word{n}x{k} b" for k in range(20))) for n in range(20))
    assert decided(body="word1x1 " * 20_000, repos=many).repo is None
