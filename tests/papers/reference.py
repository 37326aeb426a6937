"""What the papers' tests share: networks, densities and Adam in float64, without thespis and a row at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thespis.core import (
    Batch,
    Box,
    Discrete,
    Fault,
    Learner,
    MultiDiscrete,
    Params,
    Spec,
    Trained,
    leaves,
    rebuild,
    replace,
    tree_map,
)

OBS, ACTION, BATCH = 3, 2, 8
SPEC = Spec(Box(OBS), Box(ACTION))
F64 = torch.float64
Weights = dict[str, np.ndarray]
Activation = Callable[[np.ndarray], np.ndarray]


# --------------------------------------------------------------------------------------------------------- what is given


def double(node: Any) -> Any:
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, node)


def batch() -> Batch:
    """Transitions of which some are the last of an episode."""
    obs, next_obs, action = torch.randn(BATCH, OBS), torch.randn(BATCH, OBS), torch.rand(BATCH, ACTION) * 2 - 1
    return double(Batch(obs, action, torch.randn(BATCH), torch.tensor([0.99, 0.99, 0.0, 0.5]).repeat(2), next_obs))


def rollout(action: Tensor | None = None) -> Batch:
    """Four steps of two environments; one terminates, one is cut off."""
    b = batch()
    b.extra["ended"] = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    b.extra["return_std"] = torch.full((BATCH,), 2.5, dtype=F64)
    discount = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1], dtype=F64) * 0.99
    return tree_map(
        lambda x: x.unflatten(0, (4, 2)), replace(b, discount=discount, action=b.action if action is None else action)
    )


def rewarded(reward: Tensor, obs: Tensor, action: Tensor) -> Batch:
    """A rollout of one environment whose every step is an episode: its advantages are rewards less values."""
    rows = len(reward)
    extra = {"ended": torch.ones(rows, dtype=torch.bool)}
    return tree_map(lambda x: x[:, None], Batch(obs, action, reward, torch.zeros(rows, dtype=F64), obs, extra))


def aged(state: Any) -> Any:
    """In float64, seven steps into training: targets unlike what they copy, moments at work, a temperature of 0.3."""
    flat = leaves(double(state))
    for name, x in flat.items():
        if ".m." in name:
            flat[name] = 0.1 * torch.randn_like(x)
        elif ".v." in name:
            flat[name] = 0.01 * (0.1 + torch.rand_like(x))
        elif name.endswith(".t"):
            flat[name] = torch.full_like(x, 7)
        elif "target" in name:
            flat[name] = x + 0.3 * torch.randn_like(x)
        elif name == "log_alpha.params.x":
            flat[name] = torch.full_like(x, math.log(0.3))
    return rebuild(state, flat)


def draws(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """The normal numbers that follow a seed, in the order in which they are drawn."""
    torch.manual_seed(seed)
    return [torch.randn(*shape, dtype=F64).numpy() for shape in shapes]


def seeded(seed: int, function: Callable[..., Any], *args: Any) -> Any:
    torch.manual_seed(seed)
    return function(*args)


# -------------------------------------------------------------------------------------------------------- row by row


def weights(p: Params, member: int | None = None) -> Weights:
    return {k: (v if member is None else v[member]).numpy().copy() for k, v in p.items()}


def rows(b: Batch) -> Iterator[tuple[Any, ...]]:
    """(obs, action, reward, discount, next_obs) of each transition."""
    return zip(*(x.numpy() for x in (b.obs, b.action, b.reward, b.discount, b.next_obs)), strict=True)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def members(p: Params) -> list[Weights]:
    return [weights(p, i) for i in range(len(next(iter(p.values()))))]


def net(w: Weights, *x: np.ndarray, activation: Activation = relu) -> np.ndarray:
    y, last = np.concatenate(x), len(w) // 2 - 1
    for i in range(last):
        y = activation(y @ w[f"w{i}"] + w[f"b{i}"])
    return y @ w[f"w{last}"] + w[f"b{last}"]


def level(p: Params, activation: Activation = relu) -> None:
    """Shifts each member's outputs to mean zero over random inputs, so that no critic is always the least."""
    last = len(p) // 2 - 1
    x = torch.randn(200, p["w0"].shape[1], dtype=F64).numpy()
    for i, w in enumerate(members(p)):
        p[f"b{last}"][i] -= torch.as_tensor(np.mean([net(w, row, activation=activation) for row in x], 0))


