"""What a Config may hold, and what a person is told where it may not."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
import pytest

from thespis.config import Count, Fraction, Natural, Positive, Range, build, check, near, read, to_json
from thespis.core import Fault


@dataclass(frozen=True)
class Options:
    lr: Positive = 3e-4
    tau: Fraction = 0.005
    steps: Natural = 10
    critics: Count = 2
    hidden: tuple[Count, ...] = (256, 256)
    log_std: tuple[float, float] = (-20.0, 2.0)
    alpha: Positive | None = None
    shift: float = -1.0
    which: Literal["last", "best"] = "last"
    label: str = "run"
    video: bool = False


def test_defaults_pass() -> None:
    assert check(Options()) == Options()


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("lr", 1, 1.0),  # a whole number is a number
        ("lr", 1e-30, 1e-30),
        ("tau", 0, 0.0),  # closed ends are allowed
        ("tau", 1, 1.0),
        ("steps", 0, 0),
        ("steps", 1e6, 1_000_000),  # as people write a million
        ("critics", 1, 1),
        ("hidden", [64, 32], (64, 32)),
        ("hidden", (), ()),
        ("hidden", [64.0], (64,)),
        ("log_std", [-5, 2], (-5.0, 2.0)),
        ("alpha", None, None),
        ("alpha", 2, 2.0),
        ("which", "best", "best"),
        ("video", True, True),
        ("lr", np.float64(0.1), 0.1),  # as np.logspace gives them
        ("lr", np.float32(0.5), 0.5),
        ("critics", np.int64(3), 3),
        ("hidden", list(np.array([8, 9])), (8, 9)),
    ],
)
def test_a_value_is_taken_as_its_field_wants_it(name: str, value: Any, kept: Any) -> None:
    got = getattr(build(Options, {name: value}), name)
    assert got == kept
    assert type(got) is type(kept)
    if isinstance(kept, tuple):
        assert [type(x) for x in got] == [type(x) for x in kept]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("lr", 0, "lr is 0; allowed: a number above 0"),
        ("lr", -0.1, "lr is -0.1; allowed: a number above 0"),
        ("lr", "fast", "lr is 'fast'; allowed: a number above 0"),
        ("lr", True, "lr is True; allowed: a number above 0"),
        ("lr", None, "lr is None; allowed: a number above 0"),
        ("lr", math.nan, "lr is nan; allowed: a number above 0"),
        ("lr", math.inf, "lr is inf; allowed: a number above 0"),
        ("lr", 1e39, "lr is 1e+39; allowed: a number above 0"),  # more than float32 holds
        ("shift", math.nan, "shift is nan; allowed: a number"),
        ("shift", -math.inf, "shift is -inf; allowed: a number"),
        ("tau", 1.5, "tau is 1.5; allowed: a number from 0 to 1"),
        ("tau", -1e-9, "tau is -1e-09; allowed: a number from 0 to 1"),
        ("steps", -1, "steps is -1; allowed: a whole number 0 or more"),
        ("steps", 2.5, "steps is 2.5; allowed: a whole number 0 or more"),
        ("steps", False, "steps is False; allowed: a whole number 0 or more"),
        ("steps", math.nan, "steps is nan; allowed: a whole number 0 or more"),
        ("critics", 0, "critics is 0; allowed: a whole number 1 or more"),
        ("hidden", 256, "hidden is 256; allowed: any number of values, each a whole number 1 or more"),
        ("hidden", "256", "hidden is '256'; allowed: any number of values, each a whole number 1 or more"),
        ("hidden", [256, 0], "hidden is [256, 0]; allowed: any number of values, each a whole number 1 or more"),
        ("hidden", [256, True], "hidden is [256, True]; allowed: any number of values, each a whole number 1 or more"),
        ("log_std", [-20], "log_std is [-20]; allowed: 2 values, each a number"),
        ("log_std", (1, 2, 3), "log_std is (1, 2, 3); allowed: 2 values, each a number"),
        ("log_std", (1, None), "log_std is (1, None); allowed: 2 values, each a number"),
        ("alpha", 0, "alpha is 0; allowed: a number above 0 or None"),
        ("alpha", "auto", "alpha is 'auto'; allowed: a number above 0 or None"),
        ("which", "worst", "which is 'worst'; allowed: 'last', 'best'"),
        ("label", 3, "label is 3; allowed: text"),
        ("video", 1, "video is 1; allowed: true or false"),
        ("video", "yes", "video is 'yes'; allowed: true or false"),
    ],
)
def test_what_is_refused_and_in_which_words(name: str, value: Any, text: str) -> None:
    """The field, what was given, and the whole of what is allowed."""
    for give in (lambda: build(Options, {name: value}), lambda: check(Options(**{name: value}))):
        with pytest.raises(Fault) as fault:
            give()
        assert str(fault.value) == text


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["positive", "negative"])
def test_a_number_too_large_for_a_float_is_a_fault(value: int) -> None:
    with pytest.raises(Fault, match=r"^shift is -?1000"):
        build(Options, {"shift": value})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hidden_", "hidden_ is not an option; did you mean hidden?"),
        ("LR", "LR is not an option; did you mean lr?"),
        ("log_sdt", "log_sdt is not an option; did you mean log_std?"),
        (
            "zzz",
            "zzz is not an option; allowed: lr, tau, steps, critics, hidden, log_std, alpha, shift, which, label, video",
        ),
    ],
)
def test_an_unknown_field_names_the_near_ones(name: str, text: str) -> None:
    with pytest.raises(Fault) as fault:
        build(Options, {"lr": 0.1, name: 1})
    assert str(fault.value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"hidden_": 1}, "config.json: hidden_ is not an option; did you mean hidden?"),
        ({"critics": 0}, "config.json: critics is 0; allowed: a whole number 1 or more"),
    ],
)
def test_the_fault_says_where(values: dict[str, Any], text: str) -> None:
    with pytest.raises(Fault) as fault:
        build(Options, values, "config.json: ")
    assert str(fault.value) == text


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("--learning-rate", "--algo.lr"), ("total_timesteps", "steps"), ("--n-envs", "--num-envs"), ("buffer_size", "replay_size"),
     ("--learning-starts", "--algo.warmup"), ("net_arch", "hidden"), ("gae_lambda", "lam")],
)  # fmt: skip
def test_what_other_libraries_call_it(theirs: str, ours: str) -> None:
    dashed = ["--algo.n-step", "--algo.lr", "--num-envs", "--algo.warmup", "--env", "--algo.max-norm", "--dir", "--algo.lam"]
    names = dashed if theirs.startswith("--") else ["steps", "n_step", "replay_size", "hidden", "lam", "env", "lr"]
    assert near(theirs, names) == f"; did you mean {ours}?"


def test_no_list_fills_a_page() -> None:
    assert near("zzzz", map(str, range(40))) == "; allowed: " + ", ".join(map(str, range(20))) + ", ... (40 in all, see --help)"
    assert near("lr", ["dir", "algo"]) == "; allowed: dir, algo"  # two letters are like anything


def test_several_near_names() -> None:
    assert near("step", ["steps", "stop", "other"]) == "; did you mean steps or stop?"
    assert near("cartpole", ["CARTPOLE", "other"]) == "; did you mean CARTPOLE?"  # whatever the case


def test_config_to_json_and_back_is_the_identity() -> None:
    for given in (Options(), Options(0.1 + 0.2, 1.0, 3, 5, (1, 2, 3), (-1e-5, 1 / 3), 1e-17, 2.5, "best", "é\n", True)):
        text = json.dumps(to_json(given), allow_nan=False)
        assert build(Options, json.loads(text)) == given


def test_check_changes_nothing_in_place() -> None:
    given = Options(lr=1, hidden=[4])  # type: ignore[arg-type]
    fitted = check(given)
    assert (given.lr, given.hidden) == (1, [4])
    assert (fitted.lr, fitted.hidden) == (1.0, (4,))


@pytest.mark.parametrize(
    ("given", "inside", "outside", "words"),
    [
        (Range(0), [0, 5, 1e38], [-1e-9], "0 or more"),
        (Range(0, open=True), [1e-300, 5], [0, -1], "above 0"),
        (Range(-1, 1), [-1, 0, 1], [-1.001, 1.001], "from -1 to 1"),
    ],
)
def test_a_range_holds_what_its_words_say(given: Range, inside: list[float], outside: list[float], words: str) -> None:
    @dataclass(frozen=True)
    class One:
        x: Annotated[float, given]

    assert str(given) == words
    for x in inside:
        assert check(One(x)).x == x
    for x in outside:
        with pytest.raises(Fault, match=f"allowed: a number {words}$"):
            check(One(x))


def test_the_words_of_an_open_range_with_an_end_differ_from_those_of_a_closed_one() -> None:
    assert str(Range(0, 1, open=True)) != str(Range(0, 1))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-4", 1e-4), ("lr", "1", 1.0), ("steps", "12", 12), ("steps", "1e3", 1000), ("hidden", "64 64", (64, 64)),
        ("hidden", "8", (8,)), ("hidden", "", ()), ("log_std", "-5 2", (-5.0, 2.0)), ("alpha", "None", None),
        ("alpha", "0.2", 0.2), ("shift", "-2", -2.0), ("which", "best", "best"), ("label", "1", "1"), ("label", "None", "None"),
        ("video", "true", True), ("video", "False", False),
    ],
)  # fmt: skip
def test_text_is_read_as_its_field_has_it(name: str, text: str, value: Any) -> None:
    found = read(get_type_hints(Options, include_extras=True)[name], text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lr", "0"), ("lr", "nan"), ("lr", "inf"), ("lr", "None"), ("lr", ""), ("steps", "1.5"), ("steps", "-1"),
        ("hidden", "8,8"), ("hidden", "8 0"), ("log_std", "1"), ("log_std", "1 2 3"), ("alpha", "none"),
        ("which", "worst"), ("video", "1"),
    ],
)  # fmt: skip
def test_text_that_is_no_value_of_its_field(name: str, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, whose words nobody sees
        read(get_type_hints(Options, include_extras=True)[name], text)
