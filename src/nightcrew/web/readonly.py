"""What an agent may ask a forge's API: pure rules, which let through reading one repository and nothing else.

Where it is not certain that a request does just that, it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
from graphql import GraphQLError, parse, print_ast
from graphql.language import (
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    StringValueNode,
    ValueNode,
    VariableNode,
)

__all__ = ["NotAllowed", "asked_graphql", "asked_path"]

LONGEST = 4000  # tokens of a GraphQL document
MOST = 20_000  # fields of one, with those of a fragment counted wherever it is used
CLOSED = frozenset({"codespaces", "hooks", "invitations", "keys", "secret-scanning"})
"""Parts of a repository's API that hold secrets, or tell who holds them."""

ELSEWHERE = frozenset({"dependencies", "parent", "sub_issues", "timeline"})
"""Parts of an issue that may be issues of other repositories."""


class NotAllowed(Exception):
    """The request is not to be passed on; the message says why, in one sentence."""


# -- REST --------------------------------------------------------------------------------------------------------------
def asked_path(path: str, place: str) -> str:
    """The path to be read, of a request for `path` (as it was sent, still encoded). Raises NotAllowed.

    >>> asked_path("/api/v3/repos/Acme/web/issues", "acme/web")
    '/repos/Acme/web/issues'
    """
    path = path.removeprefix("/api/v3")
    if path == "/rate_limit":
        return path
    found = re.fullmatch(r"/repos/([\w.-]+/[\w.-]+)((?:/[!-~]*)?)", path, re.ASCII)
    if not found or found[1].lower() != place.lower():
        raise NotAllowed(f"Only /repos/{place} may be read through nightcrew.")
    parts = re.split(r"[/\\]", _decoded(found[2]))
    if {".", ".."} & set(parts) or any(not part for part in parts[1:-1]):
        raise NotAllowed("A path may not have empty parts, or parts that lead upwards.")
    if not all(part.isprintable() for part in parts) or "?" in found[2] or "#" in found[2]:
        raise NotAllowed("A path may not hold control characters.")
    if len(parts) > 1 and parts[1].lower() in CLOSED:
        raise NotAllowed(f"{parts[1]} may not be read through nightcrew.")
    if _leads_away([part.lower() for part in parts[1:]]):
        raise NotAllowed(f"That may lead out of {place}, so it is not passed on.")
    return path


def _leads_away(parts: list[str]) -> bool:
    """Whether it may show another repository; of branches to compare, `USER:REPO:BRANCH` names one."""
    if parts[:1] == ["compare"]:
        return any(":" in part for part in parts)
    return parts[:1] == ["forks"] or (parts[:1] == ["issues"] and bool(ELSEWHERE & set(parts[2:])))


def _decoded(path: str) -> str:
    """Without percent signs, however often it was encoded."""
    for _ in range(5):
        if (plain := unquote(path)) == path:
            return path
        path = plain
    raise NotAllowed("A path may not be encoded again and again.")


# -- GraphQL -----------------------------------------------------------------------------------------------------------
OWN = frozenset({
    "answer", "app", "autoMergeRequest", "baseRef", "branchProtectionRule", "branchProtectionRules", "category",
    "checkRuns", "checkSuite", "checkSuites", "codeowners", "comments", "commit", "commits", "context", "contexts",
    "defaultBranchRef", "discussion", "discussions", "edges", "entries", "file", "files", "history", "issue",
    "issueOrPullRequest", "issueTemplates", "issues", "label", "labels", "languages", "latestOpinionatedReviews",
    "latestRelease", "latestReviews", "licenseInfo", "mergeCommit", "milestone", "milestones", "node", "nodes",
    "object", "pageInfo", "potentialMergeCommit", "primaryLanguage", "projectCards", "projectItems", "pullRequest",
    "pullRequestReview", "pullRequestTemplates", "pullRequests", "reactionGroups", "ref", "refs", "release",
    "releaseAssets", "releases", "replies", "replyTo", "repositoryTopics", "reviewRequests", "reviewThreads", "reviews",
    "status", "statusCheckRollup", "steps", "target", "topic", "tree", "workflow", "workflowRun",
})  # fmt: skip
"""Fields that lead from something in a repository to something in the same one."""
OTHERS = frozenset({
    "assignableUsers", "assignees", "author", "authors", "baseRepository", "column", "committer", "creator", "editor",
    "enabledBy", "fieldValueByName", "headRepository", "headRepositoryOwner", "mentionableUsers", "mergedBy", "owner",
    "participants", "project", "reactors", "repository", "requestedReviewer", "resolvedBy", "users",
})  # fmt: skip
"""Fields that lead to people, projects and other repositories: only what stands there itself may be read of those."""
LISTS = frozenset({"edges", "node", "nodes", "organization", "pageInfo", "user"})
DIRECTIVES = frozenset({"include", "skip"})


