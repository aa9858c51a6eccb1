"""The recorded streams, damaged in every way: reading never fails, and a failure never becomes a success.

*A positive end* is what an agent must say for its work to count as done; it is looked for here in the plainest way,
more readily than an adapter may. *The evidence of a failure* is every line that speaks of it, and the exit code. Then:

1. Whatever is damaged, reading raises nothing and says why.
2. `done` is only ever said of a stream with a positive end in it and an end that is none of an error.
3. Of a failed stream `done` is never said while the evidence is whole; and when damage only takes away, doubles,
   shuffles, joins or garbles, never at all, whatever the exit code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.adapters.agents.claude import ClaudeConversation
from nightcrew.adapters.agents.codex import CodexConversation, Settings
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.ports import Task
from tests.test_corpus import CASES

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
SUCCESS = {Outcome.DONE, Outcome.BLOCKED}
EASY = {"deadline": None, "derandomize": True, "database": None}
WRONG: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2**70, 1.5, 1e300, "", "success", "completed", "error", "done", [], {}, [None], [[{}]],
    {"type": "result"}, "\ud83d",
)  # fmt: skip
CODES = st.none() | st.sampled_from([0, 1, 2, 126, 127, 130, 137, 143, 255, -2, -9, -15]) | st.integers(-300, 300)
STDERR = st.text(max_size=80) | st.sampled_from(
    ["Error: boom", "error: unknown option", "Do you trust this folder? y/n"]
)


@dataclass(frozen=True)
class Stream:
    """What one run printed, and how it ended. `failed` says what it was before any damage."""

    name: str
    kind: str
    lines: tuple[bytes, ...]
    stderr: str
    code: int | None
    now: datetime
    failed: bool

    def read(self) -> Ending:
        return AGENTS[self.kind].read(self.lines, self.code, self.stderr, self.now)


def made(kind: str) -> Any:
    name, table = {"claude": ("Claude", {}), "codex": ("Codex", {}), "command": ("Command", {"command": ["sh"]})}[kind]
    return getattr(import_module(f"nightcrew.adapters.agents.{kind}"), name)(kind, table)


AGENTS = {kind: made(kind) for kind in ("claude", "codex", "command")}


def printed(name: str, code: int, *lines: object, failed: bool = True) -> Stream:
    """A run of a program of one's own."""
    said = tuple(line.encode() if isinstance(line, str) else json.dumps(line).encode() for line in lines)
    return Stream(f"command/{name}", "command", said, "", code, NOW, failed)


USAGE = {"type": "usage", "input": 120, "output": 30, "money": 0.01, "model": "small"}
WINDOW = {"type": "window", "name": "five_hour", "used": 0.5, "resets_at": 1795400000, "seconds": 18000}
COMMANDS = [
    printed("done", 0, {"type": "session", "id": "s"}, USAGE, {"type": "result", "outcome": "done"}, failed=False),
    printed("plain", 0, "hello", "all tests pass", failed=False),
    printed("limited", 1, USAGE, WINDOW, {"type": "result", "outcome": "rate_limited", "resets_at": 1795400000}),
    printed("logged_out", 1, {"type": "progress", "text": "hm"}, {"type": "result", "outcome": "logged_out"}),
    printed("failed_well", 0, USAGE, {"type": "result", "outcome": "overloaded", "text": "503"}),
    printed("crashed", 1, "Traceback (most recent call last):", "ValueError: no"),
    printed("killed", -9, USAGE, {"type": "prompt", "text": "may I?"}),
    printed("missing", 127, "sh: my-agent: not found"),
    printed("unknown", 1, {"type": "result", "outcome": "finished"}),
]
STREAMS = COMMANDS + [
    Stream(one.name, one.kind, tuple(line.encode() for line in one.stdout), one.stderr, one.exit_code, one.now,
           one.expect["outcome"] not in ("done", "blocked"))
    for one in CASES
]  # fmt: skip


def of(kind: str, *, failed: bool = False) -> list[Stream]:
    return [one for one in STREAMS if one.kind == kind and (one.failed or not failed)]


# ---- what counts as an end, looked for in the plainest way


