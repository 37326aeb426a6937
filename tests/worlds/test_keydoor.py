"""The world KeyDoor against its definition, played by a second account of its rules."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from thespis.engine.written import Book
from thespis.envs.text import text_world
from thespis.lm import Text


def made(**args: float) -> gym.Env:
    return gym.make("thespis/KeyDoor-v0", disable_env_checker=True, **args).unwrapped


def test_sound_and_told() -> None:
    env = made()
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


def test_it_moves_takes_and_opens_as_told() -> None:
    env, rng, solved = made(length=4, turns=40), np.random.default_rng(0), 0
    for seed in range(40):
        text, _ = env.reset(seed=seed)
        at, has = env.start, False
        assert len({env.start, env.key, env.door}) == 3
        for turn in range(1, 41):
            thing = "d" if at == env.door else "k" if at == env.key and not has else "."
            assert text == f"{at}{thing}"
            action = "lrtox"[int(rng.integers(5))]
            at = min(max(at + {"l": -1, "r": 1}.get(action, 0), 0), 3)
            has = has or (action == "t" and at == env.key)
            over = action == "o" and has and at == env.door
            text, reward, terminated, truncated, info = env.step(action)
            assert (reward, terminated, truncated) == (float(over), over, turn == 40 and not over)
            assert (info["solved"], info["key"]) == (float(over), float(has))
            if over:
                solved += 1
                break
    assert 5 < solved < 40


def test_the_author_solves_it_and_errs_as_often_as_told() -> None:
    for errors, low, high in ((0.0, 1.0, 1.0), (1.0, 0.0, 0.4)):
        env, earned = made(errors=errors), []
        for seed in range(50):
            _, info = env.reset(seed=seed)
            assert len(info["solution"]) <= 30
            earned.append(sum(env.step(a)[1] for a in info["solution"]))
        assert low <= sum(earned) / 50 <= high, errors


def test_what_is_held_out_is_apart() -> None:
    env = made()
    tasks = {
        held: {(env.reset(seed=s, options={"held_out": held}), env.start, env.key, env.door)[1:] for s in range(300)}
        for held in (False, True)
    }
    assert not tasks[False] & tasks[True]
    assert len(tasks[False]) > len(tasks[True]) > 20


def test_a_supervised_start_learns_the_author_s_answers_of_all_turns() -> None:
    world = text_world("thespis/KeyDoor-v0", {"errors": 0.0})
    rows = Book(Text(), 256, 0, world, None).batch(0, 3)
    env = world.make()
    for i in range(3):
        prompt, info = env.reset(i)
        answers = Text().decode(rows.tokens[i][rows.mask[i]].tolist())
        assert answers == "".join(info["solution"])
        said = Text().decode(rows.tokens[i].tolist()).rstrip("\0")
        assert said.startswith(prompt + info["solution"][0])
        assert len(said) == 3 * len(info["solution"])


@pytest.mark.parametrize("args", [{"length": 3}, {"turns": 0}, {"errors": 2}])
def test_what_is_not_allowed_is_told(args: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: from"):
        made(**args)