def gaussian(w: Weights, obs: np.ndarray, high: float = 2, activation: Activation = relu) -> tuple[np.ndarray, np.ndarray]:
    mean, log_std = np.split(net(w, obs, activation=activation), 2)
    return mean, np.minimum(np.maximum(log_std, -20), high)


def tanh_net(w: Weights, x: np.ndarray) -> np.ndarray:
    return net({k: v for k, v in w.items() if k != "log_std"}, x, activation=np.tanh)


def density(w: Weights, obs: np.ndarray, action: np.ndarray) -> float:
    """log N(action; mean, e^log_std), the spread the same in every state."""
    spread = np.exp(w["log_std"])
    return float((-0.5 * ((action - tanh_net(w, obs)) / spread) ** 2 - np.log(spread) - 0.5 * np.log(2 * np.pi)).sum())


def spread_kl(w: Weights, w2: Weights, obs: np.ndarray) -> float:
    """KL(one || other) of two such Gaussians in one state."""
    one, two = np.exp(w["log_std"]), np.exp(w2["log_std"])
    apart = (tanh_net(w, obs) - tanh_net(w2, obs)) ** 2
    return float((np.log(two / one) + (one**2 + apart) / (2 * two**2) - 0.5).sum())


def mean_and_spread(w: Weights, obs: np.ndarray, action: np.ndarray) -> tuple[float, float]:
    """A critic's Gaussian over the return: the spread is log(1 + e^x)."""
    mean, raw = net(w, obs, action, activation=gelu)
    return mean, math.log1p(math.exp(raw))