def events(lines: tuple[bytes, ...]) -> Iterator[dict[str, Any]]:
    for line in lines:
        for start in {line.find(b"{"), 0}:
            try:
                found = json.loads(line[max(start, 0) :])
            except (ValueError, RecursionError):
                continue
            yield from (x for x in (found if isinstance(found, list) else [found]) if isinstance(x, dict))


def ended_badly(code: int | None) -> bool:
    return code is not None and 0 < code <= 128


def positive(event: dict[str, Any], kind: str) -> bool:
    """Whether this event says that all went well."""
    if kind == "claude":
        return event.get("type") == "result" and event.get("is_error") is False and event.get("subtype") == "success"
    if kind == "codex":
        params = event.get("params")
        turn = params.get("turn") if isinstance(params, dict) else None
        by_server = isinstance(turn, dict) and turn.get("status") == "completed"
        return event.get("type") == "turn.completed" or (event.get("method") == "turn/completed" and by_server)
    return event.get("type") == "result" and event.get("outcome", "done") in ("done", "blocked")


def has_positive_end(one: Stream) -> bool:
    if any(positive(event, one.kind) for event in events(one.lines)):
        by_exec = any(event.get("type") == "turn.completed" for event in events(one.lines))
        return not ended_badly(one.code) or (one.kind == "codex" and not by_exec) or one.kind == "command"
    return one.kind == "command" and one.code == 0


def failing(line: bytes, kind: str) -> bool:
    """Whether the line speaks of the failure."""
    words = {
        "claude": (b'"is_error":true', b'"error":"', b'"subtype":"error_', b'"api_error_status"',
                   b'"status":"rejected"'),
        "codex": (b'"turn.failed"', b'"status":"failed"', b'"status":"interrupted"', b'"error":{', b'"type":"error"',
                  b'"method":"error"'),
        "command": (b'"outcome"',),
    }  # fmt: skip
    return any(word in line.replace(b'": ', b'":') for word in words[kind])


def evidence(one: Stream) -> tuple[object, ...]:
    """Every line that speaks of the failure, and the exit code."""
    return *sorted(line for line in one.lines if failing(line, one.kind)), one.code


# ---- damage

Damage = Callable[[Stream], Stream]


@st.composite
def losses(draw: st.DrawFn) -> Damage:
    """Lines dropped, doubled, swapped, cut, joined, garbled; the stream cut off; noise between. Nothing is made up."""
    how = draw(st.sampled_from(["drop", "double", "swap", "cut", "end", "join", "flip", "noise"]))
    at, to, bit = draw(st.integers(0, 60)), draw(st.integers(0, 60)), draw(st.integers(0, 7))
    where, noise = draw(st.integers(0, 3000)), draw(st.binary(max_size=40))

    def damage(one: Stream) -> Stream:
        lines = list(one.lines) or [b""]
        i, j = at % len(lines), to % len(lines)
        match how:
            case "drop":
                del lines[i]
            case "double":
                lines.insert(j, lines[i])
            case "swap":
                lines[i], lines[j] = lines[j], lines[i]
            case "cut":
                lines[i] = lines[i][: where % (len(lines[i]) + 1)]
            case "end":
                del lines[i:]
            case "join":
                lines[i : i + 2] = [b"".join(lines[i : i + 2])]
            case "flip" if lines[i]:
                spot = where % len(lines[i])
                lines[i] = lines[i][:spot] + bytes([lines[i][spot] ^ (1 << bit)]) + lines[i][spot + 1 :]
            case "noise":
                lines.insert(i, noise)
        return replace(one, lines=tuple(lines))

    return damage


