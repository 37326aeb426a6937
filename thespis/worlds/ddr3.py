"""A DDR3-1600 memory controller and its memory, event by event: when each command goes out, how long it takes, what it costs.

The rules are those of DRAMSys (Steiner et al. 2020, "DRAMSys4.0: A Fast and Cycle-Accurate SystemC/TLM-Based DRAM Simulator") for
one channel, one rank and a trace of reads, one a cycle, at the clock of 800 MHz. No refresh is made ahead of its time: that takes
16 cycles without a read, and with such a trace there are at most 14. `simulate` is in the part of Python that numba compiles.
"""

from __future__ import annotations

import itertools
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CYCLE", "Answer", "answer", "simulate"]

CYCLE = 1.25e-9
"""seconds of a clock cycle"""
BANKS = 8
CL, RCD, RP, RAS, RC, RRD, FAW, CCD, RTP, BURST, RFC, REFI = 10, 10, 10, 28, 38, 5, 24, 4, 6, 4, 88, 6_240
"""of Micron's 1 Gb DDR3-1600, in cycles; a burst is 8 beats, two a cycle"""
CHIPS, VOLTS = 8, 1.5
STANDBY, ACTIVATE, READ, REFRESH = 45e-3, 25e-3, 95e-3, 125e-3
"""amperes of a chip: IDD3N, and what IDD0, IDD4R and IDD5 are above it"""
NOTHING, ACT, PRE, RD, RDA, PREA, REF = range(7)
OPEN, OPEN_ADAPTIVE, CLOSED, CLOSED_ADAPTIVE = range(4)
NEVER = 1 << 60
PAYS = 50
"""answers after which compiling, some seconds, pays"""
_asked = itertools.count()


