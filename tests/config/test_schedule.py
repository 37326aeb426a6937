"""Schedules against closed forms, torch's own, and what people type."""

import copy
import json
import math
import pickle
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from thespis.config import COUNTED, Positive, Rate, Schedule, build, check, over, read, to_json
from thespis.core import Fault

F64 = torch.float64


@dataclass(frozen=True)
class Options:
    lr: Rate = 3e-4
    alpha_lr: Rate = Schedule("cosine:3e-4")
    tau: Positive = 0.005


def values(text: str, *at: float) -> list[float]:
    return Schedule(text)(torch.tensor(at, dtype=F64)).tolist()


@pytest.mark.parametrize(
    ("text", "at", "wanted"),
    [
        ("linear:0.3:updates=40", (0, 10, 20, 40, 41, 1e9), (0.3, 0.225, 0.15, 0, 0, 0)),
        ("linear:0.3:0.1:updates=40", (0, 20, 40, 1e9), (0.3, 0.2, 0.1, 0.1)),
        ("linear:0.1:0.3:updates=40", (0, 20, 40, 1e9), (0.1, 0.2, 0.3, 0.3)),  # it may rise, too
        ("cosine:0.3:0.1:updates=40", (0, 10, 20, 30, 40, 1e9), (0.3, 0.2 + 0.1 / 2**0.5, 0.2, 0.2 - 0.1 / 2**0.5, 0.1, 0.1)),
        ("constant:0.3:updates=40", (0, 20, 40, 1e9), (0.3, 0.3, 0.3, 0.3)),
        ("constant:0.3:warmup=0.25:updates=40", (0, 4, 9, 10, 1e9), (0.03, 0.15, 0.3, 0.3, 0.3)),
        ("linear:0.3:0.1:warmup=0.5:updates=40", (0, 9, 19, 20, 30, 40), (0.015, 0.15, 0.3, 0.3, 0.2, 0.1)),
        ("cosine:0.3:0.1:warmup=0.5:updates=40", (0, 19, 20, 30, 40), (0.015, 0.3, 0.3, 0.2, 0.1)),
        ("linear:0.3:warmup=1:updates=4", (0, 1, 2, 3, 4), (0.075, 0.15, 0.225, 0.3, 0.3)),
        ("linear:0.3:0.1:updates=1", (0, 1, 2), (0.3, 0.1, 0.1)),
    ],
)
def test_the_values_of_a_schedule(text: str, at: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    assert values(text, *at) == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    single = [float(Schedule(text)(torch.tensor(float(t)))) for t in at]  # as the optimisers count
    assert single == pytest.approx(wanted, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("cosine:0.3:0.1:updates=20", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=0.1)),
        ("linear:0.3:0.03:updates=20", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=20)),
        ("constant:0.3:warmup=0.5:updates=20", lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, total_iters=9)),
    ],
)
def test_a_schedule_is_torchs(text: str, peer: Any) -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = peer(optimiser)
    for t in range(21):
        assert values(text, t) == pytest.approx(scheduler.get_last_lr(), rel=1e-6)
        optimiser.step()
        scheduler.step()


def test_a_schedule_is_one_graph_and_the_same_for_each_row_of_vmap() -> None:
    schedule, t = Schedule("cosine:0.3:0.1:warmup=0.25:updates=40"), torch.arange(50.0)
    graph = torch.fx.experimental.proxy_tensor.make_fx(schedule)(t[0])
    torch.testing.assert_close(torch.stack([graph(x) for x in t]), schedule(t))
    torch.testing.assert_close(torch.vmap(schedule)(t), schedule(t))


def test_one_without_a_run_says_what_it_lacks() -> None:
    with pytest.raises(Fault, match=r"^linear:0.1 goes over the updates of a run.*linear:0.1:updates=10000$"):
        Schedule("linear:0.1")(torch.zeros(()))


