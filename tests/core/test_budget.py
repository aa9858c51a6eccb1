"""What is spent against the caps, what is too fast, and which model may answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.budget import (
    RATE_FLOOR,
    RATE_KNOWN,
    Entry,
    Spend,
    attempt_over,
    in_window,
    over,
    plain_model,
    projected,
    rate,
    repeats,
    same_model,
    scopes,
    tally,
    too_fast,
    tripped,
    usual,
    wrong_model,
)
from nightcrew.core.model import Budget, Cap, Caps, Usage
from nightcrew.core.outcome import Outcome

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
MIDNIGHT, NOON = datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 21, 12, tzinfo=UTC)
MINE = scopes("folder:K-1", "alpha", "claude")


def entry(tokens: int = 0, at: datetime = NOW, seconds: float = 60, **more: object) -> Entry:
    named = {"run_id": "folder:K-1", "repo": "alpha", "lane": "claude", **more}
    return Entry(number=1, at=at, ticket="K-1", agent="claude", usage=Usage(input=tokens), seconds=seconds, **named)  # type: ignore[arg-type]


def spent(**by: tuple[int, float]) -> Spend:
    names = {"ticket": MINE[0], "repo": MINE[1], "lane": MINE[2]}
    return Spend({names.get(name, name): amount for name, amount in by.items()})


# -- caps --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cap", ["ticket", "repo", "lane", "day", "night"])
@pytest.mark.parametrize(("kind", "limit"), [("tokens", Cap(tokens=100)), ("money", Cap(money=2.5))])
def test_each_cap_holds_for_its_own_scope_and_names_its_setting(cap: str, kind: str, limit: Cap) -> None:
    caps = Caps(**{cap: limit})
    assert over(spent(**{cap: (99, 2.49)}), MINE, caps) is None
    reached = over(spent(**{cap: (100, 2.5)}), MINE, caps)
    assert reached
    assert (reached.cap, reached.kind) == (cap, kind)
    assert f"[limits.{cap}] {kind} is" in reached.says
    assert over(spent(**{cap: (100, 2.5)}), scopes("other", "beta", "codex"), caps) is None or cap in ("day", "night")


def test_tokens_are_looked_at_before_money() -> None:
    caps = Caps(ticket=Cap(money=1), day=Cap(tokens=10))
    reached = over(spent(ticket=(50, 5.0), day=(50, 5.0)), MINE, caps)
    assert reached
    assert (reached.cap, reached.stop.outcome) == ("day", Outcome.TOKEN_CAP)
    only = over(spent(ticket=(50, 5.0)), MINE, caps)
    assert only
    assert (only.cap, only.stop.outcome, only.stop.cap) == ("ticket", Outcome.MONEY_CAP, "ticket")


def test_a_cap_that_ends_by_itself_says_when() -> None:
    said = {cap: over(spent(**{cap: (7, 0.0)}), MINE, Caps(**{cap: Cap(tokens=5)})) for cap in ("day", "night", "lane")}
    assert "; it goes on at midnight, or once that is raised" in (said["day"] or said["lane"]).says  # type: ignore[union-attr]
    assert "at noon" in said["night"].says  # type: ignore[union-attr]
    assert "lane claude has used 7 tokens today, [limits.lane] tokens is 5 tokens" in said["lane"].says  # type: ignore[union-attr]


def test_without_a_cap_nothing_is_too_much() -> None:
    assert over(spent(day=(10**15, 1e9)), MINE, Caps()) is None
    assert attempt_over((10**15, 1e9), Budget()) is None


def test_an_attempt_has_a_budget_of_its_own() -> None:
    reached = attempt_over((1000, 0.0), Budget(tokens=1000))
    assert reached
    assert reached.says == "1,000 tokens used, the cap of an attempt is 1,000 tokens ([limits.attempt])"
    money = attempt_over((1000, 3.0), Budget(money=2.0))
    assert money
    assert (money.cap, money.stop.outcome) == ("attempt", Outcome.MONEY_CAP)


ENTRIES = st.lists(
    st.builds(
        entry,
        st.integers(0, 10**6),
        st.integers(-48, 3).map(lambda hours: NOW + timedelta(hours=hours)),
        run_id=st.sampled_from(["a", "b"]),
        repo=st.sampled_from(["alpha", "beta"]),
        lane=st.sampled_from(["claude", "codex"]),
    ),
    max_size=30,
)


@given(ENTRIES)
def test_a_ticket_counts_for_ever_a_repository_a_lane_and_a_day_from_midnight_a_night_from_noon(
    entries: list[Entry],
) -> None:
    by = tally(entries, MIDNIGHT, NOON)

    def total(*wanted: Entry) -> int:
        return sum(e.usage.tokens for e in wanted)

    today = [e for e in entries if e.at >= MIDNIGHT]
    assert by.get("day", (0, 0))[0] == total(*today)
    assert by.get("night", (0, 0))[0] == total(*(e for e in entries if e.at >= NOON))
    for name in ("a", "b"):
        assert by.get(f"ticket:{name}", (0, 0))[0] == total(*(e for e in entries if e.run_id == name))
    for name in ("alpha", "beta"):
        assert by.get(f"repo:{name}", (0, 0))[0] == total(*(e for e in today if e.repo == name))
    for name in ("claude", "codex"):
        assert by.get(f"lane:{name}", (0, 0))[0] == total(*(e for e in today if e.lane == name))


def test_of_two_prices_the_higher_counts() -> None:
    told = Entry("r", 1, NOW, "K-1", "alpha", "claude", "claude", usage=Usage(input=5, money=1.0), cost=2.0)
    assert told.amount == (5, 2.0)


# -- repetition and rate -----------------------------------------------------------------------------------------------
def test_the_same_tool_call_over_and_over_ends_a_session() -> None:
    assert repeats(19, "Read a.py", Budget()) is None
    assert repeats(10**6, "Read a.py", Budget(same_calls=0)) is None
    stop = repeats(20, "Read a.py", Budget())
    assert stop
    assert (stop.outcome, stop.why) == (Outcome.AGENT_ERROR, "the same tool call 20 times in a row: Read a.py")


def test_what_is_usual_is_not_known_before_ten_sessions_ended() -> None:
    ended = [entry(60_000 * n, seconds=60) for n in range(1, RATE_KNOWN)]
    assert usual(ended) == 0
    assert usual([*ended, entry(10**9, seconds=60)]) == 330_000
    assert usual([*ended, entry(0), entry(100, seconds=0)]) == 0  # nothing used, or no time taken: says nothing


def told(*samples: tuple[float, int]) -> list[tuple[datetime, int]]:
    return [(NOW + timedelta(minutes=minutes), tokens) for minutes, tokens in samples]


def test_a_session_that_spends_many_times_the_usual_is_too_fast() -> None:
    why = too_fast(told((0, 0), (1, 900_000), (2, 1_800_000)), 100_000, 8)
    assert why == (
        "it used 1,800,000 tokens in 2 min, 100,000 a minute are usual: "
        "more than [limits] rate_factor (8) times that"
    )  # fmt: skip
    assert not too_fast(told((0, 0), (1, 900_000), (2, 1_800_000)), 100_000, 10)
    assert not too_fast(told((0, 0), (1, 10**9)), 0, 8)  # nothing is known yet
    assert not too_fast(told((0, 0), (1, 10**9)), 100, 0)  # switched off


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, RATE_FLOOR - 1)), max_size=20))
def test_a_small_session_is_never_too_fast(samples: list[tuple[float, int]]) -> None:
    assert not too_fast(told(*sorted(samples)), 0.001, 1)


def test_what_is_told_at_the_end_alone_was_used_all_the_while() -> None:
    assert not too_fast(told((0, 0), (40, 4_000_000)), 100_000, 8)


def test_only_the_last_minutes_are_looked_at() -> None:
    samples = told(*((n, n * 1000) for n in range(10)))
    left = samples[in_window(samples, samples[-1][0]) :]
    assert left == samples[6:]  # the one three minutes ago is where the window begins
    assert in_window(told((0, 0)), NOW + timedelta(hours=9)) == 0


def test_one_fast_session_ends_for_itself_and_the_third_within_half_an_hour_closes_the_lane() -> None:
    alone = tripped("too fast", "claude", [NOW - timedelta(hours=3), NOW - timedelta(minutes=5), NOW], NOW)
    assert (alone.outcome, alone.cap) == (Outcome.TOKEN_CAP, "rate")
    many = tripped("too fast", "claude", [NOW - timedelta(minutes=m) for m in (20, 5, 0)], NOW)
    assert (many.outcome, many.why) == (
        Outcome.MISCONFIGURED, "3 sessions of claude spent too fast within half an hour: too fast",
    )  # fmt: skip


# -- models ------------------------------------------------------------------------------------------------------------
SAME = [
    ("sonnet", "claude-sonnet-4-5-20250929"), ("opus", "us.anthropic.claude-opus-4-1-20250805-v1:0"),
    ("sonnet[1m]", "claude-sonnet-4-5-20250929[1m]"), ("opusplan", "claude-sonnet-4-5"), ("opusplan", "claude-opus-4"),
    ("haiku", "claude-haiku-4-5@20251001"), ("claude-sonnet-4-0", "claude-sonnet-4-20250514"),
    ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"), ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
    ("claude-sonnet-4-5", "sonnet"), ("gpt-5", "gpt-5-2025-08-07"), ("gpt-5-codex-high", "gpt-5-codex"),
    ("mini", "gpt-5-mini"), ("", "anything"), ("default", "anything"), ("o3", "o3"), ("small", "small"),
    ("arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "claude-opus-4-1"), ("opus", ""),
]  # fmt: skip
OTHERS = [
    ("gpt-5", "gpt-5-pro"), ("gpt-5", "gpt-5.1"), ("gpt-5", "gpt-5-codex"), ("gpt-5-mini", "gpt-5"), ("o3", "o3-pro"),
    ("codex", "gpt-5.1-codex-max"), ("sonnet", "claude-opus-4-1"), ("claude-sonnet-4", "claude-sonnet-4-5"),
    ("opusplan", "claude-haiku-4-5"), ("small", "large"), ("sonnet", "glm-4.6"),
]  # fmt: skip


@pytest.mark.parametrize(("allowed", "reported"), SAME)
def test_a_model_has_many_names(allowed: str, reported: str) -> None:
    assert same_model(allowed, reported)


@pytest.mark.parametrize(("allowed", "reported"), OTHERS)
def test_a_like_name_is_another_model(allowed: str, reported: str) -> None:
    assert not same_model(allowed, reported)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_can_be_a_model_and_every_model_is_itself(one: str, other: str) -> None:
    assert same_model(one, one)
    assert isinstance(same_model(one, other), bool)
    assert plain_model(plain_model(one)) is not None


def test_a_model_outside_the_ladder_is_named_with_the_setting() -> None:
    why = wrong_model("claude", "sonnet", "claude-opus-4-1-20250805", ["haiku", "sonnet"])
    assert why == (
        'the provider reports the model "claude-opus-4-1-20250805", but "sonnet" was asked for: '
        "[agents.claude] models names haiku, sonnet; correct it, or add the model if you mean it"
    )


def test_any_rung_of_the_ladder_may_answer_and_without_one_whatever_was_asked() -> None:
    assert not wrong_model("claude", "sonnet", "claude-opus-4-1", ["sonnet", "opus"])
    assert not wrong_model("claude", "opus", "claude-opus-4-1", ["sonnet"])  # the ticket's label asked for it
    assert not wrong_model("claude", "", "anything", [])
    assert not wrong_model("codex", "gpt-5", "gpt-5-2025-08-07", [])
    assert "gpt-5-pro" in wrong_model("codex", "gpt-5", "gpt-5-pro", [])
    assert not wrong_model("claude", "sonnet", "", ["sonnet"])  # nothing is reported yet


# -- the rest of the night ---------------------------------------------------------------------------------------------
def test_the_rate_is_of_the_last_hour_with_each_attempt_spread_over_its_time() -> None:
    hours = timedelta(hours=1)
    long = entry(300, NOW, 3 * 3600)  # a third of it is in the last hour
    half = entry(100, NOW - hours / 2, 3600)
    gone = entry(999, NOW - 2 * hours, 60)
    assert rate([long, half, gone], NOW) == ((150, 0.0), hours)


def test_a_night_that_began_ten_minutes_ago_has_a_rate_of_ten_minutes() -> None:
    used, within = rate([entry(600, NOW, 600)], NOW)
    assert (used, within) == ((600, 0.0), timedelta(minutes=10))
    assert projected((600, 1.0), (600, 1.0), within, timedelta(hours=1)) == (4200, 7.0)
    assert rate([], NOW) == ((0, 0.0), timedelta())
    assert projected((5, 1.0), (0, 0.0), timedelta(), timedelta(hours=1)) == (5, 1.0)
