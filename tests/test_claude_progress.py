"""What is heard of a Claude Code session while it runs: windows, questions, calls in circles, its own record."""

from __future__ import annotations

from pathlib import Path

from nightcrew.adapters.agents.claude import Claude
from nightcrew.core.model import Window
from nightcrew.ports import Task
from tests.test_claude import ANY, SESSION, launch, line
from tests.test_corpus import CASES


def limit_event(**info: object) -> bytes:
    return line({"type": "rate_limit_event", "rate_limit_info": info})


def called(tool: str, number: int, by: str | None = None, **asked: object) -> bytes:
    block = {"type": "tool_use", "id": f"t{number}", "name": tool, "input": asked}
    return line({"type": "assistant", "message": {"id": f"m{number}", "content": [block]}, "parent_tool_use_id": by})


def answered(number: int) -> bytes:
    return line({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": f"t{number}"}]}})


def test_windows_are_heard_of_every_kind_that_is_named(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    five = {"utilization": 0.92, "resetsAt": 1795370334, "status": "allowed_warning"}
    week = {"utilization": 0.4, "resetsAt": 1795870334, "status": "allowed"}
    opus = {"utilization": 7, "resetsAt": 1795870334}
    conversation.hear(limit_event(status="allowed_warning", unifiedWindows={"five_hour": five, "seven_day": week}))
    conversation.hear(limit_event(status="allowed", unifiedWindows={"seven_day_opus": opus}))
    assert conversation.progress.windows == (
        Window("five_hour", 0.92, 1795370334, 18_000, warning=True), Window("seven_day", 0.4, 1795870334, 604_800),
        Window("seven_day_opus", 1.0, 1795870334, 604_800),
    )  # fmt: skip
    conversation.hear(limit_event(status="rejected", unifiedWindows={"five_hour": {"resetsAt": 1795370334}}))
    assert conversation.progress.windows[-1] == Window("five_hour", 1.0, 1795370334, 18_000, warning=True)


def test_a_window_is_heard_without_the_list_of_them_and_not_without_a_number(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    for info in ({"status": "allowed"}, {"status": "allowed_warning", "rateLimitType": "five_hour"},
                 {"rateLimitType": "five_hour", "utilization": True, "resetsAt": 1795370334},
                 {"unifiedWindows": {"five_hour": 3, "x": {"utilization": -1, "resetsAt": 9}}}):  # fmt: skip
        conversation.hear(limit_event(**info))
    assert conversation.progress.windows == ()
    conversation.hear(
        limit_event(status="allowed_warning", rateLimitType="five_hour", utilization=0.8, resetsAt=1795370334)
    )
    assert conversation.progress.windows == (Window("five_hour", 0.8, 1795370334, 18_000, warning=True),)


def test_a_recorded_rejection_tells_of_a_window_that_is_used_up(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    for said in next(one for one in CASES if one.name == "claude-2.1.330/429_unified_oauth_5h").stdout:
        conversation.hear(said.encode())
    assert [(window.name, window.used) for window in conversation.progress.windows] == [("five_hour", 1.0)]


def test_the_same_call_is_counted_in_a_row_for_each_conversation_of_its_own(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    counts = []
    for number, (tool, by, asked) in enumerate([
        ("Bash", None, "make"), ("Bash", None, "make"), ("Read", "sub", "a.py"), ("Bash", None, "make"),
        ("Read", "sub", "a.py"), ("Bash", None, "ls"),
    ]):  # fmt: skip
        conversation.hear(called(tool, number, by, command=asked))
        conversation.hear(called(tool, number, by, command=asked))  # the same block again
        conversation.hear(answered(number))
        counts.append(conversation.progress.same_calls)
    assert counts == [1, 2, 1, 3, 2, 1]


def test_a_question_to_a_person_is_told_until_it_is_answered(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    now = conversation.progress
    conversation.hear(line({"type": "control_request", "request": {"subtype": "can_use_tool", "tool_name": "Bash"}}))
    assert (now.waiting_on, now.asks) == ("prompt", "may it use Bash?")
    conversation.hear(line({"type": "control_cancel_request", "request_id": "r"}))
    assert (now.waiting_on, now.asks) == ("model", "")
    conversation.hear(called("AskUserQuestion", 1, questions=[{"question": "Which\ncolour?"}]))
    assert (now.waiting_on, now.asks) == ("prompt", "Which colour?")
    conversation.hear(answered(1))
    assert (now.waiting_on, now.asks) == ("model", "")
    conversation.hear(called("Bash", 2, command="make"))
    assert (now.waiting_on, now.asks) == ("tool", "")


def test_the_sessions_own_record_is_named_after_its_folder(tmp_path: Path) -> None:
    (place := tmp_path / "a_b.c d").mkdir()
    made = Claude("night", {**ANY, "config_dir": "/logins/one"}).launch(Task(place, "Do it.", tmp_path, SESSION))
    folder = "".join(c if c.isascii() and c.isalnum() else "-" for c in str(place.resolve()))
    assert made.conversation.progress.transcript == f"/logins/one/projects/{folder}/{SESSION}.jsonl"
    (deep := tmp_path / ("x" * 200)).mkdir()
    unknown = Claude("night", ANY).launch(Task(deep, "Do it.", tmp_path, SESSION)).conversation.progress.transcript
    assert unknown == ""  # the CLI puts a hash of its own behind such a name
