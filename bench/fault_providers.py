"""Faults of providers, told to the real claude and codex by scripted endpoints."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from fault_house import STALL, House, Json, pause
from fault_look import Faults

FAULTS = Faults()
OUTAGE, RESET = 3.0, 4.0
CLAUDE, CODEX = ("claude",), ("codex",)
BOTH = CLAUDE + CODEX
DOWN = {"lasts": OUTAGE, "times": -1}
UNTIL = {"limits": {"resets_in": RESET}, "lasts": RESET, "times": -1}


def talks(name: str, what: str, agents: Sequence[str], steps: Sequence[Json], *, again: str = "",
          everyone: bool = False, attempt: str = "", **expected: Any) -> None:  # fmt: skip
    """A fault that is answers to T-1's session (or everyone's) before it may work. `again` is a word that only a fresh
    session's prompt has: that one works at once."""

    def play(house: House) -> None:
        house.attempt += attempt
        house.talk(*steps, everyone=everyone, again=again)
        house.tickets()
        house.night()

    for agent in agents:
        FAULTS.add(name, what, agent=agent, **expected)(play)


def mended(name: str, what: str, agents: Sequence[str], step: Json, outcome: str, lane: str) -> None:
    """A fault that only a person can mend: one alarm, nothing is consumed, and all goes on after `resume`."""

    def play(house: House) -> None:
        assert house.provider is not None
        house.talk({"times": -1, **step}, everyone=True)
        house.tickets()
        with house.up():
            house.lane_is(lane)
            house.until(lambda: not house.open_attempts())
            house.provider.again({key: house.does(key) for key in ("T-1", "T-2", "T-3")})
            pause(0.5)
            house.must(house.run("resume").code == 0, "`resume` did not work")
            house.finish()
        house.must(house.alarms() == 1, f"{house.alarms()} alarms, not 1")

    for agent in agents:
        FAULTS.add(name, what, agent=agent, told={"*": f"({outcome} )?done"}, lane=lane, takes=1)(play)


def claude(status: int, kind: str, message: str = "scripted error", **more: Any) -> Json:
    return {"error": status, "type": kind, "message": message, **more}


codex = claude

for window in ("five_hour", "seven_day", "seven_day_opus"):
    talks(f"limit {window}", f"the {window} window is used up; it says that it is over {RESET:.0f} s later", CLAUDE,
          [claude(429, "rate_limit_error", "limit", **{**UNTIL, "limits": {"resets_in": RESET, "window": window}})],
          told={"T-1": "rate_limited done"}, takes=RESET + 1, lane="limited")  # fmt: skip
talks("limit for all three", "three sessions hit the session limit at once", CLAUDE,
      [claude(429, "rate_limit_error", "limit", **UNTIL)], everyone=True, told={"*": "(rate_limited )?done"},
      takes=RESET + 1, lane="limited")  # fmt: skip
talks("limit, usage_limit_reached", f"the account's limit is reached; it says that it is over {RESET:.0f} s later",
      CODEX, [codex(429, "usage_limit_reached", "limit", **UNTIL)], told={"T-1": "rate_limited done"}, takes=RESET + 1,
      lane="limited")  # fmt: skip
talks("429", f"too many requests, for {OUTAGE:.0f} s", CLAUDE, [claude(429, "rate_limit_error", "Too many", **DOWN)],
      told={"T-1": "(rate_limited )+done"}, takes=OUTAGE)  # fmt: skip
talks("429", f"too many requests, for {OUTAGE:.0f} s", CODEX, [codex(429, "rate_limit_exceeded", "Too many", **DOWN)],
      told={"T-1": "((rate_limited|overloaded) )*done"}, takes=OUTAGE)  # fmt: skip
talks("429 with retry-after", "too many requests, with `retry-after: 3`", BOTH,
      [claude(429, "rate_limit_error", "Too many", headers={"retry-after": "3"}, **DOWN)],
      told={"T-1": "((rate_limited|overloaded) )*done"}, takes=OUTAGE)  # fmt: skip
talks("529", f"the provider is overloaded, for {OUTAGE:.0f} s", CLAUDE,
      [claude(529, "overloaded_error", "Overloaded", **DOWN)], told={"T-1": "(overloaded )+done"}, takes=OUTAGE,
      lane="overloaded")  # fmt: skip
