"""Networks as functions against slow loops and torch.nn; the user's own modules and what forbids them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thespis.core import Box, Fault, Params, Spec
from thespis.nets import custom, ensemble, mlp, module

SIZES = (5, 7, 6, 2)


def by_hand(p: Params, x: Tensor, layers: int = 3) -> np.ndarray:
    """ReLU between linear layers, one number at a time, in float64."""
    rows = []
    for row in x.double().tolist():
        for i in range(layers):
            w, b = p[f"w{i}"].double().tolist(), p[f"b{i}"].double().tolist()
            row = [b[j] + sum(row[k] * w[k][j] for k in range(len(row))) for j in range(len(b))]
            row = [max(y, 0.0) for y in row] if i < layers - 1 else row
        rows.append(row)
    return np.array(rows)


def sequential(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    a, b, c, d = SIZES
    return nn.Sequential(nn.Linear(a, b), activation(), nn.Linear(b, c), activation(), nn.Linear(c, d))


def as_mlp(net: nn.Sequential) -> Params:
    """The weights of a Sequential as those of our mlp, which lie the other way round."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    weights = {f"w{i}": layer.weight.detach().T.clone() for i, layer in enumerate(linear)}
    return weights | {f"b{i}": layer.bias.detach().clone() for i, layer in enumerate(linear)}