# ------------------------------------------------------------------------------------------------------------- as text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("linear:3e-4", "linear:0.0003"),
        ("linear:3e-4:0", "linear:0.0003"),
        ("cosine:.001:1E-5", "cosine:0.001:1e-05"),
        ("linear:1:1", "linear:1:1"),
        ("constant:1e-3:warmup=5e-2", "constant:0.001:warmup=0.05"),
        ("linear:0.1234567890123:updates=1e6", "linear:0.1234567890123:updates=1000000"),
        ("linear:1:0.5:warmup=0.1:updates=7", "linear:1:0.5:warmup=0.1:updates=7"),
    ],
)
def test_one_schedule_has_one_text(text: str, kept: str) -> None:
    found = Schedule(text)
    assert found == kept == json.loads(json.dumps(found))
    for again in (Schedule(kept), copy.deepcopy(found), pickle.loads(pickle.dumps(found)), read(Rate, text)):
        assert type(again) is Schedule
        assert vars(again) == vars(found)
        assert again == found


@pytest.mark.parametrize(
    "text",
    [
        "linear", "linear:", "linear:fast", "linear:0", "linear:-1", "linear:nan", "linear:inf", "linear:1:-1", "linear:1:nan",
        "linear:1:2:3", "linear:1:", "constant:1:2", "quadratic:1", "Linear:1", "", ":1", "linear:1:warmup=",
        "linear:1:warmup=1.1", "linear:1:warmup=-0.1", "linear:1:warmup=nan", "linear:1:updates=0", "linear:1:updates=1.5",
        "linear:1:updates=inf", f"linear:1:updates={COUNTED + 1}", "linear:1:steps=5", "linear:1:warmup=0.1:warmup=0.1",
        "linear:1:updates=5:warmup=0.1",
    ],
)  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, whose words differ
        Schedule(text)
    with pytest.raises(Fault, match=r"^lr is .*; allowed: a number above 0 or a schedule, as linear:3e-4:1e-5$"):
        build(Options, {"lr": text})


def test_a_function_of_progress_is_told_what_to_write_instead() -> None:
    with pytest.raises(Fault) as fault:
        check(Options(lr=lambda progress: progress * 3e-4))  # type: ignore[arg-type]
    assert str(fault.value) == (
        "lr is a function, which no file can hold; allowed: a number above 0 or a schedule, as linear:3e-4:1e-5"
    )


@pytest.mark.parametrize("value", [1e-3, 1, "linear:1e-3", Schedule("linear:1e-3")])
def test_a_rate_is_a_number_or_a_schedule_and_goes_through_json(value: Any) -> None:
    cfg = build(Options, {"lr": value})
    assert type(cfg.lr) is (Schedule if isinstance(value, str) else float)
    again = build(Options, json.loads(json.dumps(to_json(cfg))))
    assert again == cfg
    assert [type(x) for x in vars(again).values()] == [type(x) for x in vars(cfg).values()]


# ---------------------------------------------------------------------------------------------------------- over a run


def test_a_schedule_goes_over_the_run_unless_it_says_otherwise() -> None:
    cfg = Options(lr=Schedule("linear:1:updates=7"))
    assert over(cfg, 100) == replace(cfg, alpha_lr=Schedule("cosine:3e-4:updates=100"))
    assert over(cfg, 0).alpha_lr == "cosine:0.0003:updates=1"  # a run without updates
    assert over(Options(alpha_lr=1e-3), 100) == Options(alpha_lr=1e-3)


def test_a_run_that_no_counter_can_follow_is_refused() -> None:
    """Adam's counter is float32: it stands still at 2^24."""
    assert over(Options(), COUNTED).alpha_lr.endswith(str(COUNTED))
    with pytest.raises(Fault, match=r"^alpha_lr is cosine:0.0003 and the run makes 16,777,217 updates; .*:updates=16777216$"):
        over(Options(), COUNTED + 1)
    assert math.isclose(float(torch.tensor(float(COUNTED)) + 1), COUNTED)
