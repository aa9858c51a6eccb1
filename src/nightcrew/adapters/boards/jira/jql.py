"""The questions that are asked of Jira's search, as JQL. Each is bounded by the projects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nightcrew.adapters.boards.jira.parse import Settings

OLDEST_FIRST = " ORDER BY created ASC, key ASC"


def word(text: str) -> str:
    """A value in quotes.

    >>> word('To "Do"')
    '"To \\\\"Do\\\\""'
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _words(values: Iterable[str]) -> str:
    return f"({', '.join(map(word, values))})"


def place(told: Settings) -> str:
    """All issues of our projects."""
    return f"project in {_words(told.projects)}"


def selected(told: Settings) -> str:
    """The issues that are taken and not over; those being worked whatever their status and `jql`, for we change them.

    What Jira would take an unknown word amiss in (addresses of people) is looked at afterwards.
    """
    asked = [place(told), "statusCategory != Done"]
    if told.labels:
        asked.append(f"labels in {_words(told.labels)}")
    if told.assignee:
        asked.append(f"assignee = {'currentUser()' if told.assignee.lower() == 'me' else word(told.assignee)}")
    if told.reporters and not any("@" in one or "*" in one for one in told.reporters):
        asked.append(f"reporter in {_words(told.reporters)}")
    ready = [f"status in {_words(told.statuses)}"] if told.statuses else []
    ready += [f"({told.jql})"] if told.jql.strip() else []
    if ready:
        written = sorted({name for state, name in told.write_states.items() if state != "open"})
        worked = ['statusCategory = "In Progress"', *([f"status in {_words(written)}"] if written else [])]
        asked.append(f"(({' AND '.join(ready)}) OR {' OR '.join(worked)})")
    return " AND ".join(asked)


def changed(told: Settings, minutes: int, worked: Sequence[str] = ()) -> str:
    """What changed in our projects in the last so many minutes: JQL knows no finer grain.

    `worked` are ids of issues that are asked for wherever they are now.
    """
    where = f"({place(told)} OR id in ({', '.join(worked)}))" if worked else place(told)
    return f'{where} AND updated >= "-{minutes}m" ORDER BY updated ASC, key ASC'


def among(told: Settings, ids: Iterable[str]) -> str:
    """Those of these issues that `jql` takes."""
    return f"{place(told)} AND id in ({', '.join(ids)}) AND ({told.jql})"


def newest(project: str) -> str:
    """The issues of a project, the last made first."""
    return f"project = {word(project)} ORDER BY created DESC, key DESC"
