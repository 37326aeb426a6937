"""The calm perceptron against torch's own layers."""

import itertools

import torch
from torch import nn

from thespis import nets

SIZES = (5, 8, 7, 2)


def torchs(p, rate):
    layers = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(SIZES)):
        linear = nn.Linear(fan_in, fan_out)
        linear.weight.data, linear.bias.data = p[f"w{i}"].T.clone(), p[f"b{i}"].clone()
        layers.append(linear)
        if i < len(SIZES) - 2:
            norm = nn.LayerNorm(fan_out)
            norm.weight.data, norm.bias.data = p[f"scale{i}"].clone(), p[f"shift{i}"].clone()
            layers += [nn.Dropout(rate), norm, nn.ReLU()]
    return nn.Sequential(*layers)


def moved(p):
    return {k: v + 0.3 * torch.randn_like(v) for k, v in p.items()}


def test_it_is_torchs_with_the_same_weights():
    net, x = nets.normed(SIZES), torch.randn(11, 5)
    p = moved(net.init())
    torch.testing.assert_close(net.apply(p, x), torchs(p, 0.0)(x))


def test_with_dropout_it_is_torchs_with_the_same_draws():
    net, x = nets.normed(SIZES, 0.4), torch.randn(11, 5)
    p = moved(net.init())
    theirs = torchs(p, 0.4)
    torch.manual_seed(1)
    ours = net.apply(p, x)
    torch.manual_seed(1)
    torch.testing.assert_close(ours, theirs(x))
    assert not torch.equal(ours, net.apply(p, x))


def test_members_leave_out_other_units():
    net, x = nets.ensemble(nets.normed((5, 64, 1), 0.5), 2), torch.randn(3, 5)
    p = {k: v[:1].expand_as(v) for k, v in net.init().items()}
    one, two = net.apply(p, x)
    assert not torch.equal(one, two)


def test_norms_start_at_one_and_zero():
    p = nets.normed(SIZES).init()
    assert sorted(p) == ["b0", "b1", "b2", "scale0", "scale1", "shift0", "shift1", "w0", "w1", "w2"]
    assert all(bool((p[k] == (k[1] == "c")).all()) for k in p if k.startswith("s"))


def test_the_choice_by_name():
    x = torch.randn(4, 5)
    for kind, net in (("mlp", nets.mlp(SIZES)), ("normed", nets.normed(SIZES)), ("simba", nets.simba((5, 8, 8, 2)))):
        chosen = nets.layers(kind, (5, 8, 8, 2) if kind == "simba" else SIZES)
        p = net.init()
        assert {k: v.shape for k, v in chosen.init().items()} == {k: v.shape for k, v in p.items()}
        assert torch.equal(chosen.apply(p, x), net.apply(p, x))
    torch.manual_seed(0)
    p = nets.normed(SIZES).init()
    assert not torch.equal(nets.layers("normed", SIZES, 0.5).apply(p, x), nets.normed(SIZES).apply(p, x))
