"""Codex: its settings, how it is started, the talk with its app-server, and what each of its errors means."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.adapters.agents.codex import Codex, CodexConversation
from nightcrew.adapters.agents.codex.faults import Fault
from nightcrew.core.model import Usage, Window
from nightcrew.core.outcome import Claim, Ending, Finding, Outcome
from nightcrew.errors import ConfigError
from nightcrew.ports import Task

NOW = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
THREAD = "01a2036a-0eae-71e1-a4d8-f018fffc59ef"
RECORDED = json.loads((Path(__file__).parent / "corpus/codex-0.169.0/app_server_usage_limit.json").read_text())


@pytest.fixture
def program(tmp_path: Path) -> str:
    file = tmp_path / "codex"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(workspace=tmp_path / "tree.d", prompt="Do it.", scratch=tmp_path, session_id="")


def line(**event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


def note(method: str, thread: str = THREAD, **params: Any) -> bytes:
    return line(method=method, params={"threadId": thread, **params})


def begun() -> list[bytes]:
    """A thread whose first turn has started."""
    return [
        line(id="thread", result={"thread": {"id": THREAD}, "model": "gpt-5.5"}),
        note("turn/started", turn={"id": "t1", "status": "inProgress"}),
    ]


def ended(status: str = "completed", **turn: Any) -> bytes:
    return note("turn/completed", turn={"id": "t1", "status": status, "items": [], "error": None, **turn})


def error(info: object, message: str = "it failed", **more: Any) -> dict[str, Any]:
    return {"message": message, "codexErrorInfo": info, "additionalDetails": None, **more}


def message(text: str) -> bytes:
    return note("item/completed", item={"type": "agentMessage", "id": "m1", "text": text})


def tokens(total: int, last: int, thread: str = THREAD) -> bytes:
    def counts(number: int) -> dict[str, int]:
        return {"inputTokens": number, "cachedInputTokens": 0, "outputTokens": 0, "totalTokens": number}

    return note("thread/tokenUsage/updated", thread, tokenUsage={"total": counts(total), "last": counts(last)})


def limits(primary: tuple[int, int], secondary: tuple[int, int], **more: Any) -> bytes:
    windows = {
        name: {"usedPercent": used, "resetsAt": at, "windowDurationMins": 300}
        for name, (used, at) in {"primary": primary, "secondary": secondary}.items()
    }
    return note("account/rateLimits/updated", rateLimits={"limitId": "codex", **windows, **more})


def read(*lines: bytes, exit_code: int | None = 0, stderr: str = "") -> Ending:
    return Codex("codex", {}).read([*lines], exit_code, stderr, NOW)


def failed(info: object, text: str = "it failed", *before: bytes) -> Ending:
    return read(*begun(), *before, ended("failed", error=error(info, text)))


# ---- what errors mean


def http(name: str, status: int | None) -> dict[str, Any]:
    return {name: {"httpStatusCode": status}}


@pytest.mark.parametrize(
    ("info", "text", "outcome"),
    [
        ("contextWindowExceeded", "x", Outcome.CONTEXT_FULL),
        ("sessionBudgetExceeded", "budget reached", Outcome.TOKEN_CAP),
        ("usageLimitExceeded", "You’ve hit your usage limit. Try again later.", Outcome.RATE_LIMITED),
        ("usageLimitExceeded", "You've hit your usage limit for gpt-6. Switch to another model now, or try later.",
         Outcome.RATE_LIMITED),
        ("usageLimitExceeded", "Quota exceeded. Check your plan and billing details.", Outcome.OUT_OF_CREDIT),
        ("usageLimitExceeded", "To use Codex with your ChatGPT plan, upgrade to Plus", Outcome.OUT_OF_CREDIT),
        ("usageLimitExceeded", "Your workspace is out of credits. Add credits to continue.", Outcome.OUT_OF_CREDIT),
        ("usageLimitExceeded", "You hit your spend cap set in your workspace.", Outcome.OUT_OF_CREDIT),
        ("rateLimitExceeded", "rate limit exceeded: see your billing page", Outcome.RATE_LIMITED),
        ("flexUnavailable", "Flex capacity unavailable.", Outcome.OVERLOADED),
        ("serverOverloaded", "Selected model is at capacity.", Outcome.OVERLOADED),
        ("policyCapacityUnavailable", "x", Outcome.OVERLOADED),
        ("internalServerError", "We’re currently experiencing high demand", Outcome.OVERLOADED),
        ("internalServerError", "internal error; agent loop died unexpectedly", Outcome.CRASHED),
        ("modelNotFound", "x", Outcome.MISCONFIGURED),
        ("sandboxError", "sandbox error: Landlock", Outcome.MISCONFIGURED),
        ("unauthorized", "Your access token could not be refreshed.", Outcome.LOGGED_OUT),
        ("cyberPolicy", "x", Outcome.REFUSED),
        ("misalignmentPolicyViolation", "x", Outcome.REFUSED),
        ("inferenceHookDenied", "x", Outcome.REFUSED),
        ("tooManyDenials", "x", Outcome.AGENT_ERROR),
        ("threadRollbackFailed", "x", Outcome.AGENT_ERROR),
        ("badRequest", "unsupported operation", Outcome.AGENT_ERROR),
        ("other", "{\"error\": {\"message\": \"Unknown parameter: 'foo'.\"}}", Outcome.AGENT_ERROR),
        ("other", "Missing environment variable: `KEY`.", Outcome.LOGGED_OUT),
        ("other", "stream disconnected before completion: idle timeout waiting for SSE", Outcome.OVERLOADED),
        ("other", "stream disconnected before completion: Incomplete response returned, reason: content_filter",
         Outcome.REFUSED),
        ("other", "Input exceeds the maximum length of 1048576 characters.", Outcome.CONTEXT_FULL),
        ("other", "Fatal error: write: No space left on device (os error 28)", Outcome.INFRA),
        ("neverHeardOf", "what is this", Outcome.AGENT_ERROR),
        (None, "unexpected status 401 Unauthorized: no", Outcome.LOGGED_OUT),
        (http("httpConnectionFailed", 401), "x", Outcome.LOGGED_OUT),
        (http("httpConnectionFailed", 402), "x", Outcome.OUT_OF_CREDIT),
        (http("httpConnectionFailed", 403), "x", Outcome.LOGGED_OUT),
        (http("httpConnectionFailed", 404), "x", Outcome.MISCONFIGURED),
        (http("httpConnectionFailed", 413), "x", Outcome.CONTEXT_FULL),
        (http("httpConnectionFailed", 400), "x, url: http://host/429/rate-limit", Outcome.AGENT_ERROR),
        (http("httpConnectionFailed", 502), "unexpected status 502: <html>context length</html>", Outcome.OVERLOADED),
        (http("httpConnectionFailed", None), "x", Outcome.OVERLOADED),
        (http("responseStreamConnectionFailed", 503), "x", Outcome.OVERLOADED),
        (http("responseStreamDisconnected", None), "x", Outcome.OVERLOADED),
        (http("responseTooManyFailedAttempts", 429), "exceeded retry limit, last status: 429", Outcome.RATE_LIMITED),
        (http("responseTooManyFailedAttempts", 429), "429: insufficient_quota", Outcome.OUT_OF_CREDIT),
        (http("responseTooManyFailedAttempts", 500), "x", Outcome.OVERLOADED),
        ({"activeTurnNotSteerable": {"turnKind": "review"}}, "x", Outcome.AGENT_ERROR),
    ],
)  # fmt: skip
def test_every_error_of_codex_has_its_meaning(info: object, text: str, outcome: Outcome) -> None:
    told = failed(info, text)
    assert (told.outcome, told.session_id, told.model) == (outcome, THREAD, "gpt-5.5")
    assert text[:20].strip("{") in told.evidence


def test_a_spend_cap_is_known_by_its_field_when_the_text_is_new() -> None:
    capped = limits((100, 1795357198), (0, 0), rateLimitReachedType="workspace_member_usage_limit_reached")
    assert failed("usageLimitExceeded", "Not today.", capped).outcome is Outcome.OUT_OF_CREDIT


# ---- when a limit ends


def test_the_window_that_the_text_means_tells_when_the_limit_ends() -> None:
    text = "You’ve hit your usage limit. Visit https://example.com or try again at 3:19 PM."
    told = failed("usageLimitExceeded", text, limits((92, 1795357198), (40, 1795439998)))
    assert told.resets_at == 1795357198


def test_a_clock_time_of_another_zone_still_finds_its_window() -> None:
    window = int(datetime(2026, 11, 22, 15, 19, 58, tzinfo=UTC).timestamp())
    there = datetime.fromtimestamp(window, timezone(timedelta(hours=5, minutes=30)))
    text = f"You’ve hit your usage limit. Try again at {there:%b %d, %Y %I:%M %p}."
    assert failed("usageLimitExceeded", text, limits((92, window), (95, window + 400_123))).resets_at == window


def test_of_two_windows_used_up_the_later_one_counts() -> None:
    told = failed("usageLimitExceeded", "You’ve hit your usage limit.", limits((100, 1795357198), (100, 1795439998)))
    assert told.resets_at == 1795439998


def test_a_window_that_is_hardly_used_says_nothing_about_a_limit() -> None:
    told = failed("usageLimitExceeded", "You’ve hit your usage limit.", limits((12, 1795357198), (3, 1795439998)))
    assert (told.outcome, told.resets_at) == (Outcome.RATE_LIMITED, None)


def test_an_update_without_windows_does_not_forget_the_ones_before() -> None:
    empty = note("account/rateLimits/updated", rateLimits={"limitId": "codex", "primary": None, "secondary": None})
    told = failed("usageLimitExceeded", "You’ve hit your usage limit.", limits((100, 1795357198), (1, 1)), empty)
    assert told.resets_at == 1795357198


def test_a_short_limit_ends_when_its_text_says() -> None:
    told = failed("rateLimitExceeded", "rate limit exceeded: Please try again in 1.5s.")
    assert told.resets_at == NOW.timestamp() + 1.5


# ---- how a run ended


def test_a_completed_turn_is_done_with_its_last_message() -> None:
    told = read(*begun(), message("first"), message("All done."), ended())
    assert (told.outcome, told.said, told.findings) == (Outcome.DONE, "All done.", None)


def test_a_claim_to_be_blocked_is_blocked_with_its_evidence() -> None:
    said = "I cannot.\n```nightcrew-blocked\nreason: no key\nconf.py:3: KEY = None\n```"
    told = read(*begun(), message(said), ended())
    assert (told.outcome, told.claims) == (Outcome.BLOCKED, (Claim("no key", "conf.py", 3, "KEY = None"),))


def test_a_review_is_read_from_the_last_message() -> None:
    answer = {"findings": [{"file": "a.py", "line": 3, "message": "no", "blocking": True}]}
    assert read(*begun(), message(json.dumps(answer)), ended()).findings == (Finding("a.py", 3, "no", blocking=True),)


def test_a_message_in_the_end_of_the_turn_alone_is_heard() -> None:
    said = [{"type": "agentMessage", "id": "m1", "text": "Only here."}]
    assert read(*begun(), ended(items=said)).said == "Only here."


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ([ended("interrupted")], Outcome.CRASHED),
        ([ended("somethingNew")], Outcome.CRASHED),
        ([ended("completed", error=error("serverOverloaded"))], Outcome.OVERLOADED),
        ([ended(), note("error", error=error("serverOverloaded"), willRetry=False)], Outcome.OVERLOADED),
        ([ended(), note("turn/started", turn={"id": "t2"})], Outcome.CRASHED),
        ([note("error", error=error("serverOverloaded"), willRetry=False)], Outcome.OVERLOADED),
        ([note("error", error=error("unauthorized"), willRetry=True), message("on we go")], Outcome.CRASHED),
        ([note("turn/completed", "another thread", turn={"id": "s", "status": "completed"})], Outcome.CRASHED),
    ],
)
def test_only_a_turn_that_codex_completed_without_error_is_done(lines: list[bytes], outcome: Outcome) -> None:
    assert read(*begun(), *lines, exit_code=-15).outcome is outcome
    assert read(*begun(), *lines, exit_code=0).outcome is outcome


def test_killed_while_it_retried_it_ended_of_what_it_retried() -> None:
    again = error(http("responseStreamDisconnected", 429), "Reconnecting... 1/5", additionalDetails="last status: 429")
    told = read(*begun(), note("error", error=again, willRetry=True), exit_code=-9)
    assert told.outcome is Outcome.RATE_LIMITED
    assert "retried" in told.evidence


@pytest.mark.parametrize(
    ("stderr", "exit_code", "outcome"),
    [
        ("error: unexpected argument '--frob' found", 2, Outcome.MISCONFIGURED),
        ("Error: Model provider `zzz` not found", 1, Outcome.MISCONFIGURED),
        ("Not inside a trusted directory and --skip-git-repo-check was not specified.", 1, Outcome.MISCONFIGURED),
        ("sh: codex: not here", 127, Outcome.MISCONFIGURED),
        ("Not logged in", 1, Outcome.LOGGED_OUT),
        ("thread 'main' panicked at src/main.rs", 101, Outcome.CRASHED),
        ("2026-11-22T15:38:58Z ERROR codex: 401 Unauthorized", 1, Outcome.CRASHED),
        ("", 1, Outcome.CRASHED),
        ("", 0, Outcome.CRASHED),
        ("", -9, Outcome.CRASHED),
        ("", None, Outcome.CRASHED),
    ],
)
def test_codex_that_never_began_is_told_by_its_complaint(stderr: str, exit_code: int | None, outcome: Outcome) -> None:
    told = read(exit_code=exit_code, stderr=stderr)
    assert told.outcome is outcome
    assert told.evidence


def test_exec_that_completed_its_turn_and_failed_all_the_same_is_not_done() -> None:
    lines = [line(type="thread.started", thread_id=THREAD), line(type="turn.completed", usage={"input_tokens": 5})]
    assert read(*lines, exit_code=0).outcome is Outcome.DONE
    assert read(*lines, exit_code=-15).outcome is Outcome.DONE  # ended by us after its last word
    assert read(*lines, exit_code=1).outcome is Outcome.CRASHED


# ---- what it cost


def test_a_fresh_thread_counts_from_nothing() -> None:
    fresh = line(method="thread/started", params={"thread": {"id": THREAD}})
    told = read(fresh, *begun(), message("a"), tokens(100, 100), message("b"), tokens(250, 150), ended())
    assert told.usage == Usage(input=250, turns=2)


def test_a_resumed_thread_counts_from_what_it_had_used() -> None:
    thread, turn = begun()
    told = read(thread, tokens(900, 200), turn, message("a"), tokens(1000, 100), tokens(1000, 100), ended())
    assert told.usage == Usage(input=100, turns=1)


def test_a_resumed_thread_that_does_not_say_what_it_had_used_counts_its_first_answer() -> None:
    assert read(*begun(), message("a"), tokens(1000, 100), ended()).usage == Usage(input=100, turns=1)


def test_sub_agents_are_paid_for_and_otherwise_left_alone() -> None:
    theirs = note("item/completed", "sub", item={"type": "agentMessage", "text": "from below"})
    told = read(*begun(), message("a"), tokens(100, 100), theirs, tokens(40, 40, "sub"), ended())
    assert (told.usage, told.said) == (Usage(input=140, turns=1), "a")


# ---- settings and start


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"modles": ["a"]}, "[agents.night] modles: unknown key. Did you mean `models`?"),
        ({"models": "gpt"}, "[agents.night] models: Expected `array`"),
        ({"sandbox": "none"}, "[agents.night] sandbox: Invalid enum value 'none'"),
        ({"env": {"A": 1}}, "[agents.night] env: Expected `str`"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_its_key_and_cure(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Codex("night", table)
    assert caught.value.sentence().startswith(said)


def test_a_program_that_is_not_there_is_an_error_that_says_how_to_get_it(task: Task) -> None:
    with pytest.raises(ConfigError, match="no `codex-that-is-not-there` on the PATH"):
        Codex("codex", {"program": "codex-that-is-not-there"}).launch(task)


def test_a_variable_that_is_not_set_is_an_error_that_names_it(program: str, task: Task) -> None:
    with pytest.raises(ConfigError, match=r"\[agents.codex\] env.KEY: the environment has no NOT_SET_HERE"):
        Codex("codex", {"program": program, "env": {"KEY": "$NOT_SET_HERE"}}).launch(task)


def test_the_environment_is_what_the_settings_name(program: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_HOME", "/somewhere")
    monkeypatch.setenv("MY_KEY", "made-up")
    monkeypatch.setenv("OTHER", "not passed")
    agent = Codex("codex", {"program": program, "env": {"KEY": "$MY_KEY", "PLAIN": "x"}, "pass_env": ["CODEX_HOME"]})
    assert agent.launch(task).env == {"CODEX_HOME": "/somewhere", "KEY": "made-up", "PLAIN": "x"}


def test_a_start_marks_the_workspace_as_untrusted_and_lets_git_commit(program: str, task: Task) -> None:
    config = {"features": {"web_search": True}, "model_providers.own": {"base-url": 'a"b'}, "projects": {}}
    agent = Codex("codex", {"program": program, "sandbox": "workspace-write", "config": config, "pass_env": []})
    argv = agent.launch(task).argv
    assert argv[:2] == (program, "app-server")
    flags = {flag.partition("=")[0]: flag.partition("=")[2] for flag in argv[3::2]}
    assert flags["projects"] == f'{{"{task.workspace}" = {{"trust_level" = "untrusted"}}}}'
    assert flags["sandbox_workspace_write.writable_roots"] == f'["{task.workspace}/.git"]'
    assert flags["features.web_search"] == "true"
    assert flags["model_providers.own"] == '{"base-url" = "a\\"b"}'


def test_a_login_that_is_there_goes_before_a_key_meant_for_everyone(
    program: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    monkeypatch.delenv("CODEX_API_KEY", raising=False)
    ephemeral = 'cli_auth_credentials_store="ephemeral"'
    agent = Codex("codex", {"program": program})
    assert ephemeral in agent.launch(task).argv
    (tmp_path / "auth.json").write_text("{}")
    assert ephemeral not in agent.launch(task).argv
    monkeypatch.setenv("CODEX_API_KEY", "made-up for codex")
    assert ephemeral in agent.launch(task).argv


# ---- the talk


def talk(task: Task, **own: Any) -> CodexConversation:
    return CodexConversation(task, Codex("codex", own).settings)


def said(answer: bytes) -> list[dict[str, Any]]:
    return [json.loads(one) for one in answer.splitlines()]


def ready(conversation: CodexConversation) -> list[dict[str, Any]]:
    """Answer the handshake; returns all that was said in it."""
    account = line(id="account/read", result={"account": None, "requiresOpenaiAuth": False})
    thread = line(id="thread", result={"thread": {"id": THREAD}, "model": "gpt-5.5"})
    answers = [conversation.hear(heard) for heard in (line(id="initialize", result={}), account, thread)]
    return said(conversation.opening() + b"".join(answers))


def test_the_talk_is_handshake_thread_and_one_turn_with_the_prompt(task: Task) -> None:
    opened = ready(talk(task, effort="high"))
    assert [one["method"] for one in opened] == [
        "initialize", "initialized", "account/read", "thread/start", "turn/start",
    ]  # fmt: skip
    assert opened[3]["params"] == {
        "cwd": str(task.workspace), "approvalPolicy": "never", "sandbox": "danger-full-access",
    }  # fmt: skip
    assert opened[4]["params"] == {
        "threadId": THREAD, "input": [{"type": "text", "text": "Do it."}], "effort": "high",
    }  # fmt: skip


def test_a_resumed_review_names_its_thread_model_and_schema(tmp_path: Path) -> None:
    wanted = Task(
        tmp_path, "Look.", tmp_path, THREAD, resume=True, model="m", read_only=True, schema={"type": "object"}
    )
    opened = ready(talk(wanted))
    assert opened[3]["method"] == "thread/resume"
    assert opened[3]["params"].items() >= {"threadId": THREAD, "sandbox": "read-only", "model": "m"}.items()
    assert opened[4]["params"]["outputSchema"] == {"type": "object"}


def test_progress_shows_the_session_as_it_goes(task: Task) -> None:
    conversation = talk(task)
    ready(conversation)
    progress = conversation.progress
    assert (progress.session_id, progress.model) == ("", "gpt-5.5")  # not on codex's disk yet: not to be resumed
    conversation.hear(note("turn/started", turn={"id": "t1"}))
    conversation.hear(note("item/completed", item={"type": "userMessage", "id": "u"}))
    assert progress.session_id == THREAD
    conversation.hear(note("item/started", item={"type": "commandExecution", "id": "c", "command": "make"}))
    assert (progress.waiting_on, progress.last) == ("tool", "commandExecution: make")
    conversation.hear(note("item/completed", item={"type": "commandExecution", "id": "c", "command": "make"}))
    conversation.hear(note("warning", message="careful"))
    assert (progress.waiting_on, progress.warnings, progress.over) == ("model", ["careful"], False)
    conversation.hear(ended())
    assert progress.over


def test_windows_are_told_once_and_named_by_their_length(task: Task) -> None:
    conversation = talk(task)
    progress = conversation.progress
    hours = {"usedPercent": 92, "windowDurationMins": 300, "resetsAt": 1795357198}
    week = {"usedPercent": 100, "windowDurationMins": 10080, "resetsAt": 1795439998}
    both = {"limitId": "codex", "primary": hours, "secondary": week}
    conversation.hear(note("account/rateLimits/updated", rateLimits=both))
    assert progress.windows == (
        Window("five_hour", 0.92, 1795357198, 18_000), Window("seven_day", 1.0, 1795439998, 604_800, warning=True),
    )  # fmt: skip
    progress.windows = ()  # somebody has read them
    conversation.hear(note("turn/started", turn={"id": "t1"}))
    assert progress.windows == ()
    conversation.hear(note("account/rateLimits/updated", rateLimits={"limitId": "spark", "primary": {
        "usedPercent": 3, "windowDurationMins": 60, "resetsAt": 1795357198}}))  # fmt: skip
    conversation.hear(limits((10, 1795357198), (20, 1795357198)))  # two of one length
    assert {window.name: window.used for window in progress.windows} == {
        "spark/primary": 0.03, "five_hour": 0.1, "secondary": 0.2,
    }  # fmt: skip


def test_the_same_call_is_counted_in_a_row_and_the_rollout_is_the_transcript(task: Task) -> None:
    conversation = talk(task)
    counts = []
    for number, command in enumerate(("make", "make", "ls", "make")):
        item = {"type": "commandExecution", "id": f"c{number}", "command": command, "cwd": "/w"}
        conversation.hear(note("item/started", item=item))
        counts.append(conversation.progress.same_calls)
    assert counts == [1, 2, 1, 1]
    conversation.hear(line(id="thread", result={"thread": {"id": THREAD, "path": "/c/rollout.jsonl"}, "model": "m"}))
    assert conversation.progress.transcript == "/c/rollout.jsonl"


@pytest.mark.parametrize("asked", ["item/commandExecution/requestApproval", "item/fileChange/requestApproval"])
def test_a_question_is_always_answered(task: Task, asked: str) -> None:
    question = line(id=7, method=asked, params={"threadId": THREAD})
    assert said(talk(task).hear(question)) == [{"id": 7, "result": {"decision": "decline"}}]
    assert said(talk(task, approve=True).hear(question)) == [{"id": 7, "result": {"decision": "accept"}}]


def test_a_question_nobody_knows_is_answered_with_an_error(task: Task) -> None:
    conversation = talk(task, approve=True)
    answer = said(conversation.hear(line(id="q", method="something/new", params={})))
    assert (answer[0]["id"], answer[0]["error"]["code"]) == ("q", -32601)
    assert conversation.progress.warnings == ["codex asked something/new, nobody is there to answer"]


def test_waiting_for_the_network_ends_after_so_many_tries_in_a_row(task: Task) -> None:
    conversation = talk(task, network_tries=3)
    ready(conversation)
    waits = error(http("responseStreamDisconnected", None), "Reconnecting... waiting for network")
    counted = error(http("responseStreamDisconnected", None), "Reconnecting... 2/5")
    for one in (waits, waits, counted, counted):
        conversation.hear(note("error", error=one, willRetry=True))
    conversation.hear(message("the network is back"))
    for _ in range(2):
        conversation.hear(note("error", error=waits, willRetry=True))
    assert not conversation.progress.over
    conversation.hear(note("error", error=waits, willRetry=True))
    assert conversation.progress.over


@pytest.mark.parametrize("request_id", ["initialize", "thread", "turn/start", "account/login/start"])
def test_a_request_that_codex_refuses_ends_the_session(task: Task, request_id: str) -> None:
    conversation = talk(task)
    refused = line(id=request_id, error={"code": -32600, "message": "no rollout found for thread id x"})
    assert conversation.hear(refused) == b""
    assert conversation.progress.over
    told = read(refused)
    assert told.outcome in {Outcome.MISCONFIGURED, Outcome.LOGGED_OUT}
    assert request_id in told.evidence


def test_without_an_account_the_key_is_handed_over_and_without_a_key_it_is_over(task: Task) -> None:
    nobody = line(id="account/read", result={"account": None, "requiresOpenaiAuth": True})
    keyed = CodexConversation(task, Codex("codex", {}).settings, "made-up")
    assert said(keyed.hear(nobody))[0]["params"] == {"type": "apiKey", "apiKey": "made-up"}
    assert said(keyed.hear(line(id="account/login/start", result={"type": "apiKey"})))[0]["method"] == "thread/start"
    alone = talk(task)
    assert (alone.hear(nobody), alone.progress.over) == (b"", True)
    assert read(nobody).outcome is Outcome.LOGGED_OUT


def test_an_app_server_that_does_not_know_accounts_is_used_all_the_same(task: Task) -> None:
    unknown = line(id="account/read", error={"code": -32600, "message": "unknown variant"})
    conversation = talk(task)
    assert said(conversation.hear(unknown))[0]["method"] == "thread/start"
    assert not conversation.progress.over


# ---- garbage

scraps = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@st.composite
def mangled(draw: st.DrawFn) -> list[bytes]:
    """The recorded talk with any value, however deep, replaced by any other."""
    lines = [one.encode() for one in RECORDED["stdout"]]
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(lines) - 1))
        event = json.loads(lines[at])
        place = event
        while isinstance(place, dict) and place:
            key = draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or draw(st.booleans()):
                place[key] = draw(scraps)
                break
            place = place[key]
        lines[at] = json.dumps(event).encode()
    return lines


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(lines=mangled())
def test_a_mangled_talk_never_raises_and_what_it_says_can_be_written_down(lines: list[bytes]) -> None:
    conversation = CodexConversation(Task(Path("/x"), "p", Path("/x"), ""), Codex("codex", {}).settings)
    for one in lines:
        conversation.hear(one)
    told = read(*lines)
    assert told.outcome in set(Outcome)
    (told.evidence + told.said + told.model + told.session_id + conversation.progress.last).encode()
    assert told.usage.tokens >= 0


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(lines=st.lists(st.binary(max_size=40) | scraps.map(lambda one: json.dumps(one).encode()), max_size=6))
def test_noise_is_never_done(lines: list[bytes]) -> None:
    assert read(*lines).outcome is Outcome.CRASHED


def test_depth_and_length_are_no_weapon() -> None:
    deep = b'{"method":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert (
        read(deep, b'{"id": ' + b"9" * 10_000 + b"}", *begun(), message("x" * 2_000_000), ended()).said
        == "x" * 2_000_000
    )


def test_a_rejected_request_that_is_quoted_back_is_no_outage() -> None:
    said = 'unexpected status 400 Bad Request: {"error":{"message":"Invalid value: network"}}'
    assert Fault(text=said, status=400).kind() is Outcome.AGENT_ERROR