talks("503", f"the provider is overloaded, for {OUTAGE:.0f} s", CODEX,
      [codex(503, "server_is_overloaded", "busy", **DOWN)], told={"T-1": "(overloaded )*done"}, takes=OUTAGE)  # fmt: skip
talks("500", f"internal server error, for {OUTAGE:.0f} s", BOTH, [claude(500, "api_error", "Internal error", **DOWN)],
      told={"T-1": "(overloaded )*done"}, takes=OUTAGE)  # fmt: skip
talks("502 html", f"a gateway answers with a page of HTML, for {OUTAGE:.0f} s", BOTH,
      [{"raw": "<html><body><h1>502 Bad Gateway</h1></body></html>", "status": 502, **DOWN}],
      told={"T-1": "(overloaded )*done"}, takes=OUTAGE)  # fmt: skip
talks("stream says overloaded", "the stream begins well and ends with an error", CLAUDE,
      [{"text": "Let me", "sse_error": {"type": "overloaded_error"}, **DOWN}], told={"T-1": "(overloaded )*done"},
      takes=OUTAGE)  # fmt: skip
talks("hang in headers", "the provider takes the request and never answers", BOTH, [{"hang": "headers"}],
      told={"T-1": "stalled done"}, takes=STALL + 1, at_most=60)  # fmt: skip
talks("hang in body", "the stream begins and stops", BOTH, [{"text": "Let me", "hang": "body"}],
      told={"T-1": "stalled done"}, takes=STALL + 1, at_most=60)  # fmt: skip
talks("pings for ever", "the stream begins and then has nothing but pings", BOTH, [{"text": "Let me", "hang": "ping"}],
      told={"T-1": "stalled done"}, takes=STALL + 1)  # fmt: skip
talks("cut stream", f"every stream breaks off after two events, for {OUTAGE:.0f} s", BOTH,
      [{"text": "Let me see. " * 100, "cut": 2, **DOWN}], told={"T-1": "(overloaded )*done"}, takes=OUTAGE)  # fmt: skip
talks("context full", "the prompt is too long; a fresh session is told what was done", CLAUDE,
      [claude(400, "invalid_request_error", "prompt is too long: 9 > 8", times=-1)], again="context_full:",
      told={"T-1": "context_full done"}, consumed=4)  # fmt: skip
talks("context full", "the prompt is too long; a fresh session is told what was done", CODEX,
      [codex(400, "context_length_exceeded", "too long", times=-1)], again="context_full:",
      told={"T-1": "context_full done"}, consumed=4)  # fmt: skip
talks("refusal", "the model declines by policy", CLAUDE,
      [{"text": "I can't help with this.", "stop_reason": "refusal", "times": -1}], told={"T-1": "refused"},
      finished=2, consumed=3)  # fmt: skip
talks("empty answer", "the model says nothing at all and is done", BOTH, [{"text": "", "times": -1}],
      again="changed nothing", told={"T-1": "no_change done"}, consumed=4)  # fmt: skip


def tools(name: str, what: str, commands: Sequence[str], *, again: str = "", bad: bool = False,
          attempt: str = "", delay: float = 0.0, agents: Sequence[str] = BOTH, **expected: Any) -> None:  # fmt: skip
    """A fault that is tool calls before T-1 may work."""

    def play(house: House) -> None:
        house.attempt += attempt
        steps = [{**house.side().shell(command), "bad_json": bad, "text": "", "delay": delay} for command in commands]
        house.talk(*steps, again=again)
        house.tickets()
        house.night()

    for agent in agents:
        FAULTS.add(name, what, agent=agent, **expected)(play)


DAEMON = "setsid env -i sh -c 'cd /; exec sleep 3599' </dev/null >/dev/null 2>&1 & sleep 0.3"
tools("hang in a tool", "a tool never ends, uses no CPU and says nothing", ["exec tail -f /dev/null"],
      told={"T-1": "(stalled )?done"}, takes=STALL + 1, at_most=40)  # fmt: skip
tools("malformed tool call", "the arguments of a tool call are torn JSON", ["true"], bad=True, told={"T-1": "done"})
tools("endless tool loop", "the same tool call again and again, where 8 are allowed", ["true"] * 30,
      attempt="same_calls = 8\n", again="the same tool call", told={"T-1": "agent_error done"}, consumed=4, at_most=30)  # fmt: skip
