"""What agents may read of a forge: the pure rules, and the proxy over real HTTP before the GitHub stand-in."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from graphql import GraphQLObjectType, GraphQLUnionType, build_schema, get_named_type
from graphql.type import GraphQLInterfaceType, GraphQLSchema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nightcrew.app import App
from nightcrew.config import load
from nightcrew.core.model import Attempt, Run
from nightcrew.crew import Crew
from nightcrew.stages.session import Live
from nightcrew.testing.company.github import GitHub
from nightcrew.transport import Relayed
from nightcrew.web.proxy import KEPT, Answers, Asked, ForgeProxy, Kept
from nightcrew.web.readonly import CLOSED, LISTS, OTHERS, OWN, NotAllowed, asked_graphql, asked_path
from nightcrew.web.serving import bound, serving

pytestmark = pytest.mark.slow

PLACE = "acme/web"


# -- paths -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [
    "/repos/acme/web", "/repos/ACME/Web/issues/1", "/repos/acme/web/contents/a%20b/c.py", "/rate_limit",
    "/repos/acme/web/compare/main...feature%2Fx", "/repos/acme/web/branches/feature%2Fx", "/repos/acme/web/issues/",
])  # fmt: skip
def test_what_is_of_the_repository_may_be_read(path: str) -> None:
    assert asked_path(path, PLACE) == path
    assert asked_path(f"/api/v3{path}", PLACE) == path


@pytest.mark.parametrize("path", [
    "/", "/user", "/user/repos", "/graphql", "/repos/acme/other/issues", "/repos/acme", "/repos/acme/web2",
    "/repos/acme/web.git", "/repositories/1/issues", "/search/issues", "/orgs/acme", "//repos/acme/web",
    "/repos/acme/web/../other", "/repos/acme/web/..", "/repos/acme/web/%2e%2e/other",
    "/repos/acme/web/%252e%252e/other",
    "/repos/acme/web/x/..%2f..%2f..%2fother", "/repos/acme/web/..%5cother", "/repos/acme/web//issues",
    "/repos/acme/web/./issues", "/repos/acme%2fweb/issues", "/repos/acme/web%2f../other", "/repos/../user",
    "/repos/acme/web/a%0d%0ab", "/repos/acme/web/a%00b", "/repos/acme/web/é", "/repos/acme/web/issues?x=1",
    "/repos/acme/web/%25252525252525252e", "/rate_limit/..", "/RATE_LIMIT", "https://api.github.com/repos/acme/web",
    *(f"/repos/acme/web/{part}" for part in sorted(CLOSED)), "/repos/acme/web/Hooks/1", "/repos/acme/web/%68ooks",
    "/repos/acme/web/compare/main...eve:main", "/repos/acme/web/compare/main...eve%3Aweb%3Amain",
    "/repos/acme/web/issues/1/timeline", "/repos/acme/web/issues/1/sub_issues", "/repos/acme/web/issues/1/parent",
    "/repos/acme/web/issues/1/dependencies/blocked_by",
])  # fmt: skip
def test_whatever_else_may_not(path: str) -> None:
    with pytest.raises(NotAllowed, match=r"^[A-Z].*\.$|^\S+ may not be read"):
        asked_path(path, PLACE)


# -- GraphQL -----------------------------------------------------------------------------------------------------------
HERE = 'repository(owner: "acme", name: "web")'


def sent(query: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asked_graphql(json.dumps({"query": query, **more}).encode(), PLACE))
    return found


GOOD: list[tuple[str, dict[str, str]]] = [
    ("{ HERE { id } rateLimit { remaining } __typename }", {}),
    ("query($o: String!, $n: String!) { repository(owner: $o, name: $n) { id } }", {"o": "Acme", "n": "WEB"}),
    ('query($o: String = "acme") { repository(owner: $o, name: "web") { issues(first: 9) { nodes { title } } } }', {}),
    ("{ HERE { issue(number: 1) { ...i author { login ... on User { name } } } } } fragment i on Issue { body }", {}),
    ("query Q { ...r } fragment r on Query { HERE { pullRequest(number: 1) { reviews(first: 1) { nodes { author"
     " { login } } } commits(last: 1) { nodes { commit { statusCheckRollup { contexts(first: 9) { nodes { ... on"
     " CheckRun { name conclusion } } } } } } } } } }", {}),
]  # fmt: skip


@pytest.mark.parametrize(("query", "variables"), GOOD)
def test_a_query_about_the_repository_is_passed_on(query: str, variables: dict[str, str]) -> None:
    assert sent(query.replace("HERE", HERE), variables=variables)["variables"] == variables


DOUBLING = " ".join(
    f"fragment a{n} on Repository {{ {f'...a{n + 1} ...a{n + 1}' if n < 40 else 'id'} }}" for n in range(41)
)
BAD = [
    "mutation { closeIssue(input: {issueId: 1}) { issue { id } } }", "subscription { x }",
    "query A { HERE { id } } mutation B { x }", "query A { HERE { id } } query B { HERE { id } }",
    "fragment f on Query { HERE { id } }", "type Query { a: Int }", "{ viewer { login } }", "not graphql", "", "{",
    '{ repository(owner: "acme", name: "other") { id } }', '{ search(query: "x", type: ISSUE) { issueCount } }',
    '{ node(id: "x") { id } }', '{ nodes(ids: ["x"]) { id } }', '{ organization(login: "acme") { id } }',
    '{ resource(url: "https://github.com/acme/other") { url } }', "query($o: String!) { repository(owner: $o) { id } }",
    '{ acme: repository(owner: "acme", name: "web") { id } repository(owner: "x", name: "y") { id } }',
    "{ HERE { owner { ... on Organization { repositories(first: 9) { nodes { name } } } } } }",
    '{ HERE { owner { repository(name: "other") { name } } } }', "{ HERE { forks(first: 9) { nodes { id } } } }",
    "{ HERE { issue(number: 1) { author { ... on User { issues(first: 9) { nodes { body } } } } } } }",
    "{ HERE { issue(number: 1) { repository { issues(first: 9) { nodes { body } } } } } }",
    "{ HERE { issue(number: 1) { timelineItems(first: 9) { nodes { ... on ReferencedEvent { commit { id } } } } } } }",
    "{ HERE { ...f } } fragment f on Repository { forks(first: 1) { nodes { id } } }",
    '{ repository(owner: "acme", name: "other", name: "web") { id } }',
    'query($n: String = "other", $n: String = "web") { repository(owner: "acme", name: $n) { id } }',
    "{ ...f } fragment f on Query { viewer { id } } fragment f on Query { HERE { id } }",
    "{ ...f } fragment f on Query { ...f }", "{ HERE { ...missing } }", "query @odd { HERE { id } }",
    "{ HERE { id @defer } }", "{ HERE " + "{ a " * 3000 + "}" * 3001, "{ HERE { ...a0 } } " + DOUBLING,
]  # fmt: skip


@pytest.mark.parametrize("query", BAD)
def test_every_other_one_is_refused(query: str) -> None:
    with pytest.raises(NotAllowed, match=r"\.$"):
        sent(query.replace("HERE", HERE))


def test_it_is_sent_as_it_was_understood() -> None:
    query = json.dumps(f"{{ {HERE} {{ id }} }} # mutation")
    raw = f'{{"query": "mutation {{ x }}", "operationName": "B", "query": {query}}}'.encode()
    told = json.loads(asked_graphql(raw, PLACE))
    assert sorted(told) == ["query", "variables"]
    assert "mutation" not in told["query"]
    for bad in (b"", b"[]", b'[{"query": "{ a }"}]', b'{"query": 1}', b'{"query": "{ a }", "variables": []}1', b"\xff"):
        with pytest.raises(NotAllowed):
            asked_graphql(bad, PLACE)
    with pytest.raises(NotAllowed):
        sent('query($n: String!) { repository(owner: "acme", name: $n) { id } }', variables={"n": ["web"]})


SCHEMAS = Path(__file__).parents[1] / "src/nightcrew/testing/company/schemas"
FOREIGN = {"User", "Organization", "Bot", "Mannequin", "Enterprise", "EnterpriseUserAccount", "Team", "Repository",
           "ProjectV2", "Gist", "Query"}  # fmt: skip


def test_no_way_through_the_allowed_fields_leads_out_of_the_repository() -> None:
    schema = build_schema((SCHEMAS / "github.graphql").read_text())
    repository = schema.type_map["Repository"]
    assert isinstance(repository, GraphQLObjectType)
    seen, ahead = {repository.name}, [repository]
    while ahead:
        for name, inner in ahead.pop().fields.items():
            assert not (name in OWN and name in OTHERS | LISTS - {"edges", "node", "nodes", "pageInfo"})
            for found in concrete(schema, get_named_type(inner.type)) if name in OWN else ():
                if found.name not in seen:
                    assert found.name not in FOREIGN, name
                    seen.add(found.name)
                    ahead.append(found)
    assert {"PullRequest", "PullRequestReview", "CheckRun"} <= seen


def concrete(schema: GraphQLSchema, kind: object) -> list[GraphQLObjectType]:
    """The object types a field may give; `nodes` of people are entered by names that are not in OWN."""
    if isinstance(kind, GraphQLObjectType):
        return [kind]
    if isinstance(kind, GraphQLInterfaceType | GraphQLUnionType):
        return list(schema.get_possible_types(kind))
    return []


def test_long_questions_do_not_fill_the_memory() -> None:
    answers = Answers()
    for n in range(500):
        answers.put(Asked(PLACE, "", question=b"%d" % n * (64 << 10)), Kept(Relayed(200, {}, b"{}"), 0))
    assert 0 < sum(len(asked.question or b"") for asked in answers.kept) <= KEPT


# -- the proxy ---------------------------------------------------------------------------------------------------------
@dataclass
class Agents:
    """A proxy before a GitHub, and the crew whose agents it serves."""

    github: GitHub
    crew: Crew
    proxy: ForgeProxy
    client: httpx.AsyncClient
    now: list[float]

    def session(self, key: str = "1") -> dict[str, str]:
        """The variables of a session that begins."""
        run = Run(f"b:{key}", "b", key, key, "Do it", repo="web")
        self.crew.live[run.id] = Live()
        return dict(self.crew.agent_env(run, Attempt(run.id, 1, "a", "", "s", False, 1)))

    async def get(self, env: dict[str, str], path: str, method: str = "GET", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {env['GITHUB_TOKEN']}"} | more.pop("headers", {})
        return await self.client.request(method, env["GITHUB_API_URL"] + path, headers=headers, **more)

    def forwarded(self) -> list[str]:
        return [exchange.path for exchange in self.github.log]


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "github") as running:
        running.state.repository(PLACE, {"README.md": "# Web\n"})
        running.state.repository("acme/other", {"README.md": "# Other\n"})
        for number in range(3):
            running.state.issue(PLACE, f"Issue {number}", "ünïcode")
        yield running
    assert running.violations == []


@asynccontextmanager
async def serve(github: GitHub, home: Path, monkeypatch: pytest.MonkeyPatch, **told: Any) -> AsyncIterator[Agents]:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_nightcrew")
    (home / "nightcrew.toml").write_text(
        f'[board]\nkind = "folder"\npath = "t"\n[forges.github]\nurl = "{github.url}"\n[agents.claude]\n'
        f'[[repos]]\nname = "web"\nurl = "{github.clone_url(PLACE)}"\n[proxy]\nenabled = true\n'
    )
    app = App(load(home / "nightcrew.toml", {}))
    now, socket = [0.0], bound("127.0.0.1", 0)
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    async with app.crew() as crew:
        proxy = ForgeProxy(crew, app.forges["github"], replace(app.config.proxy, **told), url, home, lambda: now[0])  # type: ignore[arg-type]
        crew.agent_env = proxy.agent_env
        async with serving(proxy.app, socket), httpx.AsyncClient(timeout=30) as client:
            yield Agents(github, crew, proxy, client, now)


@pytest.fixture
async def agents(github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agents]:
    async with serve(github, tmp_path, monkeypatch) as served:
        yield served


async def test_a_session_reads_its_repository_with_our_credential_and_never_sees_it(agents: Agents) -> None:
    env = agents.session()
    answer = await agents.get(env, f"/repos/{PLACE}/issues?state=all")
    assert [row["body"] for row in answer.json()] == ["ünïcode"] * 3
    assert (await agents.get(env, "/rate_limit")).status_code in (200, 404)  # the stand-in has none
    basic = base64.b64encode(f"x:{env['GITHUB_TOKEN']}".encode()).decode()
    again = await agents.get(env, f"/repos/{PLACE}", headers={"authorization": f"Basic {basic}"})
    assert again.json()["full_name"] == PLACE
    head = await agents.get(env, f"/repos/{PLACE}", "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert "ghp_nightcrew" not in str(env) + answer.text + str(answer.headers)
    agents.github.violations.clear()  # that it was asked for its rate limit


async def test_nothing_but_reading_that_repository_is_passed_on(agents: Agents) -> None:
    env = agents.session()
    for method, path in [("GET", "/user"), ("GET", "/repos/acme/other"), ("POST", f"/repos/{PLACE}/issues"),
                         ("PATCH", f"/repos/{PLACE}/issues/1"), ("DELETE", f"/repos/{PLACE}/labels/x"),
                         ("PUT", f"/repos/{PLACE}/pulls/1/merge"), ("GET", f"/repos/{PLACE}/../other")]:  # fmt: skip
        answer = await agents.get(env, path, method)
        assert answer.status_code == 403, path
        assert re.fullmatch(r"[A-Z][^.]*(\.[^ ][^.]*)*\.", answer.json()["message"])
    wrong = await agents.get({**env, "GITHUB_TOKEN": "nightcrew_guess"}, f"/repos/{PLACE}")
    assert wrong.status_code == 403
    assert agents.forwarded() == []
    assert agents.github.state.places[PLACE].issues[1].state == "open"


async def test_graphql_queries_are_passed_on_and_mutations_refused(agents: Agents) -> None:
    env = agents.session()
    query = 'query($n: String!) { repository(owner: "acme", name: $n) { nameWithOwner } }'
    asked = {"query": query, "variables": {"n": "web"}}
    answer = await agents.get(env, "/graphql", "POST", json=asked)
    assert answer.json() == {"data": {"repository": {"nameWithOwner": PLACE}}}
    mutation = {"query": "mutation { closeIssue(input: {}) { clientMutationId } }"}
    bad = await agents.get(env, "/graphql", "POST", json=mutation)
    assert (bad.status_code, bad.json()["message"]) == (403, "Only queries are passed on: this is a mutation.")
    assert (await agents.get(env, "/graphql", "POST", json=asked)).json() == answer.json()
    assert agents.forwarded() == ["/graphql"]


async def test_answers_are_shared_by_sessions_for_a_while_then_asked_by_their_etag(agents: Agents) -> None:
    one, two = agents.session("1"), agents.session("2")
    path = f"/repos/{PLACE}/issues?state=all"
    answers = await asyncio.gather(*(agents.get(env, path) for env in (one, two) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(agents.forwarded()) == 1  # twenty at once
    agents.now[0] = 61
    used = agents.github.used
    assert (await agents.get(two, path)).json() == answers[0].json()
    assert agents.github.log[-1].status == 304
    assert agents.github.used == used  # it cost nothing
    agents.github.state.issue(PLACE, "New")
    agents.now[0] = 122
    assert len((await agents.get(one, path)).json()) == 4


async def test_a_session_over_its_quota_is_told_to_wait_and_others_are_not(
    github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(github, tmp_path, monkeypatch, requests_per_session=2) as agents:
        one, two = agents.session("1"), agents.session("2")
        assert [(await agents.get(one, f"/repos/{PLACE}/issues/{n}")).status_code for n in (1, 2, 3)] == [200, 200, 429]
        over = await agents.get(one, f"/repos/{PLACE}/issues/3")
        assert over.json()["message"].startswith("This session's 2 requests are used up.")
        assert int(over.headers["retry-after"]) > 0
        assert (await agents.get(one, f"/repos/{PLACE}/issues/1")).status_code == 200  # it was read lately
        left = await agents.get(two, f"/repos/{PLACE}/issues/3")
        assert (left.status_code, left.headers["x-ratelimit-remaining"]) == (200, "1")


async def test_what_a_session_used_up_comes_back_within_the_hour(
    github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(github, tmp_path, monkeypatch, requests_per_session=2) as agents:
        env = agents.session()
        statuses = [(await agents.get(env, f"/repos/{PLACE}/issues/{n}")).status_code for n in (1, 2)]
        over = await agents.get(env, f"/repos/{PLACE}/issues/3")
        assert (statuses, over.status_code) == ([200, 200], 429)
        agents.now[0] += int(over.headers["retry-after"])
        again = await agents.get(env, f"/repos/{PLACE}/issues/3")
        assert (again.status_code, again.headers["x-ratelimit-remaining"]) == (200, "0")
        assert (await agents.get(env, f"/repos/{PLACE}/issues?state=all")).status_code == 429
        agents.now[0] += 24 * 3600
        last = await agents.get(env, f"/repos/{PLACE}/issues?state=all")
        assert last.headers["x-ratelimit-remaining"] == "1"  # never more than it had at first


async def test_what_moved_to_another_repository_is_not_read_there(agents: Agents) -> None:
    env = agents.session()
    secret = agents.github.state.transfer(PLACE, 1, "acme/other")
    secret.body = "for the others alone"
    service = agents.proxy.forge.service  # type: ignore[attr-defined]
    service.base = service.base.upper()  # as somebody may write it in nightcrew.toml
    answer = await agents.get(env, f"/repos/{PLACE}/issues/1")
    assert (answer.status_code, "for the others alone" in answer.text) == (404, False)
    assert answer.json()["message"].startswith("It has moved")
    assert (await agents.get(env, f"/repos/{PLACE}/issues/2")).status_code == 200


async def test_a_file_that_speaks_of_a_limit_makes_nobody_wait(agents: Agents) -> None:
    file = {"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]}

    async def raw(request: Request) -> JSONResponse:
        return JSONResponse(file)

    socket = bound("127.0.0.1", 0)
    async with serving(Starlette(routes=[Route("/{path:path}", raw)]), socket):
        service = agents.proxy.forge.service  # type: ignore[attr-defined]
        service.base = f"http://127.0.0.1:{socket.getsockname()[1]}"
        answer = await agents.get(agents.session(), f"/repos/{PLACE}/contents/limit.json")
    assert (answer.status_code, answer.json()) == (200, file)


async def test_a_limit_of_the_forge_is_passed_on_and_kept(agents: Agents) -> None:
    env = agents.session()
    agents.github.used = agents.github.quota
    for _ in range(3):
        answer = await agents.get(env, f"/repos/{PLACE}")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 1000
    assert len(agents.forwarded()) == 1


async def test_an_outage_of_the_forge_and_a_refused_credential_are_no_fault_of_the_agent(agents: Agents) -> None:
    env = agents.session()
    agents.github.trouble.next("GET", "cut")
    assert (await agents.get(env, f"/repos/{PLACE}")).status_code == 502
    agents.github.state.tokens.clear()
    answer = await agents.get(env, f"/repos/{PLACE}")
    assert (answer.status_code, answer.json()["message"]) == (
        502,
        "The forge does not accept nightcrew's own credential.",
    )


async def test_the_token_dies_with_its_attempt_and_what_was_used_is_written_down(agents: Agents) -> None:
    env, other = agents.session("1"), agents.session("2")
    await agents.get(env, f"/repos/{PLACE}")
    await agents.get(env, f"/repos/{PLACE}")
    await agents.get(env, "/user")
    agents.crew.live["b:1"] = Live()  # the next attempt
    assert (await agents.get(env, f"/repos/{PLACE}")).status_code == 403
    agents.proxy.close()
    (event,) = [e for e in agents.crew.store.events() if e["kind"] == "proxy.used"]
    assert event["run_id"] == "b:1"
    assert event["data"] == {"attempt": 1, "forwarded": 1, "cached": 1, "refused": 1, "over": 0}
    assert (await agents.get(other, f"/repos/{PLACE}")).status_code == 200
    assert len({agents.session(str(n))["GITHUB_TOKEN"] for n in range(50)}) == 50


async def test_pages_are_followed_through_the_proxy(agents: Agents) -> None:
    env = agents.session()
    url, seen = f"/repos/{PLACE}/issues?per_page=2", 0
    while url:
        answer = await agents.get(env, url)
        seen += len(answer.json())
        url = answer.links.get("next", {}).get("url", "").removeprefix(env["GITHUB_API_URL"])
    assert seen == 3
