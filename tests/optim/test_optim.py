"""Steps of parameters against torch.optim, closed forms and slow loops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thespis.core import Metrics, Params, Trained, leaves, tree_map
from thespis.optim import adam, descend, fresh, polyak

SHAPES = {"w": (4, 3), "b": (3,), "x": (), "stack": (2, 4, 3)}


def randoms(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Params:
    return {k: torch.randn(shape, dtype=dtype) * scale for k, shape in SHAPES.items()}


def kept(*nodes: Any) -> Callable[[], None]:
    """A check that no tensor of these changed in place."""
    before = [{k: v.clone() for k, v in leaves(n).items()} for n in nodes]

    def check() -> None:
        for node, old in zip(nodes, before, strict=True):
            for name, x in leaves(node).items():
                assert torch.equal(x, old[name]), name

    return check


@pytest.mark.parametrize("numbers", [
    {"lr": 3e-4},
    {"lr": 0.1},
    {"lr": 1e-3, "betas": (0.5, 0.9)},
    {"lr": 1e-3, "betas": (0.0, 0.99)},
    {"lr": 1e-2, "eps": 0.1},
    {"lr": 1e-2, "decay": 0.3},
])  # fmt: skip
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_adam_is_torchs(dtype: torch.dtype, rel: float, numbers: dict[str, Any]) -> None:
    ours = tree_map(lambda x: x.to(dtype), fresh(randoms(dtype)))
    start = {k: p.clone() for k, p in ours.params.items()}
    theirs = {k: p.clone().requires_grad_() for k, p in ours.params.items()}
    named = {"weight_decay" if name == "decay" else name: x for name, x in numbers.items()}
    peer = (torch.optim.AdamW if "decay" in numbers else torch.optim.Adam)(theirs.values(), **named)
    for step in range(15):
        grads = randoms(dtype, 10.0 ** (step % 5 - 2))  # of very different sizes
        ours = adam(ours, grads, **numbers)
        for k, p in theirs.items():
            p.grad = grads[k].clone()
        peer.step()
        for k, p in theirs.items():
            moved, wanted = ours.params[k] - start[k], p.detach() - start[k]
            room = 15 * torch.finfo(dtype).eps * float(p.detach().abs().max())  # what rounding of p itself hides
            torch.testing.assert_close(moved, wanted, rtol=rel, atol=rel * numbers["lr"] + room)
    assert float(ours.t) == 15
    for k, p in theirs.items():
        torch.testing.assert_close(ours.m[k], peer.state[p]["exp_avg"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.v[k], peer.state[p]["exp_avg_sq"], rtol=1e-5, atol=1e-6)


def test_the_first_steps_are_as_long_as_the_step_size() -> None:
    """With one gradient g again and again, m / (1 - b1^t) = g and v / (1 - b2^t) = g^2: every step is lr * sign(g)."""
    group = fresh({"x": torch.zeros((), dtype=torch.float64)})
    for t in range(1, 200):
        group = adam(group, {"x": torch.tensor(-7.0, dtype=torch.float64)}, lr=0.01)
        assert float(group.params["x"]) == pytest.approx(0.01 * t, rel=1e-6)


def test_adam_late_in_a_run() -> None:
    """After 2^24 steps float32 counts no further; the bias corrections are 1 by then."""
    t = torch.tensor(2.0**24)
    group = Trained({"x": torch.tensor(1.0)}, {"x": torch.tensor(0.5)}, {"x": torch.tensor(0.25)}, t)
    after = adam(group, {"x": torch.tensor(0.5)}, lr=0.1)
    m, v = 0.5, 0.999 * 0.25 + 0.001 * 0.25
    assert float(after.params["x"]) == pytest.approx(1 - 0.1 * m / v**0.5, rel=1e-6)


def test_adam_leaves_its_input() -> None:
    group, grads = fresh(randoms()), randoms()
    check = kept(group, grads)
    after = adam(group, grads, 0.1)
    check()
    assert not {x.data_ptr() for x in leaves(after).values()} & {x.data_ptr() for x in leaves(group).values()}


def test_fresh_moments_are_zero_and_apart() -> None:
    group = fresh(randoms())
    for k, p in group.params.items():
        for moment in (group.m[k], group.v[k]):
            assert torch.equal(moment, torch.zeros_like(p))
    assert float(group.t) == 0
    assert len({x.data_ptr() for x in leaves(group).values()}) == 3 * len(SHAPES) + 1


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.3, 1.0])
def test_polyak_after_n_steps(tau: float) -> None:
    """Towards a point that stands still, the distance shrinks by (1 - tau)^n."""
    target, params = randoms(torch.float64), randoms(torch.float64)
    first = target
    for _ in range(20):
        target = polyak(target, params, tau)
    for k, p in params.items():
        torch.testing.assert_close(target[k], p + (1 - tau) ** 20 * (first[k] - p), rtol=1e-12, atol=1e-12)


def test_polyak_leaves_its_input() -> None:
    target, params = randoms(), randoms()
    check = kept(target, params)
    polyak(target, params, 0.5)
    check()


def bowl(p: Params, centre: Trained, width: Tensor) -> tuple[Tensor, Metrics]:
    """Half the squared distance from another group's parameters: the gradient in p is width * (p - centre)."""
    far = sum(((p[k] - centre.params[k]) ** 2).sum() for k in p)
    return 0.5 * width * far, {"far": far, "width": 2 * width}