def squash(mean: np.ndarray, log_std: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """A tanh-Gaussian action and its log-density, with 1 - tanh^2 = 1 / cosh^2."""
    u = mean + np.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return np.tanh(u), float((gaussian + 2 * np.log(np.cosh(u))).sum())


# ------------------------------------------------------------------------------------------------------------- slopes


def slope(f: Callable[[], float], x: np.ndarray, at: tuple[int, ...], h: float = 1e-6) -> float:
    """df/dx[at] by central differences."""
    keep = x[at]
    x[at] = keep + h
    up = f()
    x[at] = keep - h
    down = f()
    x[at] = keep
    return (up - down) / (2 * h)


def slopes(f: Callable[[], float], w: Weights) -> Weights:
    """The whole gradient, for small nets."""
    return {k: np.array([slope(f, x, at) for at in np.ndindex(x.shape)]).reshape(x.shape) for k, x in w.items()}


def assert_slopes(grads: Weights, w: Weights, f: Callable[[], float]) -> None:
    """The gradient at some entries of every parameter, the largest among them."""
    room = 1e-8 + 1e-8 * abs(f())  # what rounding of f leaves of a difference
    for name, g in grads.items():
        flat = np.abs(g).ravel()
        for at in {int(flat.argmax()), 0, flat.size - 1}:
            place = np.unravel_index(at, g.shape)
            assert g[place] == pytest.approx(slope(f, w[name], place), rel=1e-5, abs=room), (name, place)
        assert flat.max() > 1e-4, f"{name}: nothing to see"


def gradient(loss: Callable[..., Any], p: Params, *args: Any) -> Params:
    return torch.func.grad(loss, has_aux=True)(p, *args)[0]


# --------------------------------------------------------------------------------------------------- the order of steps


def shortened(grads: Params, most: float) -> Params:
    """All together no longer than `most`."""
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    assert norm > most, "nothing to shorten"
    return {k: g * most / (norm + 1e-6) for k, g in grads.items()}


def adam(group: Trained, grads: dict[str, Any], lr: float, eps: float = 1e-8, b1: float = 0.9) -> Trained:
    """Kingma & Ba 2015, algorithm 1, as printed."""
    t = float(group.t) + 1
    m, v, params = {}, {}, {}
    for k, g in grads.items():
        g = torch.as_tensor(g)
        m[k] = b1 * group.m[k] + (1 - b1) * g
        v[k] = 0.999 * group.v[k] + 0.001 * g**2
        params[k] = group.params[k] - lr * (m[k] / (1 - b1**t)) / ((v[k] / (1 - 0.999**t)) ** 0.5 + eps)
    return Trained(params, m, v, torch.tensor(t, dtype=F64))


def step(group: Trained, loss: Callable[..., Any], lr: float, *args: Any) -> tuple[Trained, dict[str, Tensor]]:
    """One step of Adam down a loss, and what the loss told."""
    grads, (_, told) = torch.func.grad_and_value(loss, has_aux=True)(group.params, *args)
    return adam(group, grads, lr), told


def mixed(slow: Params, fast: Params, tau: float) -> Params:
    return {k: (1 - tau) * slow[k] + tau * fast[k] for k in slow}


def moved(before: Any, after: Any) -> set[str]:
    """The fields of a State in which any number is another."""
    x, y = leaves(before), leaves(after)
    return {name.split(".")[0] for name in x if not torch.equal(x[name], y[name])}


def assert_same(ours: Any, wanted: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    x, y = leaves(ours), leaves(wanted)
    assert x.keys() == y.keys()
    for name in x:
        torch.testing.assert_close(x[name], y[name], rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


# ------------------------------------------------------------------------------------------------ what many papers promise


def assert_an_end_has_no_future(loss: Callable[..., Any], p: Params, s: Any, b: Batch) -> None:
    """At discount 0 the next observation has no say; elsewhere it has."""
    for discount, equal in ((0.0, True), (0.5, False)):
        one = replace(b, discount=torch.full((BATCH,), discount, dtype=F64))
        two = replace(one, next_obs=b.next_obs + 3)
        first, second = (float(seeded(1, loss, p, s, batch)[0]) for batch in (one, two))
        assert (first == pytest.approx(second, rel=1e-13)) == equal


def assert_acts_as_a_tanh_gaussian(made: Learner, s: Any, b: Batch, gaussian: Callable[..., Any]) -> None:
    (noise,) = draws(4, (BATCH, ACTION))
    explored, greedy = (seeded(4, made.act, made.policy(s), b.obs, explore) for explore in (True, False))
    for i, obs in enumerate(b.obs.numpy()):
        mean, log_std = gaussian(weights(s.actor.params), obs)
        np.testing.assert_allclose(explored[i].numpy(), squash(mean, log_std, noise[i])[0], rtol=1e-9)
        np.testing.assert_allclose(greedy[i].numpy(), np.tanh(mean), rtol=1e-9)


def assert_defaults(algo: ModuleType, **numbers: Any) -> None:
    cfg = algo.Config()
    assert {name: getattr(cfg, name) for name in numbers} == numbers


def assert_refuses(algo: ModuleType, kinds: str, *actions: Any) -> None:
    for action in actions:
        with pytest.raises(Fault) as fault:
            algo.make(algo.Config(), Spec(Box(OBS), action))
        name = algo.__name__.split(".")[-1]
        assert str(fault.value) == f"{name}: {kinds} are needed, the environment's are {action}"


def assert_refuses_choices(algo: ModuleType) -> None:
    assert_refuses(algo, "continuous actions (a Box)", Discrete(4), MultiDiscrete((2, 3)))


NARROW: dict[str, Any] = {"hidden": (24, 24), "lr": 1e-2, "gamma": 0.9, "tau": 0.2, "target_noise": 0.02}


def last_value(made: Learner) -> float:
    """The critics' mean after 300 updates on 400 rows whose actions are narrow. No return exceeds 10, the rewards' sum; of wider
    actions nothing is known, and a critic that is asked for them says whatever it extrapolates to."""
    torch.manual_seed(0)
    s, g, metrics = made.init(), torch.Generator().manual_seed(1), dict[str, Tensor]()
    obs, action = torch.randn(400, OBS, generator=g), 0.1 * torch.randn(400, ACTION, generator=g)
    data = Batch(obs, action, (8 * action.sum(-1)).clamp(-1, 1), torch.full((400,), 0.9), torch.randn(400, OBS, generator=g))
    if made.given:
        s = made.given(s, data)
    for i in range(300):
        row = torch.randint(400, (64,), generator=g)
        s, metrics = made.update(s, tree_map(lambda x, row=row: x[row], data), i % made.period)
    return float(metrics["q"])
