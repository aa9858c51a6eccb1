"""New issues, made once: found again when the answer was lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from nightcrew.adapters.boards.jira import jql
from nightcrew.adapters.boards.jira.api import PROPERTY, Api, write
from nightcrew.adapters.boards.jira.parse import Raw, Reader, Settings
from nightcrew.errors import BoardError
from nightcrew.transport import Lost

HOLDS = {"labels", "priority"}
BEFORE, BEHIND = 10, 40
"""Numbers around the newest one that search knows, among which a lost issue is looked for."""


def fields_of(told: Settings, reader: Reader, jira: Api, title: str, body: str, given: Mapping[str, object],
              me: str) -> Raw:  # fmt: skip
    """The fields of a new issue, with what the selection asks for. Raises BoardError for what it cannot hold."""
    if unknown := sorted(set(given) - HOLDS):
        raise BoardError(f"A Jira issue cannot be given {unknown[0]}.", hint=f"It holds: {', '.join(sorted(HOLDS))}.")
    asked = given.get("labels", ())
    labels = [*told.labels[:1], *(map(str, asked) if isinstance(asked, list | tuple) else [str(asked)])]
    if bad := next((label for label in labels if re.search(r"\s", label)), None):
        raise BoardError(f"Jira has no labels with a space: {bad!r}.", hint="Write a hyphen.")
    made: Raw = {"project": {"key": told.projects[0]}, "issuetype": {"name": told.issue_type}, "summary": title}
    made |= {"labels": labels} if labels else {}
    made |= {"description": jira.body(body)} if body.strip() else {}
    number = given.get("priority", 5)
    if name := reader.priority_name(number if isinstance(number, int) else 5):
        made["priority"] = {"name": name}
    if told.assignee:
        made["assignee"] = jira.as_user(me if told.assignee.lower() == "me" else told.assignee)
    return made


async def make(jira: Api, project: str, fields: Mapping[str, Any]) -> str:
    """Make an issue; its id. Raises Lost when it cannot be told whether it was made."""
    mark = str(uuid4())
    asked = {"fields": fields, "properties": [{"key": PROPERTY, "value": {"add": mark}}]}
    try:
        made = await write(jira, "POST", "/issue", asked)
    except Lost:
        found = await _lost(jira, project, mark)
        if not found:
            raise
        return found
    return str(made["id"])


async def _lost(jira: Api, project: str, mark: str) -> str:
    """The id of the issue with that mark.

    Search may not know it yet. So its key is guessed from the newest one that search knows: by key no index lags.
    """
    newest = 0
    async for page in jira.pages(jql.newest(project), ("created",)):
        newest = int(page[0]["key"].rpartition("-")[2]) if page else 0
        break
    keys = [f"{project.upper()}-{number}" for number in range(max(newest - BEFORE, 1), newest + BEHIND)]
    for row in await jira.rows(keys, properties=True):
        if ((row.get("properties") or {}).get(PROPERTY) or {}).get("add") == mark:
            return str(row["id"])
    return ""