def test_descend_is_one_step_of_adam_down_the_known_gradient() -> None:
    group, centre, width = fresh(randoms()), fresh(randoms()), torch.tensor(3.0)
    after, metrics = descend(group, bowl, 0.01, centre, width)
    grads = {k: width * (group.params[k] - centre.params[k]) for k in SHAPES}
    wanted = adam(group, grads, 0.01)
    for (name, x), y in zip(leaves(after).items(), leaves(wanted).values(), strict=True):
        torch.testing.assert_close(x, y, msg=name)
    assert float(bowl(after.params, centre, width)[0]) < float(metrics["bowl"])


def test_descend_hands_on_what_is_adams() -> None:
    group, centre = fresh(randoms()), fresh(randoms())
    after, _ = descend(group, bowl, 0.01, centre, torch.tensor(3.0), eps=0.5, decay=0.2, betas=(0.5, 0.9))
    grads = {k: 3.0 * (group.params[k] - centre.params[k]) for k in SHAPES}
    wanted = adam(group, grads, 0.01, (0.5, 0.9), eps=0.5, decay=0.2)
    for (name, x), y in zip(leaves(after).items(), leaves(wanted).values(), strict=True):
        torch.testing.assert_close(x, y, msg=name)


def test_descend_tells_the_loss_by_its_name_and_detached() -> None:
    group, centre = fresh(randoms()), fresh(randoms())
    width = torch.tensor(3.0, requires_grad=True)
    _, metrics = descend(group, bowl, 0.01, centre, width)
    far = sum(float(((group.params[k] - centre.params[k]) ** 2).sum()) for k in SHAPES)
    assert set(metrics) == {"bowl", "far", "width"}
    assert float(metrics["far"]) == pytest.approx(far, rel=1e-5)
    assert float(metrics["bowl"]) == pytest.approx(1.5 * far, rel=1e-5)
    assert not any(m.requires_grad for m in metrics.values())


@pytest.mark.parametrize("every", [1, 3])
def test_descend_with_a_schedule_is_torchs_adam_with_its_scheduler(every: int) -> None:
    """A group that steps in every third update is told of the others by `clock`. The rate is told as a metric, by the loss."""

    def schedule(t: Tensor) -> Tensor:
        return 0.1 * (1 - t / 40)

    def critic_loss(p: Params) -> tuple[Tensor, Metrics]:
        return sum((p[k] ** 2).sum() for k in p), {}

    ours = tree_map(torch.Tensor.double, fresh(randoms()))
    theirs = {k: p.clone().requires_grad_() for k, p in ours.params.items()}
    peer = torch.optim.Adam(theirs.values(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(peer, lambda t: 1 - t / 40)
    for t in range(30):
        if t % every == 0:
            clock = None if every == 1 else torch.tensor(float(t), dtype=torch.float64)
            ours, metrics = descend(ours, critic_loss, schedule, clock=clock)
            assert set(metrics) == {"critic_loss", "critic_lr"}
            assert float(metrics["critic_lr"]) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
            peer.zero_grad()
            sum((p**2).sum() for p in theirs.values()).backward()
            peer.step()
        scheduler.step()
    for k, p in theirs.items():
        torch.testing.assert_close(ours.params[k], p.detach(), rtol=1e-10, atol=1e-12)


def test_descend_changes_nothing_that_it_was_given() -> None:
    group, centre, width = fresh(randoms()), fresh(randoms()), torch.tensor(3.0)
    check = kept(group, centre, width)
    descend(group, bowl, 0.01, centre, width)
    check()
    assert all(p.grad is None for p in (*group.params.values(), *centre.params.values(), width))


def test_descend_sees_the_first_argument_alone() -> None:
    """The same parameters, met again among the other arguments, are numbers: d(x y)/dx at y = x is x, not 2 x."""
    group = fresh({"x": torch.tensor(5.0)})

    def loss(p: Params, again: Trained) -> tuple[Tensor, Metrics]:
        return p["x"] * again.params["x"], {}

    after, _ = descend(group, loss, 0.01, group)
    assert float(after.m["x"]) == pytest.approx(0.1 * 5, rel=1e-6)  # m = (1 - b1) g


@pytest.mark.parametrize(("max_norm", "shortened"), [(0.5, True), (1e6, False)])
def test_a_gradient_is_shortened_as_torch_does(max_norm: float, shortened: bool) -> None:
    start = randoms()
    pull = randoms()

    def loss(p: Params) -> tuple[Tensor, Metrics]:
        return torch.stack([(p[k] * pull[k]).sum() for k in p]).sum(), {}

    theirs = {k: p.clone().requires_grad_() for k, p in start.items()}
    loss(theirs)[0].backward()
    length = torch.nn.utils.clip_grad_norm_(list(theirs.values()), max_norm)
    assert (float(length) > max_norm) == shortened
    ours, _ = descend(fresh(start), loss, 1e-3, max_norm=max_norm)
    wanted = adam(fresh(start), {k: p.grad for k, p in theirs.items()}, 1e-3)
    for k, p in ours.m.items():
        torch.testing.assert_close(p, wanted.m[k])
        torch.testing.assert_close(ours.params[k], wanted.params[k])
