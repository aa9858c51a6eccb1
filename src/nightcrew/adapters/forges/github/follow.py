"""Following a pull request up on GitHub: the GraphQL it takes, and what its answers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from nightcrew.adapters.github_api import Json, wrote
from nightcrew.core.followup import approvals
from nightcrew.core.model import Check, PullRequest, Remark, Standing

BATCH = 50  # pull requests asked for in one request
PASSED = frozenset({"SUCCESS", "SKIPPED", "NEUTRAL"})
MERGES = frozenset({"CLEAN", "HAS_HOOKS"})
"""Words of `mergeStateStatus` for what can be merged now: GitHub refuses to wait for that with auto-merge."""
DECISIONS = frozenset({"APPROVED", "REVIEW_REQUIRED", "CHANGES_REQUESTED"})
"""Words of `reviewDecision` where a rule asks for a review."""
STAMP = """
fragment Stamp on PullRequest {
  number state isDraft updatedAt mergeable mergeStateStatus reviewDecision headRefOid isInMergeQueue
  baseRef { target { oid } }
  autoMergeRequest { enabledAt }
  comments(last: 1) { totalCount nodes { id updatedAt } }
  reviews(last: 1) { totalCount nodes { id updatedAt } }
  reviewThreads(last: 100) { totalCount nodes { isResolved comments(last: 1) { totalCount } } }
  commits(last: 1) { nodes { commit { statusCheckRollup { state contexts(first: 100) { totalCount nodes {
    __typename ... on CheckRun { status conclusion } ... on StatusContext { state } } } } } } }
}"""
CHECKS = """
fragment Checks on PullRequest {
  commits(last: 1) { nodes { commit { oid statusCheckRollup { contexts(first: 100, after: $after) {
    pageInfo { hasNextPage endCursor }
    nodes {
      __typename
      ... on CheckRun {
        databaseId name status conclusion detailsUrl isRequired(pullRequestNumber: $number)
        checkSuite { workflowRun { databaseId } }
      }
      ... on StatusContext { context state targetUrl isRequired(pullRequestNumber: $number) }
    }
  } } } } }
}"""
FOLLOW_UP = (
    """
query FollowUp($owner: String!, $name: String!, $number: Int!, $after: String) {
  viewer { login }
  repository(owner: $owner, name: $name) {
    pullRequest(number: $number) {
      id number title body state isDraft url createdAt headRefName headRefOid baseRefName
      mergeable mergeStateStatus reviewDecision isInMergeQueue
      author { login }
      baseRef { target { oid } }
      mergeCommit { oid }
      autoMergeRequest { enabledAt }
      ...Checks
      reviews(last: 50) { nodes {
        id databaseId state body submittedAt authorAssociation author { login __typename } commit { oid }
      } }
      reviewThreads(last: 100) { nodes { id isResolved path line comments(last: 50) { nodes {
        id databaseId body createdAt authorAssociation author { login __typename }
      } } } }
      comments(last: 100) { nodes { id databaseId body createdAt authorAssociation author { login __typename } } }
    }
  }
}"""
    + CHECKS
)
MORE_CHECKS = (
    """
