"""Kinds of error and moments of reset, from what providers say."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core import reading
from nightcrew.core.outcome import Finding, Outcome

NOW = datetime(2026, 11, 22, 12, 30, 4, tzinfo=UTC)  # a Sunday
LINES = st.text(max_size=200) | st.builds(
    "{} {}{}{} {} {}".format,
    st.sampled_from(["resets", "try again at", "try again in", "retry-after:", "resetsAt", "until"]),
    st.sampled_from(["", "Feb 30, ", "Nov 31st ", "2026-13-45 at ", "Mon ", "tomorrow at ", "9" * 30]),
    st.integers(-5, 10**14), st.sampled_from(["", ":99", ":07", "h30m", "s", " days", "pm"]),
    st.sampled_from(["", "am", "pm", "(UTC)"]), st.sampled_from(["", "(America)", "(Mars/Base)", "(../../etc/passwd)"]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ("You've hit your session limit · resets 2:29pm (UTC)", "2026-11-22T14:29:00+00:00"),
        ("resets 10:30am", "2026-11-23T10:30:00+00:00"),
        ("resets 3pm.", "2026-11-22T15:00:00+00:00"),
        ("resets 12am (Europe/Berlin)", "2026-11-23T00:00:00+01:00"),
        ("resets 12:30pm", "2026-11-22T12:30:00+00:00"),  # the minute that is running
        ("You've hit your weekly limit · resets Nov 25, 3pm (UTC)", "2026-11-25T15:00:00+00:00"),
        ("resets Nov 25 at 3:15pm (America/New_York)", "2026-11-25T15:15:00-05:00"),
        ("resets Jan 2, 2027, 3pm (UTC)", "2027-01-02T15:00:00+00:00"),
        ("resets Jan 2, 3pm (UTC)", "2027-01-02T15:00:00+00:00"),
        ("resets Dec 1 (UTC)", "2026-12-01T00:00:00+00:00"),
        ("resets Mon 9:00 AM", "2026-11-23T09:00:00+00:00"),
        ("resets tomorrow at 3am", "2026-11-23T03:00:00+00:00"),
        ("resets 14:30", "2026-11-22T14:30:00+00:00"),
        ("resets 2pm (Mars/Base)", "2026-11-22T14:00:00+00:00"),  # an unknown zone is ours
        ("try again at 3:14 PM.", "2026-11-22T15:14:00+00:00"),
        ("try again at 3:14\u202fPM", "2026-11-22T15:14:00+00:00"),
        ("try again at Nov 25th, 2026 3:14 PM.", "2026-11-25T15:14:00+00:00"),
        ("You will regain access on 2026-12-01 at 00:00 UTC.", "2026-12-01T00:00:00+00:00"),
        ("try again at 2026-11-22T15:00:00+02:00", "2026-11-22T15:00:00+02:00"),
        ("Please try again in 1.5s.", "2026-11-22T12:30:05.500+00:00"),
        ("try again in 250ms", "2026-11-22T12:30:04.250+00:00"),
        ("Try again in 3 days 4 hours 12 minutes.", "2026-11-25T16:42:04+00:00"),
        ("resets in 2h 5m", "2026-11-22T14:35:04+00:00"),
        ("retry after 30 seconds", "2026-11-22T12:30:34+00:00"),
        ("Retry-After: 3600", "2026-11-22T13:30:04+00:00"),
        ("retry-after-ms: 1500", "2026-11-22T12:30:05.500+00:00"),
        ("Retry-After: Sun, 22 Nov 2026 13:00:00 GMT", "2026-11-22T13:00:00+00:00"),
        ('"resets_at": 1795357799', "2026-11-22T14:29:59+00:00"),
        ("usage limit reached|1795357799", "2026-11-22T14:29:59+00:00"),
    ],
)
def test_a_stated_reset_is_understood(said: str, at: str) -> None:
    assert reading.reset_from_text(said, NOW) == datetime.fromisoformat(at).timestamp()


@pytest.mark.parametrize(
    "said",
    ["", "the limit of 30,000 input tokens per minute", "resets 99:99pm", "resets Feb 30, 3pm", "reset 5 things",
     "until version 2", "resetsAt: 9999999999", "Retry-After: soon"],
)  # fmt: skip
def test_where_nothing_is_stated_nothing_is_made_up(said: str) -> None:
    assert reading.reset_from_text(said, NOW) is None


def test_a_clock_time_without_a_zone_is_in_the_zone_of_now() -> None:
    now = datetime(2026, 11, 22, 23, 0, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert reading.reset_from_text("resets 1am", now) == datetime(2026, 11, 22, 16, 0, tzinfo=UTC).timestamp()


def test_epochs_come_in_seconds_or_milliseconds_and_nonsense_is_refused() -> None:
    assert reading.reset_from_epoch(1795357799, NOW) == reading.reset_from_epoch(1795357799000, NOW) == 1795357799
    nonsense: tuple[object, ...] = (0, -1, 10**30, float("nan"), float("inf"), True, None, "1795357799", [], 2**5000)
    for wrong in nonsense:
        assert reading.reset_from_epoch(wrong, NOW) is None


@given(LINES)
def test_no_text_breaks_a_reading(text: str) -> None:
    at = reading.reset_from_text(text, NOW)
    assert at is None or abs(at - NOW.timestamp()) < 401 * 86400
    reading.kind_of_text(text)
    reading.kind_of_complaint(text)
    reading.asks_a_person(text)
    assert len(reading.one_line(text)) <= 200
    reading.findings_in(text)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("You've hit your weekly limit · resets Nov 25, 3pm (UTC)", Outcome.RATE_LIMITED),
        (
            "You’ve hit your usage limit. Visit … to purchase more credits or try again at 3:14 PM.",
            Outcome.RATE_LIMITED,
        ),
        ("You're out of extra usage · resets 3pm", Outcome.RATE_LIMITED),
        ("exceeded retry limit, last status: 429 Too Many Requests", Outcome.RATE_LIMITED),
        ("You're out of usage credits. /model to switch models.", Outcome.OUT_OF_CREDIT),
        ("You've hit your monthly spend limit · /usage-credits to raise it", Outcome.OUT_OF_CREDIT),
        ("Quota exceeded. Check your plan and billing details.", Outcome.OUT_OF_CREDIT),
        ("Not logged in · Please run /login", Outcome.LOGGED_OUT),
        ("unexpected status 401 Unauthorized: Incorrect API key provided", Outcome.LOGGED_OUT),
        ("API Error: Unable to connect to API (ConnectionRefused)", Outcome.OVERLOADED),
        ("Selected model is at capacity. Please try a different model.", Outcome.OVERLOADED),
        ("unexpected status 502 Bad Gateway", Outcome.OVERLOADED),
        ("Prompt is too long", Outcome.CONTEXT_FULL),
        ("Codex ran out of room in the model's context window.", Outcome.CONTEXT_FULL),
        ("The model `gpt-nope` does not exist or you do not have access to it.", Outcome.MISCONFIGURED),
        (
            "Claude Code is unable to respond to this request, which appears to violate our Usage Policy",
            Outcome.REFUSED,
        ),
        ("all is well", None),
    ],
)
def test_an_error_is_told_by_its_words_when_there_is_nothing_better(said: str, kind: Outcome) -> None:
    assert reading.kind_of_text(said) is kind


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("error: unknown option '--frob'", Outcome.MISCONFIGURED),
        ("Error: Session ID 1 is already in use.", Outcome.MISCONFIGURED),
        ("Error: Settings file not found: /home/network/oauth.json", Outcome.MISCONFIGURED),
        ("Error: something new", Outcome.MISCONFIGURED),
        ("Error: connect ECONNREFUSED 127.0.0.1:9", Outcome.OVERLOADED),
        ("panicked at src/main.rs:3: invalid value", None),
        ("error: write ENOSPC, no space left on device", Outcome.INFRA),
        ("", None),
    ],
)
def test_a_program_that_does_not_start_is_told_by_its_complaint(stderr: str, kind: Outcome | None) -> None:
    assert reading.kind_of_complaint(stderr) is kind


@pytest.mark.parametrize(
    "shown",
    [
        "Quick safety check: Is this a project you created or one you trust?",
        "\x1b[1mDo\x1b[1Cyou\x1b[1Ctrust\x1b[1Cthe\x1b[1Cfiles in this folder?",
        "❯ 1. Yes, I trust this folder",
        "Overwrite? [y/N]",
    ],
)
def test_a_dialog_is_seen_through_escape_codes(shown: str) -> None:
    assert reading.asks_a_person(shown)
    assert not reading.asks_a_person("All tests pass.")


def test_half_a_review_is_no_review() -> None:
    good = '{"file": "a.py", "line": 1, "message": "m", "blocking": true}'
    assert reading.findings_in(f'Here:\n```json\n{{"findings": [{good}]}}\n```') == (Finding("a.py", 1, "m", True),)
    assert reading.findings_in('{"findings": []}') == ()
    for broken in (
        f'{{"findings": [{good}, {{"file": "b.py"}}]}}',
        '{"findings": 3}',
        "{}",
        "",
        "no {json",
        "[" * 9999,
    ):
        assert reading.findings_in(broken) is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("API Error: 400 This organization has been disabled.", Outcome.LOGGED_OUT),
        ('API Error: 404 {"type":"not_found_error","message":"model: claude-foo"}', Outcome.MISCONFIGURED),
        ("input length and `max_tokens` exceed context limit: 198000 + 21333 > 200000", Outcome.CONTEXT_FULL),
        ("It needs an update. A newer version (1.0.88 or higher) is required", Outcome.MISCONFIGURED),
        ("A newer version 1.0.88 or higher is required to continue.", Outcome.MISCONFIGURED),
    ],
)
def test_words_of_other_versions_are_understood(said: str, kind: Outcome) -> None:
    assert reading.kind_of_text(said) is kind
