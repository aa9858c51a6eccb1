"""Claude Code's adapter: what it is started with, what is heard of a session, and endings that no recording shows."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nightcrew.adapters.agents.claude import Claude
from nightcrew.core.outcome import Claim, Ending, Outcome
from nightcrew.errors import ConfigError
from nightcrew.ports import Launch, Task
from tests.test_corpus import CASES, Case

NOW = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
SESSION = "0c6edf46-36e8-4b40-8872-f15d3e4d0a5f"
ANY: dict[str, object] = {"program": "sh", "pass_env": ()}


def launch(tmp_path: Path, settings: dict[str, object] | None = None, **task: Any) -> Launch:
    made = Task(tmp_path, task.pop("prompt", "Do it."), tmp_path / "scratch", SESSION, **task)
    return Claude("night", {**ANY, **(settings or {})}).launch(made)


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


# ---- starting


def test_a_session_is_started_without_the_repositorys_settings_and_with_its_own_id(tmp_path: Path) -> None:
    made = launch(tmp_path, model="opus", instructions="Use tabs.", max_turns=7, max_money=1.5)
    argv = made.argv
    assert Path(argv[0]).is_absolute()
    assert value(argv, "--output-format") == "stream-json"
    assert (value(argv, "--session-id"), value(argv, "--model")) == (SESSION, "opus")
    assert (value(argv, "--setting-sources"), "--strict-mcp-config" in argv) == ("user", True)
    assert value(argv, "--append-system-prompt") == "Use tabs."
    assert (value(argv, "--max-turns"), float(value(argv, "--max-budget-usd"))) == ("7", 1.5)
    assert {"-p", "--verbose", "--dangerously-skip-permissions", "Bash(git push*)", "Bash(gh *)"} <= set(argv)
    assert (made.conversation.opening(), made.two_way) == (b"Do it.", False)


def test_a_resumed_session_keeps_its_id_and_what_is_not_asked_for_is_not_said(tmp_path: Path) -> None:
    argv = launch(tmp_path, resume=True).argv
    assert value(argv, "--resume") == SESSION
    unsaid = {"--session-id", "--model", "--append-system-prompt", "--max-turns", "--max-budget-usd", "--json-schema"}
    assert not unsaid & set(argv)


def test_a_reviewer_may_only_read_and_must_answer_in_the_schema(tmp_path: Path) -> None:
    argv = launch(tmp_path, {"allowed_tools": ("Bash",)}, read_only=True, schema={"type": "object"}).argv
    assert value(argv, "--tools") == "Read,Grep,Glob"
    assert json.loads(value(argv, "--json-schema")) == {"type": "object"}
    assert not {"--dangerously-skip-permissions", "--allowedTools"} & set(argv)


def test_a_permission_mode_takes_the_place_of_skipping_permissions(tmp_path: Path) -> None:
    argv = launch(tmp_path, {"permission_mode": "dontAsk", "allowed_tools": ["Edit", "Bash(make *)"]}).argv
    assert value(argv, "--permission-mode") == "dontAsk"
    assert argv[argv.index("--allowedTools") + 1 :][:2] == ("Edit", "Bash(make *)")
    assert "--dangerously-skip-permissions" not in argv


def test_instructions_too_long_for_an_argument_go_into_the_prompt(tmp_path: Path) -> None:
    made = launch(tmp_path, instructions="é" * 60_000 + "\0")
    assert max(len(part.encode()) for part in made.argv) < 128 * 1024
    assert "é" * 60_000 in made.conversation.opening().decode()
    assert not any("\0" in part for part in made.argv)


def test_the_environment_limits_retries_and_carries_only_what_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "made-up-key")
    monkeypatch.setenv("GITHUB_TOKEN", "made-up-token")
    monkeypatch.setenv("WORK_KEY", "made-up-work-key")
    settings: dict[str, object] = {"pass_env": ("ANTHROPIC_API_KEY",), "env": {"A": "b", "K": "$WORK_KEY"}}
    env = launch(tmp_path, settings).env
    assert (env["ANTHROPIC_API_KEY"], env["A"], env["K"]) == ("made-up-key", "b", "made-up-work-key")
    assert env["CLAUDE_CODE_MAX_RETRIES"] == "1"
    assert env["CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"] == "1"
    assert "GITHUB_TOKEN" not in env
    assert (env.get("IS_SANDBOX") == "1") == (os.geteuid() == 0)


def test_the_owners_own_value_wins(tmp_path: Path) -> None:
    assert launch(tmp_path, {"env": {"API_TIMEOUT_MS": "9000"}}).env["API_TIMEOUT_MS"] == "9000"


@pytest.mark.parametrize(
    ("settings", "key", "hint"),
    [
        ({"modles": []}, "modles", "Did you mean `models`?"),
        ({"max_retries": -1}, "max_retries", "it is 1"),
        ({"models": "sonnet"}, "models", "('sonnet', 'opus')"),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(settings: dict[str, object], key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        Claude("night", settings)
    assert f"[agents.night] {key}" in str(wrong.value)
    assert hint in wrong.value.hint


@pytest.mark.parametrize(
    ("settings", "key"), [({"program": "no-such-claude"}, "program"), ({"env": {"K": "$NO_SUCH_VARIABLE"}}, "env.K")]
)
def test_what_is_missing_at_launch_is_named(tmp_path: Path, settings: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[agents.night\] {key}"):
        launch(tmp_path, settings)


def test_the_ladder_is_what_the_owner_says() -> None:
    assert (Claude("c", {}).models, Claude("c", {"models": ["haiku"]}).models) == (("sonnet", "opus"), ("haiku",))


# ---- hearing


def test_progress_follows_a_session(tmp_path: Path) -> None:
    happy = next(one for one in CASES if one.name == "claude-2.1.330/happy")
    conversation = launch(tmp_path).conversation
    waited, seen = [], set()
    for line in happy.stdout:
        assert conversation.hear(line.encode()) == b""
        waited.append(conversation.progress.waiting_on)
        seen.add(conversation.progress.last)
        assert conversation.progress.over == ('"type":"result"' in line)
    now = conversation.progress
    assert (now.model, now.lines, now.usage.turns) == ("claude-sonnet-4-5", len(happy.stdout), 5)
    assert now.usage == happy.read().usage
    assert now.session_id == happy.read().session_id
    assert "tool" in waited
    assert waited[-1] == "model"
    assert any(said.startswith("Bash ") for said in seen)


def test_usage_is_estimated_while_a_session_runs_and_each_answer_counts_once(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    for text in ("x" * 400, "y" * 400):
        conversation.hear(line(answer(text)))
    usage = conversation.progress.usage
    assert (usage.input, usage.cache_read, usage.output, usage.turns) == (10, 20, 200, 1)


def test_garbage_and_surprises_never_raise(tmp_path: Path) -> None:
    conversation = launch(tmp_path).conversation
    events = (
        b'{"type":"assistant"}', b'{"type":"assistant","message":[1]}', b'{"type":null}',
        b'{"type":"user","message":"x"}', b'{"type":"system","subtype":"init","mcp_servers":[{"status":["x"]}]}',
        b'{"type":"result","usage":7,"num_turns":{}}',
    )  # fmt: skip
    for strange in (b"", b"\xff\xfe", b"[" * 100_000, b'"text"', *events):
        conversation.hear(strange)
    assert conversation.progress.over
    assert conversation.progress.warnings == ["MCP server : unknown"]


# ---- endings that no recording shows


def answer(text: str, **more: object) -> dict[str, object]:
    message = {"id": "m1", "role": "assistant", "model": "claude-x", "content": [{"type": "text", "text": text}],
               "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 1}}  # fmt: skip
    return {"type": "assistant", "message": message, "parent_tool_use_id": None, "session_id": SESSION, **more}


def result(text: str = "Done.", **more: object) -> dict[str, object]:
    return {"type": "result", "subtype": "success", "is_error": False, "result": text, "num_turns": 1, **more}


def line(event: object) -> bytes:
    return json.dumps(event).encode()


def read(*events: object, exit_code: int | None = 0, stderr: str = "") -> Ending:
    said = [event if isinstance(event, bytes) else line(event) for event in events]
    return Claude("claude", {}).read(said, exit_code, stderr, NOW)


def failed(error: str, text: str = "", **more: object) -> tuple[dict[str, object], dict[str, object]]:
    return answer(text, error=error), result(text, is_error=True, **more)


def rejected(**more: object) -> dict[str, object]:
    return {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", **more}}


INIT = {"type": "system", "subtype": "init", "session_id": SESSION, "model": "claude-x"}
RETRY = {"type": "system", "subtype": "api_retry", "attempt": 1, "error": "overloaded", "error_status": 529}


def test_a_clean_result_is_done_even_when_we_killed_what_was_left_after_it() -> None:
    for code in (0, None, -15, 143):
        assert read(INIT, answer("x"), result(), exit_code=code).outcome is Outcome.DONE
    assert read(INIT, answer("x"), result(), exit_code=1).outcome is Outcome.CRASHED


def test_the_last_of_several_results_counts_and_a_turn_without_one_is_not_done() -> None:
    first, last = result("First."), result("Last.", usage={"input_tokens": 5})
    ended = read(INIT, first, answer("more"), last)
    assert (ended.outcome, ended.said, ended.usage.input, ended.usage.turns) == (Outcome.DONE, "Last.", 5, 2)
    assert read(INIT, first, answer("more"), line(last)[:40]).outcome is Outcome.CRASHED


def test_noise_around_the_events_changes_nothing() -> None:
    noise = b"npm warn something", b"\x1b]0;title\x07" + line(INIT), b"\xff\xfe{", b"   "
    assert read(*noise, answer("x"), result(), b"bye").outcome is Outcome.DONE


def test_an_array_of_all_events_is_read_like_a_stream() -> None:
    ended = read([INIT, *failed("rate_limit", "limit", api_error_status=429)], exit_code=1)
    assert (ended.outcome, ended.model) == (Outcome.RATE_LIMITED, "claude-x")


def test_words_alone_are_no_success_and_an_empty_end_is_none_either() -> None:
    assert read(b"All done!").outcome is Outcome.CRASHED
    assert read().outcome is Outcome.CRASHED
    assert read(exit_code=1).outcome is Outcome.CRASHED
    assert read(exit_code=127, stderr="sh: claude: not found").outcome is Outcome.MISCONFIGURED


def test_a_last_answer_that_is_an_error_is_never_done_whatever_the_result_says() -> None:
    assert read(INIT, answer("API Error", error="server_error"), result()).outcome is Outcome.OVERLOADED


def test_a_subagents_error_is_not_the_sessions() -> None:
    assert read(answer("limit", error="rate_limit", parent_tool_use_id="t1"), result()).outcome is Outcome.DONE


def test_an_error_that_was_got_over_is_forgotten() -> None:
    assert read(answer("Overloaded", error="server_error"), answer("fine"), result()).outcome is Outcome.DONE


def test_a_torn_result_is_told_from_the_answer_before_it() -> None:
    refused, torn = failed("billing_error", "Credit balance is too low")
    assert read(INIT, refused, line(torn)[:50], exit_code=1).outcome is Outcome.OUT_OF_CREDIT


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (RETRY, Outcome.OVERLOADED),
        ({**RETRY, "error": "rate_limit", "error_status": 429}, Outcome.RATE_LIMITED),
        ({**RETRY, "error": "authentication_failed", "error_status": 401}, Outcome.LOGGED_OUT),
        ({**RETRY, "error": "unknown", "error_status": None}, Outcome.OVERLOADED),
        (rejected(resetsAt=1795357799), Outcome.RATE_LIMITED),
        (rejected(resetsAt=1795357799, isUsingOverage=True), Outcome.CRASHED),
        ({"type": "control_request", "request": {"subtype": "can_use_tool"}}, Outcome.PROMPT_WAIT),
        (b"Do you trust the files in this folder?", Outcome.PROMPT_WAIT),
        (answer("Working."), Outcome.CRASHED),
    ],
)
@pytest.mark.parametrize("exit_code", [-9, 143, None])
def test_a_session_killed_is_told_from_the_last_thing_it_said(
    last: object, outcome: Outcome, exit_code: int | None
) -> None:
    torn = b'{"type":"assis'
    assert read(INIT, last, exit_code=exit_code).outcome is outcome
    assert read(INIT, last, torn, exit_code=exit_code).outcome is outcome


def test_a_retry_that_was_followed_by_an_answer_explains_nothing() -> None:
    assert read(INIT, RETRY, answer("on we go"), exit_code=-9).outcome is Outcome.CRASHED


def test_a_permission_dialog_on_stderr_is_seen() -> None:
    stderr = "WARNING: Claude Code running in Bypass Permissions mode\n 1. No, exit"
    assert read(exit_code=-15, stderr=stderr).outcome is Outcome.PROMPT_WAIT


@pytest.mark.parametrize(
    ("error", "more", "outcome"),
    [
        ("account_on_hold", {}, Outcome.LOGGED_OUT),
        ("cloud_credential_error", {}, Outcome.LOGGED_OUT),
        ("oauth_org_not_allowed", {"api_error_status": 403}, Outcome.LOGGED_OUT),
        ("overloaded", {}, Outcome.OVERLOADED),
        ("unknown", {"api_error_status": 402}, Outcome.OUT_OF_CREDIT),
        ("unknown", {"api_error_status": 503}, Outcome.OVERLOADED),
        ("unknown", {"api_error_status": 413}, Outcome.CONTEXT_FULL),
        ("invalid_request", {"terminal_reason": "blocking_limit"}, Outcome.CONTEXT_FULL),
        ("invalid_request", {"stop_reason": "refusal"}, Outcome.REFUSED),
        ("invalid_request", {"api_error": "claude_code_version_too_old"}, Outcome.MISCONFIGURED),
        ("rate_limit", {"api_error": "model_requires_usage_credits"}, Outcome.OUT_OF_CREDIT),
        ("something_new", {"api_error_status": 418}, Outcome.AGENT_ERROR),
        ("something_new", {}, Outcome.AGENT_ERROR),
    ],
)
def test_structured_fields_decide(error: str, more: dict[str, object], outcome: Outcome) -> None:
    ended = read(INIT, *failed(error, "Words that say nothing.", **more), exit_code=1)
    assert ended.outcome is outcome
    assert ended.evidence


def test_a_rejected_request_that_is_quoted_back_is_no_outage() -> None:
    text = "API Error: 400 messages.3: 'the network timed out, rate limit' is not allowed"
    assert read(*failed("invalid_request", text, api_error_status=400), exit_code=1).outcome is Outcome.AGENT_ERROR


def test_a_reset_is_taken_from_the_event_and_only_then_from_the_words() -> None:
    limit = failed("rate_limit", "You've hit your weekly limit · resets Nov 25, 3pm (UTC)", api_error_status=429)
    assert read(rejected(resetsAt=1795400000), *limit, exit_code=1).resets_at == 1795400000
    words = read(*limit, exit_code=1)
    assert words.resets_at == datetime(2026, 11, 25, 15, tzinfo=UTC).timestamp()
    allowed = {"type": "rate_limit_event", "rate_limit_info": {"status": "allowed", "resetsAt": 1795400000}}
    assert read(allowed, *failed("rate_limit", "slow down"), exit_code=1).resets_at is None


def test_a_limit_that_only_money_ends_is_no_limit() -> None:
    spent = failed("rate_limit", "You're out of usage credits. /model to switch models.", api_error_status=429)
    assert read(*spent, exit_code=1).outcome is Outcome.OUT_OF_CREDIT
    assert read(rejected(resetsAt=1795400000), *spent, exit_code=1).outcome is Outcome.RATE_LIMITED


def test_an_agent_that_talks_about_errors_is_not_in_one() -> None:
    said = "Fixed: 429 rate limit, 401 Not logged in, prompt is too long, do you trust the files?"
    assert read(INIT, answer(said), result(said)).outcome is Outcome.DONE


def test_a_model_that_declines_has_not_done_it_even_where_the_cli_calls_it_a_success() -> None:
    said = "I can't help with this request."
    assert read(INIT, answer(said), result(said, stop_reason="refusal")).outcome is Outcome.REFUSED


def test_a_providers_bare_answer_on_stdout_is_read_by_its_words() -> None:
    bare = """API Error: 529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"""
    assert read(bare, exit_code=1).outcome is Outcome.OVERLOADED


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("5-hour limit reached ∙ resets 3pm", Outcome.RATE_LIMITED),
        ("Claude AI usage limit reached|1795400000", Outcome.RATE_LIMITED),
        ("You've hit your session limit · resets 10:30am (Europe/Berlin)", Outcome.RATE_LIMITED),
        ("Invalid API key · Please run /login", Outcome.LOGGED_OUT),
        ("Credit balance is too low", Outcome.OUT_OF_CREDIT),
        ("API Error: 529 overloaded_error", Outcome.OVERLOADED),
    ],
)
def test_the_clis_own_words_in_the_models_place_are_no_success(words: str, outcome: Outcome, code: int) -> None:
    synthetic = {"type": "assistant", "message": {"model": "<synthetic>", "content": [{"type": "text", "text": words}]}}
    ended = read(INIT, synthetic, result(words), exit_code=code)
    assert ended.outcome is outcome
    assert (ended.resets_at is not None) == (outcome is Outcome.RATE_LIMITED)


def test_an_error_status_is_no_success() -> None:
    assert read(INIT, answer("."), result("Whatever", api_error_status=429)).outcome is Outcome.RATE_LIMITED


@pytest.mark.parametrize("words", ["Error: Request was aborted.", "Error: ENOENT: no such file or directory"])
def test_a_session_that_breaks_after_the_model_answered_is_no_setting_gone_wrong(words: str) -> None:
    broke = result("", is_error=True, subtype="error_during_execution", errors=[words])
    assert read(INIT, answer("I look around."), broke, exit_code=1).outcome is Outcome.CRASHED


def test_a_claim_to_be_blocked_is_handed_on_with_its_places() -> None:
    said = "I stop.\n\n```nightcrew-blocked\nreason: no key\nconf.py:3: KEY = None\n```"
    ended = read(INIT, answer(said), result(said))
    assert (ended.outcome, ended.claims) == (Outcome.BLOCKED, (Claim("no key", "conf.py", 3, "KEY = None"),))
    assert read(INIT, answer(said), result(said, is_error=True), exit_code=1).claims == ()


def test_money_is_this_runs_where_the_cli_says_so_and_never_counted_twice() -> None:
    since = {"m": {"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3, "costUSD": 0.25}}
    runs = [result(total_cost_usd=9.25, model_usage_since_last_result=since, usage={"input_tokens": 99})] * 2
    usage = read(INIT, runs[0], answer("x"), runs[1]).usage
    assert (usage.input, usage.output, usage.cache_read, usage.money) == (2, 4, 6, 0.5)
    older = read(INIT, result(total_cost_usd=1.0), answer("x"), result(total_cost_usd=1.5))
    assert older.usage.money == 1.5


def test_what_was_spent_before_a_kill_is_estimated() -> None:
    killed: Case = next(one for one in CASES if one.name == "claude-2.1.330/sigkill_during_bash")
    usage = killed.read().usage
    assert (usage.input, usage.cache_read, usage.cache_write, usage.turns) == (12, 10_000, 2000, 1)