query MoreChecks($owner: String!, $name: String!, $number: Int!, $after: String) {
  repository(owner: $owner, name: $name) { pullRequest(number: $number) { ...Checks } }
}"""
    + CHECKS
)
READY = """mutation Ready($id: ID!) {
  markPullRequestReadyForReview(input: { pullRequestId: $id }) { pullRequest { id isDraft } } }"""
DRAFT = """mutation Draft($id: ID!) {
  convertPullRequestToDraft(input: { pullRequestId: $id }) { pullRequest { id isDraft } } }"""
AUTO_MERGE = """mutation AutoMerge($id: ID!, $head: GitObjectID, $method: PullRequestMergeMethod) {
  enablePullRequestAutoMerge(input: { pullRequestId: $id, expectedHeadOid: $head, mergeMethod: $method }) {
    pullRequest { id } } }"""
ENQUEUE = """mutation Enqueue($id: ID!, $head: GitObjectID) {
  enqueuePullRequest(input: { pullRequestId: $id, expectedHeadOid: $head }) { mergeQueueEntry { id state } } }"""
REPLY = """mutation Reply($thread: ID!, $body: String!) {
  addPullRequestReviewThreadReply(input: { pullRequestReviewThreadId: $thread, body: $body }) { comment { id } } }"""
RESOLVE = """mutation Resolve($thread: ID!) {
  resolveReviewThread(input: { threadId: $thread }) { thread { id isResolved } } }"""


def stamps_query(count: int) -> str:
    """Ask for the stamps of so many pull requests at once, by variables n0, n1, ..."""
    variables = "".join(f", $n{i}: Int!" for i in range(count))
    asked = "\n".join(f"    p{i}: pullRequest(number: $n{i}) {{ ...Stamp }}" for i in range(count))
    return f"""query Stamps($owner: String!, $name: String!{variables}) {{
  repository(owner: $owner, name: $name) {{
{asked}
  }}
}}{STAMP}"""


def parse_stamps(data: Json) -> dict[int, str]:
    """Number -> a word that is another one when anything in it changed."""
    rows = [row for row in data["repository"].values() if isinstance(row, dict)]
    return {row["number"]: sha256(repr(row).encode()).hexdigest()[:16] for row in rows}


def said(data: Json) -> list[Json]:
    """Everything that somebody said in an answer to FOLLOW_UP: comments, answers in threads, reviews."""
    raw = data["repository"]["pullRequest"]
    threads = [one for thread in raw["reviewThreads"]["nodes"] for one in thread["comments"]["nodes"]]
    return [*raw["comments"]["nodes"], *threads, *raw["reviews"]["nodes"]]


def parse_standing(data: Json, repo: str, writers: frozenset[str], me: str) -> Standing:
    """The answer to FOLLOW_UP. Only `writers` are trusted, as they are `named`; `me` is our login."""
    raw = data["repository"]["pullRequest"]
    remarks = _remarks(raw, writers, me)
    commit, contexts = checked(data)
    checks = contexts.get("nodes", []) if commit == raw["headRefOid"] else []
    return Standing(
        pull=_pull(raw, repo), base_head=((raw["baseRef"] or {}).get("target") or {}).get("oid", ""),
        draft=raw["isDraft"], mergeable={"MERGEABLE": True, "CONFLICTING": False}.get(raw["mergeable"]),
        behind=raw["mergeStateStatus"] == "BEHIND", checks=tuple(map(_check, checks)), remarks=remarks,
        approved=raw["reviewDecision"] == "APPROVED",
        approvals=() if raw["reviewDecision"] in DECISIONS else approvals(remarks),
        merging=bool(raw["isInMergeQueue"] or raw["autoMergeRequest"]),
    )  # fmt: skip


def checked(data: Json) -> tuple[str, Json]:
    """A commit, and a page of what checked it."""
    rows = data["repository"]["pullRequest"]["commits"]["nodes"]
    commit = rows[0]["commit"] if rows else {}
    return commit.get("oid", ""), (commit.get("statusCheckRollup") or {}).get("contexts", {})


def _pull(raw: Mapping[str, Any], repo: str) -> PullRequest:
    return PullRequest(
        repo=repo, number=raw["number"], branch=raw["headRefName"], base=raw["baseRefName"], title=raw["title"],
        body=raw["body"], state=raw["state"].lower(), head=raw["headRefOid"], url=raw["url"],
        created_at=raw["createdAt"], merged_sha=(raw["mergeCommit"] or {}).get("oid", ""),
    )  # fmt: skip


def _check(raw: Mapping[str, Any]) -> Check:
    if raw["__typename"] == "StatusContext":
        state = {"SUCCESS": "passed", "PENDING": "running", "EXPECTED": "running"}.get(raw["state"], "failed")
        return Check(raw["context"], state, "", raw["targetUrl"] or "", raw["isRequired"])
    ended = raw["status"] == "COMPLETED"
    state = ("passed" if raw["conclusion"] in PASSED else "failed") if ended else "running"
    run = ((raw.get("checkSuite") or {}).get("workflowRun") or {}).get("databaseId") or 0
    return Check(raw["name"], state, f"{raw['databaseId']}/{run}", raw["detailsUrl"] or "", raw["isRequired"])


def job_of(check: Check) -> str:
    """The job of GitHub Actions that the check is, "" when it is none."""
    job, _, run = check.id.partition("/")
    return job if run not in ("", "0") or job.isdigit() else ""


def run_of(check: Check) -> str:
    """The workflow run it belongs to, "" when to none."""
    run = check.id.partition("/")[2]
    return "" if run == "0" else run


def _remarks(raw: Mapping[str, Any], writers: frozenset[str], me: str) -> tuple[Remark, ...]:
    found = [(one, {"thread": ""}) for one in raw["comments"]["nodes"]]
    for thread in raw["reviewThreads"]["nodes"]:
        place = {"thread": thread["id"], "path": thread["path"], "line": thread["line"] or 0,
                 "resolved": thread["isResolved"]}  # fmt: skip
        found += [(one, place) for one in thread["comments"]["nodes"]]
    for review in raw["reviews"]["nodes"]:
        verdict = {"APPROVED": "approved", "CHANGES_REQUESTED": "changes"}.get(review["state"], "")
        if verdict or (review["body"] and review["state"] != "DISMISSED"):
            found.append((review, {"verdict": verdict, "head": (review["commit"] or {}).get("oid", "")}))
    made = [_remark(one, place, writers, me) for one, place in found]
    return tuple(remark for _, _, remark in sorted(made, key=lambda row: row[:2]))


def _remark(
    raw: Mapping[str, Any], place: Mapping[str, Any], writers: frozenset[str], me: str
) -> tuple[str, int, Remark]:
    author = raw["author"] or {"login": "ghost", "__typename": "User"}
    name, at = author["login"], raw.get("createdAt") or raw["submittedAt"]
    remark = Remark(
        id=raw["id"],
        author=name,
        text=_plain(raw["body"]),
        at=at,
        trusted=named(author) in writers,
        bot=is_app(author),
        mine=wrote(author, me),
        **place,
    )
    return at, raw["databaseId"] or 0, remark


def is_app(author: Mapping[str, Any]) -> bool:
    """Whether an app wrote it. GitHub says of most that they have no association with the repository; but an app writes
    only where its owners installed it with the permission to.
    """
    return bool(author["__typename"] == "Bot")


def named(author: Mapping[str, Any]) -> str:
    """Its login as REST has it: GraphQL calls an app as a person may be called."""
    return f"{author['login'].removesuffix('[bot]')}[bot]" if is_app(author) else str(author["login"])


def mark(key: str) -> str:
    """What is hidden in what we write, so that it is found again. A key is a word."""
    return f"<!-- nightcrew:{re.sub(r'[^A-Za-z0-9._-]', '-', key)} -->"


def _plain(body: str) -> str:
    return re.sub(r"<!-- nightcrew:[A-Za-z0-9._-]* -->\n?", "", body)


def answered(data: Json, thread: str, key: str, me: str) -> bool:
    """Whether we said that in this thread already."""
    threads = data["repository"]["pullRequest"]["reviewThreads"]["nodes"]
    said = [one for found in threads if found["id"] == thread for one in found["comments"]["nodes"]]
    return any(one["body"].startswith(mark(key)) and wrote(one["author"], me) for one in said)
