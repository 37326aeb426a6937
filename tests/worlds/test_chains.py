"""The world Chains against its definition, with Python's own arithmetic."""

import re

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env


def chain(seed: int, held_out: bool = False, **args: float) -> tuple[gym.Env, str, dict]:
    env = gym.make("thespis/Chains-v0", disable_env_checker=True, **args)
    text, info = env.reset(seed=seed, options={"held_out": held_out})
    return env, text, info


def results(text: str) -> list[int]:
    """Of "7+5-3=": [12, 9]."""
    ends = [m.start() for m in re.finditer("[-+=]", text)][1:]
    return [eval(text[:end]) for end in ends]


def test_sound_and_told() -> None:
    env = gym.make("thespis/Chains-v0").unwrapped
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


def test_the_solution_is_the_running_results_and_earns_1() -> None:
    for seed in range(50):
        env, text, info = chain(seed, steps=5, largest=20, rambles=0)
        assert [int(w) for w in info["solution"].split()] == results(text)
        assert all(0 <= x <= 99 for x in results(text))
        assert info["first_error"] == -1
        parts = {"answer": 1.0, "steps": 1.0, "form": 1.0, "final": str(results(text)[-1])}
        assert env.step(info["solution"])[1:] == (1.0, True, False, parts)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (lambda r: f"{r[-1]}", (1.0, 0.0, 0.0)), (lambda r: f"{r[0]} {r[1]} {r[2]}", (1.0, 1.0, 1.0)),
        (lambda r: f"{r[0]} 98 {r[2]}", (1.0, 2 / 3, 1.0)), (lambda r: f"{r[0]} {r[1]} 98", (0.0, 2 / 3, 1.0)),
        (lambda r: "", (0.0, 0.0, 0.0)), (lambda r: f"{r[0]} x {r[2]}", (1.0, 2 / 3, 0.0)),
        (lambda r: "9" * 5000, (0.0, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_the_parts_of_the_reward(answer, parts) -> None:
    env, text, _ = chain(7, steps=3, partial=0.25)
    r = results(text)
    assert r[0] != r[2]
    _, reward, _, _, info = env.step(answer(r))
    assert (info["answer"], info["steps"], info["form"]) == pytest.approx(parts)
    assert reward == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])
    last = answer(r).split(" ")[-1]
    assert info["final"] == (last if last.isdecimal() and len(last) < 5 else "")


def test_lengths_may_be_mixed() -> None:
    found = [results(chain(seed, steps=4, shortest=2)[1]) for seed in range(200)]
    counts = [sum(len(r) == n for r in found) for n in range(2, 5)]
    assert sum(counts) == 200
    assert all(40 < c < 95 for c in counts), counts  # a third each
    env, _, info = chain(3, steps=4, shortest=1, rambles=0)
    assert env.step(info["solution"])[4]["steps"] == 1
    with pytest.raises(ValueError, match="shortest is 5; allowed: from 1 to 4"):
        chain(0, steps=4, shortest=5)


def test_a_seed_fixes_the_task_and_what_is_held_out_is_apart() -> None:
    seen = {held: {chain(seed, held, steps=1)[1] for seed in range(400)} for held in (False, True)}
    assert chain(3)[1] == chain(3)[1] != chain(4)[1]
    assert not seen[False] & seen[True]
    assert len(seen[False]) > len(seen[True]) > 5


def test_an_author_who_slips_does_so_as_often_as_told_and_at_the_place_that_is_told() -> None:
    slips = 0
    for seed in range(300):
        _, text, info = chain(seed, steps=3, errors=0.3, rambles=0)
        written, right = [int(w) for w in info["solution"].split()], results(text)
        first = next((i for i in range(3) if written[i] != right[i]), -1)
        assert info["first_error"] == first
        slips += first >= 0
    assert slips / 300 == pytest.approx(1 - 0.7**3, abs=0.1)


def test_an_author_who_rambles_earns_nothing_and_does_so_as_often_as_told() -> None:
    earned = []
    for seed in range(300):
        env, text, info = chain(seed, steps=2, rambles=0.4)
        assert [int(w) for w in info["solution"].split()][:2] == results(text)
        earned.append(env.step(info["solution"])[1])
    assert set(earned) == {0.0, 1.0}
    assert sum(earned) / 300 == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("args", [{"steps": 0}, {"largest": 51}, {"errors": 1.5}, {"partial": -1}, {"rambles": 2}])
def test_what_is_not_allowed_is_told(args: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: from"):
        chain(0, **args)
