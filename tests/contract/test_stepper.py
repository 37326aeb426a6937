"""The engine's side of the contract, on learners of a few numbers: when it compiles, and that nothing else depends on it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from thespis.core import Batch, Learner, Metrics, OffPolicy, leaves, replace, tree, tree_map
from thespis.engine import build
from thespis.engine.compile import Stepper, fastest_threads


@tree
class Toy:
    a: Tensor
    b: Tensor


def learner(update: Callable[[Any, Batch, int], tuple[Any, Metrics]], period: int = 1) -> Learner:
    def init() -> Toy:
        return Toy(torch.zeros(2), torch.ones(2))

    return Learner(init, update, lambda s: {}, lambda p, obs, explore: obs, {}, OffPolicy(1, 1, 1, 1, 0, 1), period=period)


def walk(s: Toy, b: Batch, k: int) -> tuple[Toy, Metrics]:
    """A random walk with a drift that depends on k."""
    a = s.a + torch.randn(2) + (k + 1) * b.reward.mean()
    return replace(s, a=a, b=0.5 * s.b + a), {"k": torch.full((), float(k)), "a": a.mean()}


def batch(reward: float = 0.25) -> Batch:
    x = torch.zeros(3, 1)
    return Batch(x, x, torch.full((3,), reward), torch.ones(3), x)


def stepped(stepper: Stepper, count: int) -> Stepper:
    for i in range(count):
        stepper.step(batch(i / 8))
    return stepper


def eager(period: int, count: int) -> Stepper:
    torch.manual_seed(0)
    made = learner(walk, period)
    return stepped(Stepper(made, made.init()), count)


def assert_same(a: Stepper, b: Stepper) -> None:
    for (name, x), y in zip(leaves(a.state).items(), leaves(b.state).values(), strict=True):
        assert torch.equal(x, y), name
    assert a.means() == b.means()


class Compiler:
    """Stands in for torch's: counts the calls of what it made, and does the recorded operations one by one."""

    def __init__(self) -> None:
        self.begun = self.made = self.calls = 0
        self.given: list[list[tuple[int, ...]]] = []
        self.fails = self.fails_when_called = self.over = False

    def __call__(self, source: str, inputs: list[Tensor], threads: int) -> tuple[Callable[[], bool], Callable[[], Any]]:
        self.begun += 1
        self.given.append([tuple(x.shape) for x in inputs])
        program = build.function(source)

        def run(tensors: list[Tensor]) -> Any:
            self.calls += 1
            out = program(*tensors)
            if self.fails_when_called:  # it has drawn noise and changed the state that it was given
                raise RuntimeError("no C++ compiler\n  found anywhere")
            return out

        def wait() -> Any:
            if self.fails:
                raise RuntimeError("no C++ compiler\n  found anywhere")
            self.made += 1
            return run

        return lambda: self.over, wait


COMPILER = "thespis.engine.build.begin"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    stand_in = Compiler()
    monkeypatch.setattr(COMPILER, stand_in)
    return stand_in


@pytest.mark.parametrize("period", [1, 2, 3])
def test_k_runs_through_the_period(period: int) -> None:
    seen = []

    def update(s: Toy, b: Batch, k: int) -> tuple[Toy, Metrics]:
        seen.append(k)
        return walk(s, b, k)

    made = learner(update, period)
    stepped(Stepper(made, made.init()), 6)
    assert seen == [i % period for i in range(6)]
    resumed = Stepper(made, made.init())
    resumed.updates, seen[:] = 7, []
    stepped(resumed, 4)
    assert seen == [i % period for i in range(7, 11)]