tools("turns without change", "tool calls that change nothing, where 6 turns are allowed",
      [f"echo {n}" for n in range(30)], attempt="idle_turns = 6\n", again="without a change",
      told={"T-1": "agent_error done"}, consumed=4, at_most=30)  # fmt: skip
tools("max turns", "more turns than the 8 that an attempt may have; the same session goes on",
      [f"echo {n}" for n in range(12)], attempt="turns = 8\n", delay=0.3,
      told={"T-1": "turn_limit done"}, consumed=4)  # fmt: skip
tools("daemon left by a tool", "a tool leaves a daemon: a session of its own, no environment", [DAEMON],
      told={"T-1": "done"})  # fmt: skip

mended("401 bad key", "the key is wrong, for all; a person logs in", CLAUDE,
       claude(401, "authentication_error", "invalid x-api-key"), "logged_out", "logged_out")  # fmt: skip
mended("401 bad key", "the key is wrong, for all; a person logs in", CODEX,
       codex(401, "invalid_api_key", "Incorrect API key provided"), "logged_out", "logged_out")  # fmt: skip
mended("403", "the account may not; a person mends it", BOTH, claude(403, "permission_error", "Request not allowed"),
       "logged_out", "logged_out")  # fmt: skip
mended("402 out of credit", "the account has no credit; a person pays", CLAUDE,
       claude(402, "billing_error", "Payment required"), "out_of_credit", "out_of_credit")  # fmt: skip
mended("credit too low, as text", "HTTP 400 with words about the credit balance; a person pays", CLAUDE,
       claude(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
       "out_of_credit", "out_of_credit")  # fmt: skip
mended("insufficient quota", "the account has no credit; a person pays", CODEX,
       codex(429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
       "out_of_credit", "out_of_credit")  # fmt: skip
mended("model not found", "the model does not exist; a person mends the setting", CLAUDE,
       claude(404, "not_found_error", "model: sonnet"), "misconfigured", "misconfigured")  # fmt: skip
mended("model not found", "the model does not exist; a person mends the setting", CODEX,
       codex(404, "model_not_found", "The model `gpt-5.5` does not exist or you do not have access to it."),
       "misconfigured", "misconfigured")  # fmt: skip


def refused(house: House) -> None:
    assert house.provider is not None
    house.tickets()
    house.provider.stop()
    with house.up("--until-idle") as process:
        pause(RESET)
        house.provider.start()
        process.wait(120)
        house.ended_now()


def lost(house: House) -> None:
    assert house.provider is not None
    house.tickets()
    with house.up("--until-idle") as process:
        house.until(lambda: len(house.provider.asked()) > 2)  # type: ignore[union-attr]
        house.provider.signal(signal.SIGSTOP)
        pause(STALL - 1)
        house.provider.signal(signal.SIGCONT)
        process.wait(120)
        house.ended_now()


def nobody(house: House) -> None:
    """Claude Code with no login at all; then the owner's shell says one."""
    assert house.provider is not None
    house.env.pop("CLAUDE_CODE_OAUTH_TOKEN")
    house.tickets()
    with house.up():
        house.lane_is("logged_out")
        house.until(lambda: not house.open_attempts())
    house.login()
    house.must(house.run("resume").code == 0, "`resume` did not work")
    house.night()


def killed(house: House) -> None:
    """kill -9 while T-1's tool hangs and its provider is asked by the others."""
    house.talk(house.side().shell("exec tail -f /dev/null"))
    house.tickets()
    with house.up() as process:
        house.until(lambda: house.done() == 2, 60)
        house.working("T-1")
        house.kill(process)
    house.night()


for _agent in BOTH:
    FAULTS.add("connection refused", f"nobody listens at the provider's address for {RESET:.0f} s", agent=_agent,
               told={"*": "(overloaded )*done"}, takes=RESET, at_most=30)(refused)  # fmt: skip
    FAULTS.add("network lost", f"no packet comes or goes for {STALL - 1:.0f} s in mid session", agent=_agent,
               told={"*": "done"}, takes=STALL - 1)(lost)  # fmt: skip
    FAULTS.add("kill -9 in a tool", "kill -9 of nightcrew while a tool runs; the same session goes on", agent=_agent,
               told={"T-1": "done"}, takes=3, at_most=30)(killed)  # fmt: skip
FAULTS.add("not logged in", "there is no login at all; a person logs in", agent="claude", lane="logged_out",
           told={"*": "(logged_out )?done"}, takes=3)(nobody)  # fmt: skip
