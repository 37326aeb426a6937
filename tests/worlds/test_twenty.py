"""The world Twenty against a second account of its rules; its table, its best player, and the player whom a start copies."""

import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from thespis.worlds.twenty import ATTRIBUTES, described


def made(**args: float) -> gym.Env:
    return gym.make("thespis/Twenty-v0", disable_env_checker=True, **args).unwrapped


def test_sound_and_told() -> None:
    env = made()
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


@pytest.mark.parametrize("objects", [8, 50, 64, 65, 100, 128])
def test_names_and_needed_attributes_tell_all_objects_apart(objects: int) -> None:
    table, names = described(objects)
    needed = math.ceil(math.log2(objects))
    assert len(set(names)) == len({tuple(row[:needed]) for row in table}) == objects
    assert table.shape == (objects, ATTRIBUTES)
    assert {len(name) for name in names} == {2 if objects <= 64 else 3}
    assert all(table[:, needed:].sum(0) == objects // 8), "the others are rare"
    for i, j in ((0, 1), (objects - 1, objects // 2)):  # names spell: the first letter is the same where three attributes are
        assert (names[i][0] == names[j][0]) == (list(table[i, :3]) == list(table[j, :3]))


def test_it_answers_and_ends_as_told() -> None:
    env, rng, solved = made(objects=16, turns=12), np.random.default_rng(0), 0
    for seed in range(30):
        text, _ = env.reset(seed=seed)
        assert text == "?"
        left, object_ = set(range(16)), env.object
        for turn in range(1, 13):
            action = [*"abcdefghij", *env.names, "k", "", "A", "bab", "é"][int(rng.integers(31))]
            before = len(left)
            wanted = "."
            if action in list("abcdefghij"):
                n = "abcdefghij".index(action)
                left = {i for i in left if env.table[i, n] == env.table[object_, n]}
                wanted = action.upper() if env.table[object_, n] else action
            elif action in env.names:
                right = env.names.index(action) == object_
                left = {object_} if right else left - {env.names.index(action)}
                wanted = "+" if right else "-"
            text, reward, terminated, truncated, info = env.step(action)
            assert (text, reward) == (wanted, 0.0 if wanted == "+" else -1.0)
            assert (terminated, truncated) == (wanted == "+" or turn == 12, False)
            assert info == {
                "solved": float(wanted == "+"),
                "left": len(left),
                "bits": pytest.approx(math.log2(before / len(left))),
            }
            if terminated:
                solved += wanted == "+"
                break
    assert 3 < solved < 30


def test_who_asks_for_what_is_needed_and_names_it_earns_about_log2_of_the_objects() -> None:
    env = made()
    for seed in range(20):
        env.reset(seed=seed)
        for letter in "abcdef":
            env.step(letter)
        _, reward, terminated, _, info = env.step(env.names[int(env.open.nonzero()[0][0])])
        assert (reward, terminated, info["left"]) == (0.0, True, 1.0)  # -6 in all


def test_the_player_of_the_start_is_middling_and_every_episode_of_his_can_be_played() -> None:
    env, earned = made(), []
    for seed in range(200):
        _, info = env.reset(seed=seed)
        found = [env.step(a) for a in info["solution"]]
        assert found[-1][2]
        assert not any(x[2] for x in found[:-1])
        assert all(x[0] != "." for x in found)
        earned.append(sum(x[1] for x in found))
    assert -12 < np.mean(earned) < -8
    assert len({env.reset(seed=s)[1]["solution"][0] for s in range(50)}) == ATTRIBUTES


@pytest.mark.parametrize("args", [{"objects": 7}, {"objects": 129}, {"turns": 0}, {"hurry": 2}, {"errors": -1}])
def test_what_is_not_allowed_is_told(args: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: from"):
        made(**args)
