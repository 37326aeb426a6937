"""Residual networks against torch's own layers; norms that are kept; running statistics."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thespis.core import Params, Trained, leaves, rebuild
from thespis.nets import bottleneck, copies, simba
from thespis.nets.blocks import batch_normed, orthogonal, unit_norm
from thespis.optim import fresh

IN, HIDDEN, OUT, BLOCKS, ROWS = 5, 6, 3, 2, 11


def double(node: Any) -> Any:
    return rebuild(node, {k: x.double() for k, x in leaves(node).items()})


def moved(p: Params) -> Params:
    """Parameters as training may leave them."""
    return {k: x + 0.3 * torch.randn_like(x) for k, x in p.items()}


def linear(w: Tensor, b: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(*w.shape, bias=b is not None, dtype=w.dtype)
    layer.weight.data = w.T.clone()
    if b is not None:
        layer.bias.data = b.clone()
    return layer


def norm(kind: Any, p: Params, i: int | str, **options: Any) -> nn.Module:
    layer = kind(len(p[f"scale{i}"]), dtype=torch.float64, **options)
    layer.weight.data, layer.bias.data = p[f"scale{i}"].clone(), p[f"shift{i}"].clone()
    return layer


class Residual(nn.Module):
    def __init__(self, *inside: nn.Module):
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


def torchs_bottleneck(p: Params) -> nn.Sequential:
    batch = lambda i: norm(nn.BatchNorm1d, p, i, momentum=0.01)
    wide = lambda i: (linear(p[f"w{i}"]), batch(i), nn.ReLU())
    rms = nn.RMSNorm(HIDDEN, eps=1e-6, dtype=torch.float64)
    rms.weight.data = p["rms"].clone()
    blocks = [Residual(*wide(i), *wide(i + 1)) for i in range(1, 2 * BLOCKS, 2)]
    return nn.Sequential(batch(0), linear(p["w0"]), *blocks, rms, linear(p["head"], p["bias"]))


def running(module: nn.Module) -> Params:
    norms: list[Any] = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]
    return {"mean": torch.cat([m.running_mean for m in norms]), "var": torch.cat([m.running_var for m in norms])}


def drifting() -> Tensor:
    return torch.randn(ROWS, IN, dtype=torch.float64) * 3 + 2


# ------------------------------------------------------------------------------------------------------------ batch norm


def test_batch_norm_is_torchs_in_training_and_after() -> None:
    scale, shift = torch.randn(2, IN, dtype=torch.float64)
    for momentum, eps in ((0.01, 1e-5), (0.3, 0.1)):
        layer = nn.BatchNorm1d(IN, eps, momentum, dtype=torch.float64)
        layer.weight.data, layer.bias.data = scale, shift
        mean, var = torch.zeros(IN, dtype=torch.float64), torch.ones(IN, dtype=torch.float64)
        for train in (True, True, False, True, False):
            layer.train(train)
            x = drifting()
            y, mean, var = batch_normed(x, scale, shift, mean, var, train, momentum, eps)
            torch.testing.assert_close(y, layer(x))
            torch.testing.assert_close(mean, layer.running_mean)
            torch.testing.assert_close(var, layer.running_var)


def test_bottleneck_is_torchs_layers_one_by_one_with_their_statistics() -> None:
    net = bottleneck(IN, HIDDEN, OUT, BLOCKS)
    p, stats = moved(double(net.init())), double(net.stats())
    module = torchs_bottleneck(p)
    for _ in range(3):
        x, y = drifting(), drifting()
        module.train()
        both = module(torch.cat([x, y]))  # one batch of both: statistics are shared
        out, after, stats = net.train(p, stats, x, y)
        torch.testing.assert_close(torch.cat([out, after]), both)
        for name, value in running(module).items():
            torch.testing.assert_close(stats[name], value)
        module.eval()
        torch.testing.assert_close(net.apply(p, stats, x), module(x))


def test_apart_each_batch_has_its_own_statistics_and_the_first_ones_are_kept() -> None:
    net = bottleneck(IN, HIDDEN, OUT, BLOCKS, "apart")
    p, stats = moved(double(net.init())), double(net.stats())
    x, y = drifting(), drifting() * 4
    out, after, new = net.train(p, stats, x, y)
    module = torchs_bottleneck(p)
    torch.testing.assert_close(out, module(x))
    for name, value in running(module).items():
        torch.testing.assert_close(new[name], value)
    torch.testing.assert_close(after, module(y))


def test_without_batch_norm_rows_do_not_see_each_other() -> None:
    net = bottleneck(IN, HIDDEN, OUT, BLOCKS, "none")
    p, stats = moved(double(net.init())), net.stats()
    assert not any(name.startswith(("scale", "shift")) for name in p)
    assert [len(x) for x in stats.values()] == [0, 0]
    x, y = drifting(), drifting()
    out, after, new = net.train(p, stats, x, y)
    alone = torch.cat([net.apply(p, stats, row[None]) for row in x])
    torch.testing.assert_close(out, alone)
    torch.testing.assert_close(after, net.apply(p, new, y))
    flat = {"mean": torch.zeros(99), "var": torch.full((99,), 1 - 1e-5)}  # torch's, made to do nothing
    blank = p | {
        f"{k}{i}": torch.full((d,), float(k == "scale")).double() for i, d in widths().items() for k in ("scale", "shift")
    }
    module = torchs_bottleneck(blank).eval()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean, m.running_var = (v[: m.num_features].double() for v in flat.values())
    torch.testing.assert_close(out, module(x), rtol=1e-6, atol=1e-6)


def widths() -> dict[int, int]:
    return dict(enumerate([IN, *[4 * HIDDEN, HIDDEN] * BLOCKS]))


def test_copies_are_nets_of_their_own() -> None:
    net = bottleneck(IN, HIDDEN, OUT, BLOCKS)
    both = copies(net, 2)
    p, stats = moved(double(both.init())), double(both.stats())
    assert not torch.equal(p["w0"][0], p["w0"][1])
    x, y = drifting(), drifting()
    out, after, new = both.train(p, stats, x, y)
    later = both.apply(p, new, x)
    unit = both.unit(fresh(p)).params
    for i in range(2):
        member = {k: v[i] for k, v in p.items()}
        wanted = net.train(member, {k: v[i] for k, v in stats.items()}, x, y)
        torch.testing.assert_close((out[i], after[i], {k: v[i] for k, v in new.items()}), wanted)
        torch.testing.assert_close(later[i], net.apply(member, wanted[2], x))
        torch.testing.assert_close({k: v[i] for k, v in unit.items()}, net.unit(fresh(member)).params)


# ----------------------------------------------------------------------------------------------------------- norms that stay


def assert_unit(p: Params) -> None:
    """Weights into every unit at length 1, scale and shift together at sqrt(d), to 1e-6."""
    for name, x in p.items():
        if name == "head" or name[0] == "w":
            for column in x.flatten(0, -3).unbind() if x.dim() > 2 else [x]:
                for j in range(column.shape[1]):
                    assert math.sqrt(sum(v * v for v in column[:, j].tolist())) == pytest.approx(1, abs=1e-6), name
        elif name.startswith("scale") or name == "rms":
            shift = p.get("shift" + name.removeprefix("scale"), torch.zeros_like(x))
            assert float((x**2 + shift**2).sum(-1).sqrt().max()) == pytest.approx(math.sqrt(x.shape[-1]), rel=1e-6), name


def test_unit_norms_from_the_start_and_after_any_step() -> None:
    for net in (bottleneck(IN, HIDDEN, OUT, BLOCKS), copies(bottleneck(IN, HIDDEN, OUT, BLOCKS), 2)):
        p = net.init()
        assert_unit(p)
        wild = {k: x + 3 * torch.randn_like(x) for k, x in p.items()}
        group = Trained(wild, {"m": torch.ones(1)}, {"v": torch.ones(1)}, torch.tensor(7.0))
        after = net.unit(group)
        assert_unit(after.params)
        assert (after.m, after.v, after.t) == (group.m, group.v, group.t)  # the optimiser's moments stay
        assert torch.equal(after.params["bias"], wild["bias"])
        for name, x in after.params.items():  # directions stay
            ratio = x / wild[name]
            joint = ratio.amax(-2) / ratio.amin(-2) if name == "head" or name[0] == "w" else ratio.amax(-1) / ratio.amin(-1)
            torch.testing.assert_close(joint, torch.ones_like(joint), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(unit_norm(after.params), after.params)


def test_norms_are_free_where_they_are_to_be() -> None:
    net = bottleneck(IN, HIDDEN, OUT, BLOCKS, unit=False)
    group = fresh(moved(net.init()))
    assert net.unit(group) is group
    assert not torch.allclose(net.init()["w1"].norm(dim=0), torch.ones(4 * HIDDEN))  # wider out than in: shorter at first


@pytest.mark.parametrize(("fan_in", "fan_out"), [(7, 4), (4, 7), (5, 5)])
def test_orthogonal(fan_in: int, fan_out: int) -> None:
    p = double(orthogonal((fan_in, 6, fan_out), torch.tanh, 0.1).init())
    for w, gain in ((p["w0"], 2**0.5), (p["w1"], 0.1)):
        gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
        torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram), dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert (p["w0"].shape, p["w1"].shape) == ((fan_in, 6), (6, fan_out))
    assert not p["b0"].any()
    assert not p["b1"].any()


# ------------------------------------------------------------------------------------------------------------------- SimBa


def test_simba_is_torchs_layers_one_by_one() -> None:
    net = simba((IN, *[HIDDEN] * BLOCKS, OUT))
    p = moved(double(net.init()))
    layer = lambda i: norm(nn.LayerNorm, p, i, eps=1e-6)
    blocks = [
        Residual(layer(i), linear(p[f"w_up{i}"], p[f"b_up{i}"]), nn.ReLU(), linear(p[f"w_down{i}"], p[f"b_down{i}"]))
        for i in range(BLOCKS)
    ]
    module = nn.Sequential(linear(p["w_in"], p["b_in"]), *blocks, layer(""), linear(p["w_out"], p["b_out"]))
    x = drifting()
    torch.testing.assert_close(net.apply(p, x), module(x))


def test_simba_starts_as_its_authors_does() -> None:
    """Orthogonal first and last, He-normal between, wide by four, biases at 0."""
    p = simba((IN, 64, OUT)).init()
    torch.testing.assert_close(p["w_in"] @ p["w_in"].T, torch.eye(IN), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p["w_out"].T @ p["w_out"], torch.eye(OUT), rtol=1e-4, atol=1e-5)
    for name, fan_in, shape in (("w_up0", 64, (64, 256)), ("w_down0", 256, (256, 64))):
        assert p[name].shape == shape
        assert float(p[name].std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
    assert not any(bool(x.any()) for name, x in p.items() if name.startswith(("b_", "shift")))


# ---------------------------------------------------------------------------------------------------------------- transforms


@pytest.mark.parametrize("kind", ["shared", "apart", "none"])
def test_vmap_over_seeds_is_each_seed_by_itself(kind: Any) -> None:
    net = bottleneck(IN, HIDDEN, OUT, BLOCKS, kind)
    each = [(moved(double(net.init())), double(net.stats()), drifting(), drifting()) for _ in range(3)]
    stacked = [torch.utils._pytree.tree_map(lambda *x: torch.stack(x), *parts) for parts in zip(*each, strict=True)]
    got = torch.vmap(net.train)(*stacked)
    for i, args in enumerate(each):
        torch.testing.assert_close(torch.utils._pytree.tree_map(lambda x, i=i: x[i], got), net.train(*args))
    for a, b in itertools.combinations(range(3), 2):
        assert not torch.allclose(got[0][a], got[0][b])