def simulate(
    bank: Any, row: Any, follow: Any, ends: Any, work: Any,
    page: int, first_ready: bool, bankwise: bool, size: int, postponed: int, limit: int, in_order: bool,
) -> tuple[int, int, int]:  # fmt: skip
    """Cycles until the last answer, activates and refreshes of n reads, of which the i-th is sent at cycle i or later.

    `bank` and `row`: (n,) of each. `follow`, `ends` (n,) and `work` (10, 8): scratch. `size`: of the request buffer, of each
    bank where `bankwise`. `postponed`: -1: no refreshes. `limit`: of reads that are under way; 0: none. `in_order`: answers are
    given in the order of the reads, not of their data.
    """
    n = len(bank)
    head, tail, count, opened, act_ok, pre_ok, cas_ok, command, chosen, before = work
    for b in range(8):
        head[b] = tail[b] = opened[b] = -1
        count[b] = act_ok[b] = pre_ok[b] = cas_ok[b] = command[b] = 0
    for i in range(n):
        ends[i] = -1
    faw0, faw1, faw2, faw3 = -FAW, -FAW, -FAW, -FAW  # when the last four activates were, the oldest first
    now, bus, rank_act, rank_cas, waiting = 0, 0, 0, 0, 0
    sent, arrive, issued, answered, said = 0, 0, 0, 0, -1  # said: when the last answer was given
    last_bank, activates, refreshes, put_off = 0, 0, 0, 0
    trigger = REFI if postponed >= 0 else NEVER
    while issued < n:
        # answers free places under the limit; the next read enters where there is room
        if limit:
            while answered < n and ends[answered] >= 0 and max(ends[answered], said + 1) <= now:
                said = max(ends[answered], said + 1)
                answered += 1
        room = (count[last_bank] < size) if bankwise else (waiting < size)
        free = limit == 0 or sent - answered < limit
        if sent < n and arrive <= now and room and free:
            b = bank[sent]
            follow[sent] = -1
            if count[b]:
                follow[tail[b]] = sent
            else:
                head[b] = sent
            tail[b] = sent
            count[b] += 1
            command[b] = NOTHING  # to be worked out anew
            waiting += 1
            last_bank = b
            sent += 1
            arrive = max(now + 1, sent)
            continue
        # refreshes: put off while reads wait, `postponed` times; then each stops all other commands
        refresh, blocked = NOTHING, False
        if now >= trigger:
            blocked = put_off == postponed
            if waiting and not blocked:
                put_off += 1
                trigger += REFI
            else:
                refresh = REF
                for b in range(8):
                    if opened[b] >= 0:
                        refresh = PREA
        # the command of each bank, and the one of them that can go out first
        best, which, oldest = NEVER, -1, n
        if not blocked:
            for b in range(8):
                if count[b] == 0:
                    continue
                if command[b] == NOTHING:
                    at, past, here = head[b], -1, opened[b]
                    if first_ready and here >= 0:
                        while at >= 0 and row[at] != here:
                            past, at = at, follow[at]
                        if at < 0:
                            at, past = head[b], -1
                    chosen[b], before[b] = at, past
                    if here < 0:
                        command[b] = ACT
                    elif row[at] != here:
                        command[b] = PRE
                    else:
                        another = follow[at]
                        if first_ready:
                            while another >= 0 and row[another] != here:
                                another = follow[another]
                        hit = another >= 0 and row[another] == here
                        if page == OPEN:
                            command[b] = RD
                        elif page == OPEN_ADAPTIVE:
                            command[b] = RDA if count[b] >= 2 and not hit else RD
                        elif page == CLOSED:
                            command[b] = RDA
                        else:
                            command[b] = RD if hit else RDA
                c = command[b]
                if c == ACT:
                    ready = max(act_ok[b], rank_act, faw0 + FAW)
                elif c == PRE:
                    ready = pre_ok[b]
                else:
                    ready = max(cas_ok[b], rank_cas)
                ready = max(ready, bus, now)
                if ready < best or (ready == best and chosen[b] < oldest):
                    best, which, oldest = ready, b, chosen[b]
        if refresh != NOTHING:
            ready = max(bus, now)
            for b in range(8):
                ready = max(ready, act_ok[b] if refresh == REF else pre_ok[b])
            if ready < best:
                best, which = ready, 8
        if best > now:  # on to what happens next
            if sent < n and room and free:
                best = min(best, arrive)
            if limit and answered < n and ends[answered] >= 0:
                best = min(best, max(ends[answered], said + 1))
            now = min(best, trigger) if trigger > now else best
            continue
        bus = now + 1
        if which == 8:
            if refresh == PREA:
                for b in range(8):
                    if opened[b] >= 0:
                        act_ok[b] = max(act_ok[b], now + RP)
                    opened[b] = -1
                    command[b] = NOTHING
            else:
                refreshes += 1
                for b in range(8):
                    act_ok[b] = now + RFC
                trigger += REFI
            continue
        b, c = which, command[which]
        command[b] = NOTHING
        if c == ACT:
            activates += 1
            opened[b] = row[chosen[b]]
            act_ok[b], cas_ok[b], pre_ok[b] = now + RC, now + RCD, now + RAS
            rank_act = now + RRD
            faw0, faw1, faw2, faw3 = faw1, faw2, faw3, now
        elif c == PRE:
            opened[b] = -1
            act_ok[b] = max(act_ok[b], now + RP)
        else:
            rank_cas = now + CCD
            pre_ok[b] = max(pre_ok[b], now + RTP)
            if c == RDA:
                opened[b] = -1
                act_ok[b] = max(act_ok[b], now + RTP + RP)
            at, past = chosen[b], before[b]
            if past < 0:
                head[b] = follow[at]
            else:
                follow[past] = follow[at]
            if tail[b] == at:
                tail[b] = past
            count[b] -= 1
            waiting -= 1
            ends[at if in_order else issued] = now + CL + BURST
            issued += 1
    while answered < n:
        said = max(ends[answered], said + 1)
        answered += 1
    return said, activates, refreshes


class Answer(NamedTuple):
    """Of a trace."""

    seconds: float
    """until the last read was answered"""
    watts: float
    """mean power of the eight chips"""
    joules: float


def answer(bank: NDArray[np.int64], row: NDArray[np.int64], **choices: Any) -> Answer:
    """What the controller with these `choices` makes of a trace of reads; see `simulate`. 10,000 of them take about 0.1 s, and
    with numba, once that many were asked for that compiling it pays, 0.3 to 5 ms."""
    n, fast = len(bank), compiled() if next(_asked) >= PAYS else None
    if fast:
        cycles, activates, refreshes = fast(
            bank, row, np.empty(n, np.int64), np.empty(n, np.int64), np.empty((10, 8), np.int64), **choices
        )
    else:
        scratch = [[0] * 8 for _ in range(10)]
        cycles, activates, refreshes = simulate(bank.tolist(), row.tolist(), [0] * n, [0] * n, scratch, **choices)
    bursts = STANDBY * cycles + ACTIVATE * activates * RC + READ * n * BURST + REFRESH * refreshes * RFC
    joules = CHIPS * VOLTS * bursts * CYCLE
    return Answer(cycles * CYCLE, joules / (cycles * CYCLE), joules)


@cache
def compiled() -> Any:
    """`simulate` by numba; None where it is not installed."""
    if find_spec("numba") is None:
        return None
    import numba

    return numba.njit(cache=True)(simulate)
