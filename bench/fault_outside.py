"""Faults around nightcrew: the board, the forge, a provider that is gone for long, the caps an owner sets."""

from __future__ import annotations

import json

from fault_agents import HALF
from fault_house import House, pause
from fault_look import Faults
from fault_machine import clock, halves, three

FAULTS = Faults()
GONE, HOUR = 5.0, 12.0


def says(**fields: object) -> str:
    """Shell by which an agent tells of its end."""
    return f"echo '{json.dumps({'type': 'result', **fields})}'"


@FAULTS.add("board gone", f"the folder of tickets is not there for {GONE:.0f} s, with a look every second", takes=GONE,
            told={"*": "(infra )*done"}, at_most=30)  # fmt: skip
def board_gone(house: House) -> None:
    house.crew = "scan_every = 1\n"
    three(house, {"wait": 2})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        (house.home / "tickets").rename(house.home / "away")
        pause(GONE)
        (house.home / "away").rename(house.home / "tickets")
        process.wait(90)
        house.ended_now()


@FAULTS.add("forge gone", f"the owner's repository is not there for {GONE:.0f} s when two tickets want to publish",
            takes=GONE, told={"T-1": "infra( infra)* done", "T-3": "infra( infra)* done"}, at_most=30)  # fmt: skip
def forge_gone(house: House) -> None:
    three(house, {"wait": 1})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        (house.home / "shop").rename(house.home / "away")
        pause(GONE)
        (house.home / "away").rename(house.home / "shop")
        process.wait(90)
        house.ended_now()


@FAULTS.add("broken tickets", "a fourth ticket cannot be read, a fifth is no text at all")
def broken_tickets(house: House) -> None:
    house.tickets()
    house.file("tickets/BAD.md", "---\ntitle: [unclosed\nstate: todo\n---\n\nwhat\n")
    (house.home / "tickets" / "WORSE.md").write_bytes(b"\xff\xfe\x00---\n" * 100)
    house.night()


@FAULTS.add("provider down for an hour", f"every call fails for {HOUR:.0f} s (1:300), one probe a second", takes=HOUR,
            told={"*": "(overloaded )+done"}, lane="overloaded")  # fmt: skip
def hour(house: House) -> None:
    back, calls = house.home / "provider-is-back", house.home / "calls"
    said = says(outcome="overloaded", text="529 overloaded")
    house.everyone(f"[ -e {back} ] || {{ echo $key >>{calls}; {said}; exit 1; }}")
    house.tickets()
    with house.up("--until-idle") as process:
        house.until(calls.exists)
        pause(HOUR)
        back.touch()
        process.wait(90)
        house.ended_now()
    asked = len(calls.read_text().splitlines())
    house.must(asked <= 3 + HOUR + 2, f"{asked} calls of a provider that is down")


@FAULTS.add("daily cap", "the day's cap of 5,000 tokens is reached by the first ticket; then the owner raises it",
            told={"T-1": "token_cap done"}, consumed=3)  # fmt: skip
def daily_cap(house: House) -> None:
    house.limits = house.limits.replace("max_running = 3", "max_running = 1") + "[limits.day]\ntokens = 5000\n"
    house.hit([*HALF, {"usage": {"input": 4000, "output": 2000, "turns": 1, "model": "m"}}, {"wait": 1}, "hang"])
    house.tickets()
    with house.up():
        house.until(lambda: house.attempts("T-1") == ["token_cap"])
        pause(1)
        house.must(house.attempts("T-2") == [], "T-2 was started over the cap")
    house.limits = house.limits.replace("tokens = 5000", "tokens = 500000")
    house.save()
    house.night()


@FAULTS.add("wrong model", "the provider reports a model that the ladder does not name; a person mends it",
            told={"T-1": "misconfigured done"}, lane="misconfigured", takes=1)  # fmt: skip
def wrong_model(house: House) -> None:
    right = house.home / "mended"
    house.everyone(f"[ $key != t-1 ] || [ -e {right} ] || "
                   f"{{ echo '{json.dumps({'type': 'usage', 'input': 9, 'model': 'large'})}'; sleep 1000; }}")  # fmt: skip
    house.agents["scripted"] += 'models = ["small"]\n'
    house.tickets()
    with house.up():
        house.lane_is("misconfigured", "paused")
        right.touch()
        house.must(house.run("resume").code == 0, "`resume` did not work")
        house.finish()


INIT = {"type": "system", "subtype": "init", "session_id": "s", "model": "claude-sonnet-5-5"}


def clock_text(house: House, text: str, now: str, zone: str) -> None:
    """A `claude` that tells of a limit in words alone: when it ends, in the account's time zone."""
    said = {"type": "assistant", "session_id": "s", "error": "rate_limit",
            "message": {"role": "assistant", "model": "<synthetic>", "content": [{"type": "text", "text": text}]}}  # fmt: skip
    over = {"type": "result", "subtype": "success", "is_error": True, "session_id": "s", "result": text,
            "api_error_status": 429}  # fmt: skip
    done = {**over, "is_error": False, "result": "done", "api_error_status": None}
    limit = "".join(f"cat <<'END'\n{json.dumps(line)}\nEND\n" for line in (INIT, said, over))
    house.rogue(f"{limit} exit 1")
    script = house.home / "T-1.sh"
    script.write_text(f"#!/bin/sh\n{script.read_text()}\ncat <<'END'\n{json.dumps(INIT)}\n{json.dumps(done)}\nEND\n")
    script.chmod(0o755)
    house.agents["t-1"] = f'kind = "claude"\nprogram = "{script}"\n'
    clock(house, f"@{now}")
    house.env["TZ"] = zone
    house.tickets()
    house.night()


@FAULTS.add("limit, resets 10:30am", "the limit's end is told by the clock on the wall, 5 s ahead",
            told={"T-1": "rate_limited done"}, takes=5, lane="limited", needs="faketime")  # fmt: skip
def resets_am(house: House) -> None:
    clock_text(
        house, "You've hit your session limit · resets 10:30am (Europe/Vienna)", "2026-11-22 10:29:54", "Europe/Vienna"
    )


@FAULTS.add("limit, 3:14 PM", "the limit's end is told by the clock on the wall of another time zone, 5 s ahead",
            told={"T-1": "rate_limited done"}, takes=5, lane="limited", needs="faketime")  # fmt: skip
def resets_pm(house: House) -> None:
    # 3:14 PM in New York is 20:14 in London.
    clock_text(
        house,
        "You've hit your usage limit. Try again at 3:14 PM (America/New_York).",
        "2026-11-22 20:13:54",
        "Europe/London",
    )
