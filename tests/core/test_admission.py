"""Admission over machines nobody thought of: never over-committed, never stuck, and always with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.admission import Machine, Room, at_a_time, expected, growth, lowered, refuses
from nightcrew.core.model import Policy

MB, GB = 1 << 20, 1 << 30
AGENTS = ("claude", "codex", "sh")

peaks = st.fixed_dictionaries({agent: st.integers(0, 8 * GB) for agent in AGENTS})
machines = st.builds(
    Machine,
    cores=st.integers(0, 64),
    memory_total=st.integers(0, 64 * GB),
    memory_free=st.integers(0, 64 * GB),
    load=st.floats(0, 100),
    disks=st.dictionaries(
        st.sampled_from(["/a", "/b"]),
        st.integers(0, 1 << 40).flatmap(lambda size: st.integers(0, size).map(lambda free: (size, free))),
    ),
)
rooms = st.builds(
    Room,
    machine=machines,
    peaks=peaks,
    running=st.lists(st.tuples(st.sampled_from(AGENTS), st.integers(0, 8 * GB)), max_size=8).map(tuple),
    starting=st.integers(0, 10),
    most=st.integers(0, 6),
)
policies = st.builds(
    Policy,
    min_memory_mb=st.integers(0, 4096),
    min_disk_mb=st.integers(0, 10_000),
    max_load=st.floats(0, 20),
    starting=st.integers(0, 8),
)
ROOMY = Machine(cores=4, memory_total=32 * GB, memory_free=16 * GB, disks={"/state": (100 * GB, 50 * GB)})
PEAKS = {"claude": 3 * GB // 2, "codex": GB // 2}


def admitted(room: Room, asking: list[str], policy: Policy) -> list[str]:
    """Those who may start in one round, in the order they ask."""
    started: list[str] = []
    for agent in asking:
        if not refuses(room, agent, tuple(started), policy):
            started.append(agent)
    return started


@given(rooms, st.lists(st.sampled_from(AGENTS), max_size=12), policies)
def test_what_is_promised_to_those_who_start_is_there(room: Room, asking: list[str], policy: Policy):
    started = admitted(room, asking, policy)
    free = room.machine.memory_free
    if free and len(started) + len(room.running) > 1 and started:
        assert growth(room, started) + (policy.min_memory_mb << 20) <= free


@given(rooms, st.lists(st.sampled_from(AGENTS), max_size=12), policies)
def test_no_other_limit_is_passed_in_one_round(room: Room, asking: list[str], policy: Policy):
    started = admitted(room, asking, policy)
    if room.most:
        assert len(room.running) + len(started) <= max(room.most, len(room.running))
    if most := at_a_time(room.machine, policy):
        assert room.starting + len(started) <= max(most, room.starting)
    machine = room.machine
    if len(started) > 1:
        assert not policy.max_load * machine.cores or machine.load < policy.max_load * machine.cores


@given(rooms, st.sampled_from(AGENTS), policies, st.data())
def test_more_room_never_refuses_what_less_room_took(room: Room, agent: str, policy: Policy, data: st.DataObject):
    if refuses(room, agent, (), policy) or not room.running:
        return
    machine = room.machine
    more = replace(
        machine,
        memory_free=machine.memory_free + (data.draw(st.integers(0, 8 * GB)) if machine.memory_free else 0),
        load=machine.load * data.draw(st.floats(0, 1)),
        disks={k: (size, data.draw(st.integers(free, size))) for k, (size, free) in machine.disks.items()},
    )
    gone = data.draw(st.integers(0, len(room.running)))
    starting = data.draw(st.integers(0, room.starting))
    assert not refuses(replace(room, machine=more, running=room.running[gone:], starting=starting), agent, (), policy)


@given(rooms, st.sampled_from(AGENTS), policies)
def test_a_machine_with_nothing_at_work_always_takes_one_unless_memory_or_disk_are_below_the_floor(
    room: Room, agent: str, policy: Policy
):
    idle = replace(room, running=(), starting=0)
    if why := refuses(idle, agent, (), policy):
        assert why.startswith("disk:") or idle.machine.memory_free < policy.min_memory_mb << 20


@given(rooms, st.sampled_from(AGENTS), policies)
def test_what_is_not_known_refuses_nothing(room: Room, agent: str, policy: Policy):
    assert refuses(replace(room, machine=Machine(), most=0, starting=0), agent, (), replace(policy, starting=0)) == ""


def test_memory_is_promised_to_those_who_have_not_taken_it_yet():
    room = Room(replace(ROOMY, memory_free=4 * GB), PEAKS, running=(("claude", GB // 2), ("claude", 2 * GB)))
    policy = Policy(min_memory_mb=512)
    assert refuses(room, "claude", (), policy) == ""
    why = refuses(room, "claude", ("claude",), policy)
    assert why == (
        "memory: 4.0 GB free, 2.5 GB of it for those at work, a claude session needs 1.5 GB and 0.5 GB stay free"
    )
    assert refuses(room, "codex", ("claude",), policy) == ""


def test_a_machine_smaller_than_the_expectation_works_one_at_a_time():
    small = Room(replace(ROOMY, memory_free=GB), PEAKS)
    assert refuses(small, "claude", (), Policy()) == ""
    assert refuses(small, "claude", ("claude",), Policy()).startswith("memory: 1.0 GB free")
    assert refuses(replace(small, running=(("claude", GB),)), "claude", (), Policy()).startswith("memory: 1.0 GB free")


def test_less_than_the_floor_of_memory_refuses_even_the_first():
    room = Room(replace(ROOMY, memory_free=400 * MB), PEAKS)
    assert refuses(room, "claude", (), Policy()) == "memory: 0.4 GB free, 0.5 GB must be"


@pytest.mark.parametrize(
    ("size", "free", "floor"),
    [(500 * GB, 1 * GB, ""), (500 * GB, 900 * MB, "1.0 GB"), (20 * MB, 2 * MB, ""), (20 * MB, MB // 2, "1.0 MB")],
)
def test_a_small_disk_is_not_refused_for_being_small(size: int, free: int, floor: str):
    why = refuses(Room(replace(ROOMY, disks={"/state": (size, free)})), "claude", (), Policy(min_disk_mb=1024))
    assert why == (f"disk: {free / (GB if floor == '1.0 GB' else MB):.1f} {floor[-2:]} free at /state, {floor} must be"
                   if floor else "")  # fmt: skip


def test_the_load_holds_back_all_but_the_first():
    busy = Room(replace(ROOMY, load=33.0), PEAKS)
    assert refuses(busy, "claude", (), Policy(max_load=8)) == ""
    assert refuses(busy, "claude", ("claude",), Policy(max_load=8)) == "load: 33.0 on 4 cores, at most 32"
    assert refuses(busy, "claude", ("claude",), Policy(max_load=0)) == ""


def test_sessions_that_spoke_let_the_next_ones_start():
    policy = Policy(starting=2)
    room = Room(ROOMY, {}, running=(("claude", MB),) * 5, starting=2)
    assert refuses(room, "claude", (), policy) == "ramp: 2 sessions have not said a word yet, 2 may"
    assert refuses(replace(room, starting=1), "claude", (), policy) == ""
    assert refuses(replace(room, starting=1), "claude", ("codex",), policy).startswith("ramp: 2")
    assert at_a_time(ROOMY, Policy()) == 24


def test_after_a_kill_for_memory_fewer_run_at_once():
    room = Room(ROOMY, PEAKS, running=(("claude", GB),) * 2, most=lowered([3, 5]))
    assert "lowered to 2 at once" in refuses(room, "claude", (), Policy())
    assert refuses(replace(room, running=(("claude", GB),)), "claude", (), Policy()) == ""
    assert (lowered([]), lowered([1])) == (0, 1)


@given(st.integers(0, 8 * GB), st.lists(st.integers(1, 8 * GB), max_size=60), st.lists(st.integers(1, GB), max_size=3))
def test_an_expectation_covers_nine_of_ten_measured_sessions(word: int, measured: list[int], killed: list[int]):
    peak = expected(word, measured, killed)
    assert sum(one <= peak for one in measured) >= 0.9 * len(measured)
    assert peak >= max(killed, default=0)
    assert peak >= word or len(measured) >= 5
