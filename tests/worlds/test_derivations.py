"""The world Derivations against all orders of sums, gone through one by one."""

import itertools

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env


def made(**args: int) -> gym.Env:
    return gym.make("thespis/Derivations-v0", disable_env_checker=True, **args).unwrapped


def right(text: str, modulus: int) -> set[str]:
    """Every answer, by every order in which neighbours can be added."""
    found = set()
    for order in itertools.product(*(range(n) for n in range(len(text) - 1, 0, -1))):
        digits, rows = [int(x) for x in text], []
        for i in order:
            digits[i : i + 2] = [sum(digits[i : i + 2]) % modulus]
            rows.append("".join(map(str, digits)))
        found.add(" ".join(rows))
    return found


def test_sound_and_told() -> None:
    env = made()
    check_env(env, skip_render_check=True)
    for word in ("Observation:", "Action:", "Reward:", "Ends:"):
        assert word in (type(env).__doc__ or ""), word


@pytest.mark.parametrize(("terms", "modulus"), [(2, 10), (4, 3), (5, 10)])
def test_all_right_answers_are_counted_and_no_other_earns(terms: int, modulus: int) -> None:
    env, fewer = made(terms=terms, modulus=modulus), 0
    for seed in range(20):
        text, info = env.reset(seed=seed)
        answers, orders = right(text, modulus), 1
        for n in range(2, terms):
            orders *= n
        assert info["count"] == len(answers) <= orders
        fewer += len(answers) < orders
        assert info["solution"] in answers
        last = str(sum(map(int, text)) % modulus)
        for answer in answers:
            assert env.step(answer)[1:] == (1.0, True, False, {"answer": 1.0, "steps": 1.0, "final": last})
            for i, x in enumerate(answer):
                other = answer[:i] + (" " if x != " " else "0") + answer[i + 1 :]
                assert env.step(other)[1] == 0
            assert env.step(f"{answer} {last}")[1] == env.step(f" {answer}")[1] == 0
        first, _, rest = info["solution"].partition(" ")
        assert env.step(f"{first} x{rest}")[4]["steps"] == 1 / (terms - 1)
        assert env.step("")[4] == {"answer": 0.0, "steps": 0.0, "final": ""}
    assert (fewer > 0) == (terms > 2), "two orders can give the same rows"


def test_an_author_takes_every_answer_and_what_is_held_out_is_apart() -> None:
    env, written = made(terms=4, modulus=2), dict[str, set[str]]()
    for seed in range(1_000):
        text, info = env.reset(seed=seed)
        written.setdefault(text, set()).add(info["solution"])
    assert len(written) > 10
    assert all(found == right(text, 2) for text, found in written.items())
    env = made()
    tasks = {held: {env.reset(seed=s, options={"held_out": held})[0] for s in range(200)} for held in (False, True)}
    assert not tasks[False] & tasks[True]


@pytest.mark.parametrize("args", [{"terms": 1}, {"terms": 10}, {"modulus": 11}])
def test_what_is_not_allowed_is_told(args: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(args))} is .*; allowed: from 2 to"):
        made(**args)