def test_mlp_is_the_loop() -> None:
    net = mlp(SIZES)
    p, x = net.init(), torch.randn(9, 5) * 3
    np.testing.assert_allclose(net.apply(p, x).numpy(), by_hand(p, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("layer", "activation"), [(nn.ReLU, torch.relu), (nn.Tanh, torch.tanh), (nn.GELU, nn.functional.gelu)])
def test_mlp_is_torchs_with_the_same_weights(layer: type[nn.Module], activation: Callable[[Tensor], Tensor]) -> None:
    peer, x = sequential(layer), torch.randn(9, 5)
    torch.testing.assert_close(mlp(SIZES, activation).apply(as_mlp(peer), x), peer(x))


def test_mlp_without_a_hidden_layer_is_linear() -> None:
    net = mlp((3, 2))
    p, x = net.init(), torch.randn(4, 3)
    torch.testing.assert_close(net.apply(p, x), x @ p["w0"] + p["b0"])


@pytest.mark.parametrize("lead", [(), (1,), (4,), (3, 4), (2, 3, 4)])
def test_mlp_takes_any_leading_axes(lead: tuple[int, ...]) -> None:
    net = mlp(SIZES)
    p, x = net.init(), torch.randn(*lead, 5)
    got = net.apply(p, x)
    assert got.shape == (*lead, 2)
    np.testing.assert_allclose(got.reshape(-1, 2).numpy(), by_hand(p, x.reshape(-1, 5)), rtol=1e-5, atol=1e-6)


def test_mlp_starts_as_torchs_linear_does() -> None:
    """Weights and biases uniform within 1 / sqrt(inputs)."""
    p, peer = mlp((400, 300, 200)).init(), nn.Linear(400, 300)
    assert {k: tuple(v.shape) for k, v in p.items()} == {"w0": (400, 300), "b0": (300,), "w1": (300, 200), "b1": (200,)}
    for name, inputs in (("w0", 400), ("w1", 300), ("b0", 400), ("b1", 300)):
        x, bound = p[name], 1 / math.sqrt(inputs)
        assert float(x.abs().max()) <= bound
        assert float(x.abs().max()) > bound * (1 - 10 / x.numel())
        assert float(x.mean()) == pytest.approx(0, abs=5 * bound / math.sqrt(3 * x.numel()))
        assert float(x.abs().mean()) == pytest.approx(bound / 2, rel=5 / math.sqrt(3 * x.numel()))
    for ours, theirs in ((p["w0"], peer.weight), (p["b0"], peer.bias)):
        assert float(ours.std()) == pytest.approx(float(theirs.detach().std()), rel=0.1)


def test_mlp_starts_as_glorot_and_bengio_do() -> None:
    """Variance 2 / (inputs + outputs), as torch.nn.init.xavier_uniform_; biases 0."""
    p, peer = mlp((400, 300, 200), start="glorot").init(), nn.init.xavier_uniform_(torch.empty(400, 300))
    for w, variance in ((p["w0"], 2 / 700), (p["w1"], 2 / 500)):
        assert float(w.square().mean()) == pytest.approx(variance, rel=0.02)
        assert float(w.mean()) == pytest.approx(0, abs=5 * math.sqrt(variance / w.numel()))
        assert float(w.abs().max()) == pytest.approx(math.sqrt(3 * variance), rel=1e-3)  # uniform
    assert float(p["w0"].std()) == pytest.approx(float(peer.std()), rel=0.02)
    assert not any(bool(p[b].any()) for b in ("b0", "b1"))


def test_init_makes_new_parameters_each_time() -> None:
    for net in (mlp(SIZES), module(sequential, 5, 2), ensemble(mlp(SIZES), 2)):
        first, second = net.init(), net.init()
        assert not any(torch.equal(first[k], second[k]) for k in first)
        assert not {x.data_ptr() for x in first.values()} & {x.data_ptr() for x in second.values()}


# --------------------------------------------------------------------------------------------------------------- ensemble


@pytest.mark.parametrize("members", [1, 2, 4])
@pytest.mark.parametrize("single", [mlp(SIZES), module(sequential, 5, 2)], ids=["mlp", "own module"])
def test_a_member_is_the_single_net(single: object, members: int) -> None:
    net = ensemble(single, members)
    p, x = net.init(), torch.randn(4, 5)
    got = net.apply(p, x)
    assert got.shape == (members, 4, 2)
    for i in range(members):
        torch.testing.assert_close(got[i], single.apply({k: v[i] for k, v in p.items()}, x))


def test_members_differ() -> None:
    p = ensemble(mlp(SIZES), 3).init()
    for v in p.values():
        assert not torch.equal(v[0], v[1])
        assert not torch.equal(v[1], v[2])


@pytest.mark.parametrize("lead", [(), (4,), (3, 4), (2, 4)])
def test_ensemble_takes_any_leading_axes(lead: tuple[int, ...]) -> None:
    net = ensemble(mlp(SIZES), 2)
    p, x = net.init(), torch.randn(*lead, 5)
    got = net.apply(p, x)
    assert got.shape == (2, *lead, 2)
    for i in range(2):
        member = {k: v[i] for k, v in p.items()}
        np.testing.assert_allclose(got[i].reshape(-1, 2).numpy(), by_hand(member, x.reshape(-1, 5)), rtol=1e-5, atol=1e-6)


def test_a_members_gradient_is_its_own() -> None:
    net = ensemble(mlp(SIZES), 3)
    p, x = net.init(), torch.randn(4, 5)
    grads = torch.func.grad(lambda p: net.apply(p, x)[1].square().sum())(p)
    for name, g in grads.items():
        assert not g[0].any(), name
        assert not g[2].any(), name
    alone = torch.func.grad(lambda q: mlp(SIZES).apply(q, x).square().sum())({k: v[1] for k, v in p.items()})
    for name, g in alone.items():
        torch.testing.assert_close(grads[name][1], g)


# ----------------------------------------------------------------------------------------------------------- own modules


def test_own_module_is_the_mlp_with_the_same_weights() -> None:
    net, x = module(sequential, 5, 2), torch.randn(9, 5)
    p = net.init()
    peer = sequential()
    peer.load_state_dict(p)
    torch.testing.assert_close(net.apply(p, x), mlp(SIZES).apply(as_mlp(peer), x))


def test_own_modules_gradient_is_torchs() -> None:
    net, x = module(sequential, 5, 2), torch.randn(9, 5)
    p = net.init()
    peer = sequential()
    peer.load_state_dict(p)
    peer(x).square().sum().backward()
    grads = torch.func.grad(lambda p: net.apply(p, x).square().sum())(p)
    for name, wanted in peer.named_parameters():
        torch.testing.assert_close(grads[name], wanted.grad)


def test_own_is_built_from_the_spec_and_only_where_given() -> None:
    spec = Spec(Box(5), Box(2))
    assert custom(None, spec, 5, 2) is None
    seen: list[Spec] = []

    def build(spec: Spec) -> nn.Module:
        seen.append(spec)
        return nn.Linear(spec.obs.dim, spec.action.dim)

    net = custom(build, spec, 5, 2)
    assert net is not None
    assert set(net.init()) == {"weight", "bias"}
    assert set(seen) == {spec}


def test_a_module_with_buffers_is_refused() -> None:
    with pytest.raises(Fault) as fault:
        module(lambda: nn.Sequential(nn.Linear(5, 2), nn.BatchNorm1d(2)), 5, 2)
    assert str(fault.value) == (
        "Sequential has buffers (1.running_mean, 1.running_var, 1.num_batches_tracked): "
        "a module may hold parameters only, or state would change unseen"
    )


def test_a_module_of_another_output_is_refused() -> None:
    with pytest.raises(Fault) as fault:
        module(lambda: nn.Linear(5, 4), 5, 2)
    assert str(fault.value) == "Linear maps (3, 5) to (3, 4); allowed: (3, 2)"


class TwoArguments(nn.Module):
    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.cat([obs, action], -1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError


class Table(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, [7]]  # IndexError


@pytest.mark.parametrize(
    ("build", "start"),
    [
        (lambda: nn.Linear(4, 2), "Linear does not take (B, 5): mat1 and mat2 shapes cannot be multiplied"),
        (lambda: nn.Linear(5, 2, dtype=torch.float64), "Linear does not take (B, 5): "),
        (TwoArguments, "TwoArguments does not take (B, 5): "),
        (Silent, "Silent does not take (B, 5)"),
        (Table, "Table does not take (B, 5): "),
        (Pair, "Pair "),
    ],
    ids=["width", "dtype", "two arguments", "no words", "another error", "a pair"],
)
def test_a_module_of_another_input_is_refused_in_one_line(build: Callable[[], nn.Module], start: str) -> None:
    with pytest.raises(Fault) as fault:
        module(build, 5, 2)
    assert str(fault.value).startswith(start)
    assert "\n" not in str(fault.value)


def test_a_module_with_dropout_serves_as_a_member() -> None:
    """Noise is the caller's: with nothing dropped the members are the single net, with noise they differ."""
    quiet = ensemble(module(lambda: nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.0), nn.Linear(64, 2)), 5, 2), 2)
    p, x = quiet.init(), torch.randn(4, 5)
    noisy = ensemble(module(lambda: nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), nn.Linear(64, 2)), 5, 2), 2)
    one = {k: v[:1].expand_as(v) for k, v in p.items()}
    alike, apart = quiet.apply(one, x), noisy.apply(one, x)
    torch.testing.assert_close(alike[0], alike[1])
    assert not torch.equal(apart[0], apart[1])