@pytest.mark.parametrize(("after", "compiled"), [(-1, 0), (0, 6), (1, 5), (4, 2), (6, 0), (12, 0), (24, 0), (27, 0)])
@pytest.mark.parametrize("period", [1, 2])
def test_compiles_once_so_many_updates_are_done(compiler: Compiler, period: int, after: int, compiled: int) -> None:
    torch.manual_seed(0)
    made, said = learner(walk, period), []
    stepper = stepped(Stepper(made, made.init(), after, said.append), 6)
    assert compiler.made == min(period, compiled)
    assert compiler.calls == compiled + compiler.made  # each is tried once on a copy
    assert compiler.begun == len(said) == (0 if after == -1 else min(period, max(6 - after // 4, 0)))
    assert_same(stepper, eager(period, 6))  # and no number depends on it


def test_what_waits_for_the_compiler(compiler: Compiler) -> None:
    made = learner(walk)
    stepper = Stepper(made, made.init(), 4, lambda line: None)
    assert not stepper.waits(5)  # nothing is being compiled yet
    stepped(stepper, 2)
    assert [stepper.waits(updates) for updates in (3, 4, 5, 6)] == [False, False, True, True]
    compiler.over = True
    assert not stepper.waits(5)
    stepped(stepper, 3)
    compiler.over = False
    assert not stepper.waits(9)  # it is there
    never = stepped(Stepper(made, made.init(), -1), 2)
    assert not never.waits(9)


def test_the_rule_counts_the_updates_of_the_whole_run(compiler: Compiler) -> None:
    made = learner(walk)
    resumed = Stepper(made, made.init(), 5, lambda line: None)
    resumed.updates = 5
    resumed.step(batch())
    assert compiler.made == 1


def test_what_is_compiled_is_for_its_own_learner(compiler: Compiler) -> None:
    for i in range(10):
        made = learner(lambda s, b, k, i=i: (replace(s, a=s.a + i), {"a": s.a.mean()}))
        stepper = stepped(Stepper(made, made.init(), 0, lambda line: None), 2)
        assert stepper.state.a.tolist() == [2 * i, 2 * i]
    assert compiler.made == 10


def test_a_choice_that_hangs_on_a_number_of_the_state_is_not_frozen(compiler: Compiler) -> None:
    """What cannot be one graph stays in eager mode, and is right."""
    made, said = learner(lambda s, b, k: (replace(s, a=s.a + 1 if s.a.sum() < 3 else s.a), {})), []
    assert stepped(Stepper(made, made.init(), 0, said.append), 4).state.a.tolist() == [2, 2]
    assert "does not work here" in said[-1]


@pytest.mark.parametrize("when_called", [False, True])
@pytest.mark.parametrize("period", [1, 2])
def test_where_the_compiler_fails_the_run_goes_on_eager(compiler: Compiler, period: int, when_called: bool) -> None:
    compiler.fails, compiler.fails_when_called = not when_called, when_called
    torch.manual_seed(0)
    made, said = learner(walk, period), []
    stepper = stepped(Stepper(made, made.init(), 2, said.append), 9)
    told = [line for line in said if "does not work" in line]
    assert told == ["torch's compiler does not work here, so the run goes on in eager mode, about half as fast (no C++ compiler)"]
    assert stepper.updates == 9
    assert_same(stepper, eager(period, 9))


def test_a_compiler_that_fails_without_a_word_is_named_by_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: str, inputs: list[Tensor], threads: int) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(COMPILER, broken)
    made, said = learner(walk), []
    stepped(Stepper(made, made.init(), 0, said.append), 1)
    assert "(NotImplementedError)" in said[-1]


# ---------------------------------------------------------------------------------------------------------------- acting


def actor() -> Learner:
    """Moves away from `a` by noise, and to `a` where it does not explore; `b` it never reads."""
    made = learner(walk)

    def act(policy: dict[str, Tensor], obs: Tensor, explore: bool) -> Tensor:
        return policy["a"] + obs + (torch.randn(2) if explore else 0)

    return replace(made, policy=lambda s: {"a": s.a}, act=act)


def test_exploring_is_compiled_once_the_update_is(compiler: Compiler) -> None:
    made, obs = actor(), torch.ones(3, 2)
    stepper = Stepper(made, made.init(), 2, lambda line: None)
    act = stepper.acting(3)
    for updates, compiled in [(0, 0), (1, 0), (1, 0), (1, 1), (0, 1), (2, 1)]:
        stepped(stepper, updates)
        before, calls = compiler.made, compiler.calls
        policy = made.policy(stepper.state)
        torch.manual_seed(7)
        action = act(policy, obs, True)
        assert (compiler.calls > calls) == bool(compiled)
        assert compiler.made - before == (stepper.updates == 3 and updates)  # once, on its first use
        torch.manual_seed(7)
        assert torch.equal(action, made.act(policy, obs, True))  # of the state as it is now, with the same noise


def test_what_is_not_exploring_with_all_rows_stays_eager(compiler: Compiler) -> None:
    made = actor()
    stepper = stepped(Stepper(made, made.init(), 0, lambda line: None), 1)
    act, calls = stepper.acting(3), compiler.calls
    assert torch.equal(act({"a": torch.ones(2)}, torch.ones(3, 2), False), torch.full((3, 2), 2.0))
    assert act(made.policy(stepper.state), torch.ones(2, 2), True).shape == (2, 2)
    assert compiler.calls == calls


def test_compiled_code_is_given_only_what_it_reads(compiler: Compiler) -> None:
    made = actor()
    stepper = stepped(Stepper(made, made.init(), 0, lambda line: None), 1)
    stepper.acting(3)(made.policy(stepper.state), torch.ones(3, 2), True)
    assert compiler.given == [[(2,), (2,), (3,)], [(2,), (3, 2)]]  # a, b and the reward; a and the observations


def test_what_it_is_given_is_to_have_the_shapes_that_it_is_for(compiler: Compiler) -> None:
    made = learner(walk)
    stepper = stepped(Stepper(made, made.init(), 0, lambda line: None), 1)
    x = torch.zeros(4, 1)
    with pytest.raises(ValueError, match=r"compiled for .*\[3\].*, given .*\[4\]"):
        stepper.step(Batch(x, x, torch.zeros(4), torch.ones(4), x))


def test_where_acting_does_not_compile_the_update_stays_compiled(compiler: Compiler) -> None:
    made, said = actor(), []
    stepper = stepped(Stepper(made, made.init(), 0, said.append), 1)
    compiler.fails = True
    act = stepper.acting(3)
    for _ in range(2):
        assert act(made.policy(stepper.state), torch.ones(3, 2), True).shape == (3, 2)
    assert said[1:] == ["torch's compiler does not work here, so acting stays in eager mode (no C++ compiler)"]
    calls = compiler.calls
    stepped(stepper, 1)
    assert compiler.calls == calls + 1


def test_a_run_that_goes_on_acts_with_its_threads_at_once(threads: None, compiler: Compiler) -> None:
    made = actor()
    resumed = Stepper(made, made.init(), 0, lambda line: None, max_threads=4)
    resumed.updates, resumed.threads = 5, 3
    resumed.acting(3)(made.policy(resumed.state), torch.ones(3, 2), True)
    assert (compiler.made, torch.get_num_threads()) == (1, 3)


# --------------------------------------------------------------------------------------------------------------- threads


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("milliseconds", "most", "wanted"),
    [
        ({1: 8, 2: 4, 4: 2, 8: 1}, 8, 8),
        ({1: 8, 2: 4, 4: 2, 8: 1}, 4, 4),
        ({1: 8, 2: 4, 4: 2, 8: 1}, 3, 2),
        ({1: 4, 2: 2, 4: 6}, 4, 2),
        ({1: 2, 2: 6, 4: 1}, 4, 1),  # a busy machine: what comes after is not tried
        ({1: 4, 2: 4}, 2, 1),
    ],
)
def test_the_quickest_number_of_threads(
    threads: None, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, int], most: int, wanted: int
) -> None:
    state, clock = Toy(torch.zeros(2), torch.ones(2)), [0.0]
    monkeypatch.setattr("thespis.engine.compile.time", types.SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(copy: Toy) -> None:
        copy.a.add_(torch.randn(2))
        clock[0] += milliseconds[torch.get_num_threads()] / 1000

    torch.manual_seed(0)
    assert fastest_threads(step, state, most, 0.01) == wanted
    assert state.a.tolist() == [0, 0]
    drawn = torch.randn(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.randn(1))


def test_the_choice_is_made_once_and_when_it_compiles(threads: None, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("thespis.engine.compile.fastest_threads", lambda step, state, most: asked.append(most) or 2)
    made = learner(walk, period=2)
    stepper = stepped(Stepper(made, made.init(), 12, lambda line: None, max_threads=4), 3)
    assert (asked, stepper.threads, torch.get_num_threads()) == ([], None, 1)
    stepped(stepper, 9)
    assert (asked, stepper.threads, torch.get_num_threads()) == ([4], 2, 1)  # chosen to be compiled for
    stepped(stepper, 1)
    assert (asked, stepper.threads, torch.get_num_threads()) == ([4], 2, 2)
    resumed = Stepper(made, made.init(), 0, lambda line: None, max_threads=4)
    resumed.threads = 3
    stepped(resumed, 1)
    assert (asked, resumed.threads, torch.get_num_threads()) == ([4], 3, 3)


def test_means_are_those_since_the_last_call() -> None:
    values = iter(range(1, 100))

    def update(s: Toy, b: Batch, k: int) -> tuple[Toy, Metrics]:
        x = torch.tensor(float(next(values)))
        return s, {"every": x, "again": x} | ({"second": 10 * x} if k == 1 else {})

    made = learner(update, 2)
    stepper = Stepper(made, made.init())
    assert stepper.means() == {}
    assert stepped(stepper, 5).means() == {"every": 3.0, "again": 3.0, "second": 30.0}  # 1..5, and of those 2 and 4
    assert stepped(stepper, 1).means() == {"every": 6.0, "again": 6.0, "second": 60.0}
    assert stepped(stepper, 1).means() == {"every": 7.0, "again": 7.0}
    assert stepper.means() == {}


def test_means_hold_no_view_of_what_changes() -> None:
    """A metric that is a tensor of the old state tells what that was."""

    def update(s: Toy, b: Batch, k: int) -> tuple[Toy, Metrics]:
        return replace(s, a=s.a + 1, b=torch.zeros(())), {"before": s.b}

    made = learner(update)
    stepper = Stepper(made, Toy(torch.zeros(2), torch.tensor(5.0)))
    stepper.step(batch())
    assert stepper.means() == {"before": 5.0}


PURE: dict[str, Callable[[Toy], Toy]] = {
    "a slow copy": lambda s: Toy(s.a + 1, s.a),  # b becomes what a was, as a target that is set once in a while
    "another slow copy": lambda s: Toy(s.b, s.b + 1),
    "a swap": lambda s: Toy(s.b, s.a),
    "one tensor twice": lambda s: (lambda x: Toy(x, x))(s.a + s.b),
    "nothing": lambda s: s,
}


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize("name", PURE)
def test_in_place_is_the_pure_update_where_old_tensors_pass_on(compiler: Compiler, name: str, traced: bool) -> None:
    pure = PURE[name]
    made, said = learner(lambda s, b, k: (pure(s), {})), []
    state = Toy(torch.tensor([1.0, 2.0]), torch.tensor([30.0, 40.0]))
    stepper = stepped(Stepper(made, state, 0 if traced else -1, said.append), 3)
    for _ in range(3):
        state = pure(state)
    assert not [line for line in said if "does not work" in line]
    for x, wanted in zip(leaves(stepper.state).values(), leaves(state).values(), strict=True):
        assert torch.equal(x, wanted)


def test_the_state_given_is_left_and_gradients_are_not_kept() -> None:
    given = Toy(torch.zeros(2, requires_grad=True), torch.ones(2))
    made = learner(walk)
    stepper = stepped(Stepper(made, given), 2)
    assert torch.equal(given.a, torch.zeros(2))
    assert not any(x.requires_grad for x in leaves(stepper.state).values())
    assert not torch.equal(tree_map(torch.clone, stepper.state).a, given.a)


# --------------------------------------------------------------------------------------------------------------- rollouts


def test_what_prepare_keeps_lies_where_it_lay_and_what_it_tells_is_the_mean_over_rollouts() -> None:
    def prepare(s: Toy, rollout: Batch) -> tuple[Toy, Batch, Metrics]:
        return Toy(s.b, s.a), replace(rollout, reward=rollout.reward + s.a[0]), {"first": s.a[0], "paid": rollout.reward.mean()}

    made = replace(learner(walk), prepare=prepare)
    stepper = Stepper(made, made.init())
    places = [x.data_ptr() for x in leaves(stepper.state).values()]
    assert stepper.prepare(batch(0.5)).reward.tolist() == [0.5] * 3
    assert (stepper.state.a.tolist(), stepper.state.b.tolist()) == ([1, 1], [0, 0])  # changed places
    assert stepper.prepare(batch(2.5)).reward.tolist() == [3.5] * 3
    assert (stepper.state.a.tolist(), stepper.state.b.tolist()) == ([0, 0], [1, 1])
    assert places == [x.data_ptr() for x in leaves(stepper.state).values()]
    stepper.step(batch())
    means = stepper.means()
    assert (means["first"], means["paid"], means["k"]) == (0.5, 1.5, 0)
    assert stepper.updates == 1