def asked_graphql(raw: bytes, place: str) -> bytes:
    """The request to be sent, of one that an agent made: one query about `place`. Raises NotAllowed.

    It is written anew from what was understood, so that nobody can read it another way.
    """
    query, variables = _request(raw)
    try:
        document = parse(query, no_location=True, max_tokens=LONGEST)
        _Reader(document, variables, place.lower()).look()
        return msgspec.json.encode({"query": print_ast(document), "variables": variables})
    except (GraphQLError, RecursionError) as error:
        raise NotAllowed("That is no GraphQL query, or one that is too long.") from error


def _request(raw: bytes) -> tuple[str, dict[str, Any]]:
    try:
        asked = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAllowed("A GraphQL request is a JSON object.") from error
    query, variables = asked.get("query"), asked.get("variables") or {}
    if not isinstance(query, str) or not isinstance(variables, dict):
        raise NotAllowed("A GraphQL request has a `query`, and `variables` by name.")
    return query, variables


@dataclass
class _Reader:
    """Walks one document."""

    document: DocumentNode
    variables: Mapping[str, Any]
    place: str
    fragments: dict[str, FragmentDefinitionNode] = field(default_factory=dict)
    read: int = 0

    def look(self) -> None:
        operations = [d for d in self.document.definitions if isinstance(d, OperationDefinitionNode)]
        fragments = [d for d in self.document.definitions if isinstance(d, FragmentDefinitionNode)]
        if len(operations) != 1 or len(operations) + len(fragments) != len(self.document.definitions):
            raise NotAllowed("A GraphQL request may hold one query and its fragments.")
        (self.operation,) = operations
        if self.operation.operation is not OperationType.QUERY:
            raise NotAllowed(f"Only queries are passed on: this is a {self.operation.operation.value}.")
        self.fragments = {fragment.name.value: fragment for fragment in fragments}
        variables = [v.variable.name.value for v in self.operation.variable_definitions or ()]
        if len(self.fragments) < len(fragments) or len(set(variables)) < len(variables):
            raise NotAllowed("A GraphQL request may give a name to one thing only.")
        self._directives(self.operation.directives)
        for one in self._fields(self.operation.selection_set, ()):
            self._root(one)

    def _root(self, asked: FieldNode) -> None:
        name = asked.name.value
        if name in ("rateLimit", "__typename", "__type", "__schema"):
            return
        told = {a.name.value: self._value(a.value) for a in asked.arguments or ()}
        if len(told) < len(asked.arguments or ()):
            raise NotAllowed("A GraphQL request may give an argument once.")
        if name != "repository" or f"{told.get('owner')}/{told.get('name')}".lower() != self.place:
            raise NotAllowed(f'Only repository(owner:, name:) of {self.place} may be asked for, not "{name}".')
        self._within(asked, OWN)

    def _value(self, value: ValueNode) -> object:
        """Of an argument that is a text; None for any other."""
        if isinstance(value, VariableNode):
            if (name := value.name.value) in self.variables:
                return self.variables[name]
            given = {v.variable.name.value: v.default_value for v in self.operation.variable_definitions or ()}
            value = given.get(name) or value
        return value.value if isinstance(value, StringValueNode) else None

    def _within(self, asked: FieldNode, known: frozenset[str]) -> None:
        """Everything below a field may be read: what has nothing below it is a value, and stands there itself."""
        for inner in self._fields(asked.selection_set, ()):
            name = inner.name.value
            if inner.selection_set is None:
                continue
            if known is OWN and name in OTHERS:
                self._within(inner, LISTS)
            elif name in known:
                self._within(inner, known)
            else:
                raise NotAllowed(f'"{name}" may lead out of {self.place}, so it is not passed on.')

    def _fields(self, within: SelectionSetNode | None, seen: tuple[str, ...]) -> Iterable[FieldNode]:
        """The fields selected here, those of fragments too."""
        for one in within.selections if within else ():
            self.read += 1
            if self.read > MOST:
                raise NotAllowed("That is a GraphQL query that asks for too much.")
            self._directives(one.directives)
            if isinstance(one, FieldNode):
                yield one
            elif isinstance(one, InlineFragmentNode):
                yield from self._fields(one.selection_set, seen)
            elif isinstance(one, FragmentSpreadNode):
                name = one.name.value
                if name not in self.fragments or name in seen:
                    raise NotAllowed(f"The fragment {name} is not there, or holds itself.")
                yield from self._fields(self.fragments[name].selection_set, (*seen, name))

    def _directives(self, directives: Iterable[DirectiveNode] | None) -> None:
        if odd := {d.name.value for d in directives or ()} - DIRECTIVES:
            raise NotAllowed(f"@{min(odd)} is not passed on.")