@st.composite
def changes(draw: st.DrawFn) -> Damage:
    """A value anywhere inside one event becomes another number, another type, or is gone."""
    at, spot = draw(st.integers(0, 60)), draw(st.integers(0, 400))
    value = draw(
        st.sampled_from(WRONG) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=9)
    )

    def damage(one: Stream) -> Stream:
        if not one.lines:
            return one
        i = at % len(one.lines)
        try:
            event = json.loads(one.lines[i])
        except (ValueError, RecursionError):
            return one
        places = list(spots(event))
        if not places:
            return one
        holder, key = places[spot % len(places)]
        holder[key] = value
        return replace(one, lines=(*one.lines[:i], json.dumps(event).encode("utf-8", "replace"), *one.lines[i + 1 :]))

    return damage


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside, the outer ones first."""
    held = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inside = [(value, key) for key, _ in held]
    yield from inside
    for holder, key in inside:
        yield from spots(holder[key])


@st.composite
def ends(draw: st.DrawFn) -> Damage:
    """Another exit code, other complaints."""
    code, stderr = draw(CODES), draw(STDERR)
    return lambda one: replace(one, code=code, stderr=stderr)


def damaged(data: st.DataObject, one: Stream, kinds: st.SearchStrategy[Damage]) -> Stream:
    for damage in data.draw(st.lists(kinds, min_size=1, max_size=5)):
        one = damage(one)
    return one


# ---- what holds


@pytest.mark.parametrize("kind", AGENTS)
@settings(max_examples=250, **EASY)
@given(data=st.data())
def test_whatever_is_damaged_reading_raises_nothing_and_says_why(kind: str, data: st.DataObject) -> None:
    one = damaged(data, data.draw(st.sampled_from(of(kind))), losses() | changes() | ends())
    told = one.read()
    assert told.outcome in set(Outcome)
    assert told.evidence.strip()
    assert (told.outcome is Outcome.BLOCKED) == bool(told.claims)
    assert min(told.usage.tokens, told.usage.turns, told.usage.money) >= 0


@pytest.mark.parametrize("kind", AGENTS)
@settings(max_examples=250, **EASY)
@given(data=st.data())
def test_done_is_only_said_of_a_stream_with_a_positive_end(kind: str, data: st.DataObject) -> None:
    one = damaged(data, data.draw(st.sampled_from(of(kind))), losses() | changes() | ends())
    assert one.read().outcome not in SUCCESS or has_positive_end(one), one


@pytest.mark.parametrize("kind", AGENTS)
@settings(max_examples=250, **EASY)
@given(data=st.data())
def test_a_failure_is_never_done_while_its_evidence_is_whole(kind: str, data: st.DataObject) -> None:
    before = data.draw(st.sampled_from(of(kind, failed=True)))
    after = damaged(data, before, losses() | changes() | ends())
    if after.read().outcome in SUCCESS:
        assert has_positive_end(after), after
        assert evidence(after) != evidence(before), after


@pytest.mark.parametrize("kind", ["claude", "codex"])
@settings(max_examples=250, **EASY)
@given(data=st.data())
def test_no_loss_and_no_exit_code_makes_a_success_of_a_failure(kind: str, data: st.DataObject) -> None:
    never = [one for one in of(kind, failed=True) if not any(positive(event, kind) for event in events(one.lines))]
    assert len(never) > 10
    after = damaged(data, data.draw(st.sampled_from(never)), losses() | ends())
    assert after.read().outcome not in SUCCESS, after


@pytest.mark.parametrize("kind", ["claude", "codex"])
@settings(max_examples=200, **EASY)
@given(data=st.data())
def test_a_conversation_hears_damaged_streams_and_tells_only_what_can_be_written_down(
    kind: str, data: st.DataObject
) -> None:
    one = damaged(data, data.draw(st.sampled_from(of(kind))), losses() | changes())
    talk = conversation(kind)
    for line in one.lines:
        talk.hear(line)
    told = talk.progress
    assert told.waiting_on in ("model", "tool", "prompt")
    assert (told.waiting_on == "prompt") == bool(told.asks)
    assert told.same_calls >= 0
    for window in told.windows:
        assert 0 <= window.used <= 1
        assert window.resets_at > 0
        assert window.seconds >= 0
        assert window.name


def conversation(kind: str) -> Any:
    task = Task(Path("/w"), "do it", Path("/s"), "0c6edf46-36e8-4b40-8872-f15d3e4d0a5f")
    return ClaudeConversation("do it") if kind == "claude" else CodexConversation(task, Settings())
