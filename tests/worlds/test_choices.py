"""The world Choices against its definition."""

import itertools

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env


def made(**args: float) -> gym.Env:
    return gym.make("thespis/Choices-v0", disable_env_checker=True, **args).unwrapped


def right(text: str) -> set[str]:
    """Read from the question anew."""
    body, sign, asked = text[:-2], text[-2], text[-1]
    return {word[0] for word in body.split(" ") if (asked in word[1:]) == (sign == "?")}


def test_sound_and_told() -> None:
    env = made()
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


def test_every_set_of_options_earns_its_share() -> None:
    soft, hard, inverted = made(), made(soft=False), 0
    for seed in range(60):
        text, info = soft.reset(seed=seed)
        assert hard.reset(seed=seed)[0] == text
        truth = right(text)
        inverted += "!" in text
        assert set(info["solution"]) == truth
        for n in range(6):
            for named in itertools.combinations("EDCBA", n):
                wanted = len(named) / len(truth) if set(named) <= truth else 0.0
                _, reward, terminated, _, told = soft.step("".join(named))
                assert (reward, terminated) == (wanted, True)
                assert told == {"exact": float(wanted == 1), "soft": wanted, "final": "".join(sorted(named))}
                assert hard.step("".join(named))[1] == float(wanted == 1)
        first = min(truth)
        assert [soft.step(a)[1] for a in (first + first, first + " ", first.lower(), "Z")] == [0.0] * 4
    assert 15 < inverted < 45


def test_an_author_errs_as_often_as_told_and_what_is_held_out_is_apart() -> None:
    env, wrong = made(errors=0.2), 0
    for seed in range(200):
        text, info = env.reset(seed=seed)
        wrong += len(set(info["solution"]) ^ right(text))
    assert wrong / 1000 == pytest.approx(0.2, abs=0.04)
    tasks = {held: {env.reset(seed=s, options={"held_out": held})[0] for s in range(200)} for held in (False, True)}
    assert not tasks[False] & tasks[True]


@pytest.mark.parametrize("args", [{"options": 1}, {"inverted": 2}, {"errors": -1}])
def test_what_is_not_allowed_is_told(args: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: from"):
        made(**args)
