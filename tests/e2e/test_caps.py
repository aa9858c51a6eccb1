"""Caps over a real night: who waits, who fails, what is stopped, and what `nightcrew spend` says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.household import WORK, Night

pytestmark = pytest.mark.slow
SONNET = "claude-sonnet-4-5-20250929"
HANG = ({"say": "thinking"}, "hang")


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """A folder with one repository."""
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


def use(tokens: int, **more: object) -> dict[str, Any]:
    return {"usage": {"input": tokens, "turns": 1, **more}}


def cap(night: Night, name: str, **limits: float) -> None:
    """Set one cap, or lift it."""
    night.attempt = "stall_seconds = 20\n"
    if limits:
        night.attempt += f"[limits.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in limits.items())
    night.save()


def ledger(night: Night) -> list[tuple[Any, ...]]:
    return night.sql("SELECT ticket, outcome, input, money, cost, prices FROM spend ORDER BY ticket, number")


def row(night: Night, ticket: str) -> Any:
    return next(each for each in night.status()["tickets"] if each["ticket"] == ticket)


def test_a_reached_cap_of_the_day_starts_nothing_more_and_a_raised_one_goes_on(night: Night) -> None:
    night.limits = night.limits.replace("max_running = 4", "max_running = 1")
    cap(night, "day", tokens=1000)
    night.ticket("K-1", "good", use(1200), *WORK)
    night.ticket("K-2", "good", use(100), *WORK)
    with night.up():
        night.until(lambda: night.runs().get("K-1") == "in_review")
        night.until(lambda: "[limits.day] tokens is 1,000" in str(night.sql("SELECT value FROM meta WHERE key='held'")))
    assert night.runs()["K-2"] == "queued"
    assert night.attempts("K-2") == []
    cap(night, "day", tokens=2000)
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"K-1": "in_review", "K-2": "in_review"}


def test_sessions_that_run_when_the_day_is_used_up_end_and_go_on_later_with_no_attempt_consumed(night: Night) -> None:
    cap(night, "day", tokens=1000)
    go = night.home / "go"
    wait = {"run": f"while ! test -e {go}; do sleep 0.05; done"}
    for key, later in (("K-1", [wait, use(700), {"wait": 0.5}, use(1), *HANG]), ("K-2", [use(400), *HANG])):
        work = [{"write": {"path": f"{key}.txt", "text": "it"}}, {"commit": "it"}]
        night.scenes[key] = {"attempts": [[use(100), *later]], "on_resume": {"attempts": [work]}}
        night.ticket(key, "good")
    with night.up():
        night.until(lambda: len(night.sql("SELECT 1 FROM attempts WHERE phase = 'session'")) == 2)
        go.touch()
        night.until(lambda: night.attempts("K-1") == ["token_cap"] and night.runs()["K-1"] == "queued")
    show = night.show("K-1")
    assert (show["state"], show["consumed"]) == ("queued", 0)
    assert "the crew has used" in show["attempts_list"][0]["evidence"]
    cap(night, "day")
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"K-1": "in_review", "K-2": "in_review"}
    assert [a["resumed"] for a in night.show("K-1")["attempts_list"]] == [False, True]


def test_a_ticket_that_used_up_its_own_cap_fails_and_says_so(night: Night) -> None:
    cap(night, "ticket", tokens=1000)
    night.ticket("K-1", "good", use(600), use(600), *HANG)
    assert night.run("up", "--until-idle").code == 0
    show = night.show("K-1")
    assert (show["state"], show["consumed"]) == ("failed", 1)
    assert "this ticket has used 1,200 tokens, [limits.ticket] tokens is 1,000 tokens" in show["reason"]


def test_money_is_capped_by_the_price_table_when_the_agent_reports_none(night: Night) -> None:
    cap(night, "ticket", money=2.0)
    night.agent("scripted", more=f'models = ["{SONNET}"]\n')
    night.ticket("K-1", "good", use(1_000_000, turns=10, model=SONNET), *HANG)
    assert night.run("up", "--until-idle").code == 0
    assert (night.runs(), night.attempts("K-1")) == ({"K-1": "failed"}, ["money_cap"])
    (written,) = ledger(night)
    assert written[:4] == ("K-1", "money_cap", 1_000_000, 0.0)
    assert (round(written[4], 2), written[5].split()[0]) == (3.0, "genai-prices")


def test_a_model_that_nobody_asked_for_closes_the_lane_at_once(night: Night) -> None:
    night.agent("scripted", more='models = ["small"]\n')
    for key in ("K-1", "K-2"):
        night.ticket(key, "good", use(100, model="huge"), *HANG)
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"K-1": "queued", "K-2": "queued"}
    (lane,) = night.status()["lanes"]
    assert (lane["lane"], lane["state"]) == ("scripted", "misconfigured")
    assert '"huge"' in lane["evidence"]
    assert "[agents.scripted] models names small" in lane["evidence"]
    assert all(row(night, key)["consumed"] == 0 for key in ("K-1", "K-2"))


def test_after_a_kill_the_ledger_is_the_sum_of_the_attempts(night: Night) -> None:
    night.ticket("K-1", "good")
    night.scenes["K-1"] = {
        "attempts": [[{"run": "true"}, use(500), *HANG]],
        "on_resume": {"attempts": [[use(300), *WORK]]},
    }
    night.save()
    with night.up() as process:
        night.until(lambda: '"input":500' in str(night.sql("SELECT usage FROM attempts")).replace(" ", ""))
        process.kill()
        process.wait()
    assert ledger(night) == []
    night.scenes["K-1"]["attempts"] = night.scenes["K-1"]["on_resume"]["attempts"]
    night.save()
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"K-1": "in_review"}
    assert [each[:3] for each in ledger(night)] == [("K-1", "done", 800)]
    ((summed,),) = night.sql("SELECT sum(json_extract(usage, '$.input')) FROM attempts")
    assert summed == 800


def test_spend_tells_what_was_used_what_a_merge_costs_and_what_is_left(night: Night) -> None:
    night.attempt += "[limits.day]\ntokens = 10000\nmoney = 5.0\n"
    night.agent("scripted", more=f'models = ["{SONNET}"]\n')
    night.ticket("K-1", "good", use(1000, output=200, cache_read=300, money=0.5, model=SONNET), *WORK)
    night.ticket("K-2", "good", use(2000), {"exit": 3})
    night.limits += "max_attempts = 1\nfree_crashes = 0\n"
    night.save()
    empty = night.run("spend")
    assert empty.out.startswith("Nothing was spent in the last 7 days.")
    assert night.run("up", "--until-idle").code == 0
    assert night.run("pr", "merge", "1").code == 0
    assert night.run("up", "--until-idle").code == 0
    said = night.run("spend", "--by", "ticket", "--json").json
    assert [(r["name"], r["attempts"], r["tokens"], r["money"]) for r in said["rows"]] == [
        ("K-1", 1, 1500, 0.5), ("K-2", 1, 2000, 0.0),
    ]  # fmt: skip
    assert said["total"]["tokens"] == 3500
    assert said["merged"][0]["merged"] == 1
    assert said["merged"][0]["tokens_each"] == 3500  # what failed is paid for too
    assert {(c["cap"], c["kind"]): c["left"] for c in said["caps"]}["day", "tokens"] == 6500
    assert said["tonight"] is None
    for way in ("day", "repo", "model", "outcome", "lane"):
        text = night.run("spend", "--by", way).out
        assert all(len(line) <= 80 for line in text.splitlines())
        assert text.splitlines()[0].startswith(way.upper())
    assert "good: a merged pull request costs $0.51 and 3.5k tokens (1 merged" in " ".join(text.split())
    assert "day tokens 3.5k 10.0k 6.5k" in " ".join(text.split())


def test_while_a_night_goes_on_spend_says_where_it_leads(night: Night) -> None:
    night.ticket("K-1", "good", use(1000), *HANG)
    with night.up():
        night.until(lambda: '"input":1000' in str(night.sql("SELECT usage FROM attempts")).replace(" ", ""))
        said, text = night.run("spend", "--by", "outcome", "--json").json, night.run("spend").out
    assert [(r["name"], r["tokens"]) for r in said["rows"]] == [("running", 1000)]
    assert said["tonight"]["spent_tokens"] == said["tonight"]["rate_tokens"] == 1000
    assert said["tonight"]["tokens"] >= 1000
    assert "the rest goes on at the rate of the last 1 min ($0.00 and 1.0k tokens)" in " ".join(text.split())
