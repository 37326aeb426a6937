"""bfloat16 products: what is rounded, and that nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.contract.test_contract import compiler
from thespis.algos.continuous import sac
from thespis.core import Batch, Box, Spec, leaves
from thespis.engine.bf16 import SMALLEST, Products, products
from thespis.engine.compile import Stepper
from thespis.engine.process import torch_settings
from thespis.engine.run import Run

HALF = 2.0**-8
"""bfloat16 has eight bits: what is rounded to it is off by this part of itself at most"""
known = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products")


def rounded(x: Tensor, y: Tensor) -> Tensor:
    """The product of factors in bfloat16, in float64."""
    return x.bfloat16().double() @ y.bfloat16().double()


def test_the_factors_and_the_result_of_a_large_product_are_rounded() -> None:
    x, y, more, bias = torch.randn(3, 64, 70), torch.randn(3, 70, 65), torch.randn(3, 64, 65), torch.randn(65)
    with Products():
        one, three, with_bias, all_with_more = x[0] @ y[0], x @ y, torch.addmm(bias, x[0], y[0]), torch.baddbmm(more, x, y)
    for product, wanted in ((one, rounded(x[0], y[0])), (three, rounded(x, y))):
        assert product.dtype == torch.float32
        assert torch.equal(product, product.bfloat16().float())
        torch.testing.assert_close(product.double(), wanted, rtol=HALF, atol=1e-5)
        assert (product - wanted).abs().max() > 1e-3  # it has been rounded
    assert torch.equal(with_bias, bias + one)  # a sum in float32
    assert torch.equal(all_with_more, more + three)


@pytest.mark.parametrize("shape", [(SMALLEST - 1, 256, 256), (256, SMALLEST - 1, 256), (256, 256, SMALLEST - 1)])
def test_a_small_product_and_all_else_are_as_without(shape: tuple[int, int, int]) -> None:
    rows, terms, columns = shape
    x, y = torch.randn(rows, terms), torch.randn(terms, columns)
    with Products():
        assert torch.equal(x @ y, x.clone() @ y)
        inside = [x @ y, x.double() @ y.double(), x.exp(), torch.addmm(torch.ones(columns), x, y, beta=0.5, alpha=2.0)]
    outside = [x @ y, x.double() @ y.double(), x.exp(), torch.addmm(torch.ones(columns), x, y, beta=0.5, alpha=2.0)]
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@known
def test_a_run_that_asks_for_them_has_them() -> None:
    """On this processor, whichever way it has them."""
    x, y = torch.randn(256, 256), torch.randn(256, 256)
    with torch_settings(Run(precision="bf16")), products(True) as ours:
        product = x @ y
    torch.testing.assert_close(product.double(), rounded(x, y), rtol=HALF if ours else 1e-5, atol=1e-4)  # torch leaves results
    assert (product - x @ y).abs().max() > 1e-2
    with products(False):
        assert torch.equal(x @ y, x.clone() @ y)


def test_without_the_instruction_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    x = torch.randn(100, 100)
    with products(True):
        assert torch.equal(x @ x, x.clone() @ x)


def test_with_amx_it_is_left_totorch_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda amx=amx: {"amx_bf16": amx})
        assert isinstance(products(True), Products) != amx


def stepped(bf16: bool, compile_after: int = -1) -> dict[str, Tensor]:
    """SAC's state after three updates whose products are large."""
    learner = sac.make(sac.Config(hidden=(96, 96)), Spec(Box(5), Box(2)))
    torch.manual_seed(0)
    stepper = Stepper(learner, learner.init(), compile_after, lambda line: None, bf16=bf16)
    x = torch.randn(128, 16)
    for _ in range(3):
        stepper.step(Batch(x[:, :5], x[:, 5:7].tanh(), x[:, 7], torch.full((128,), 0.99), x[:, 8:13]))
    assert stepper.compile_after == compile_after  # or the compiler did not take it
    return leaves(stepper.state)


@known
def test_an_update_has_them_and_keeps_float32() -> None:
    plain, ours = stepped(False), stepped(True)
    assert {x.dtype for x in ours.values()} == {torch.float32}
    off = (ours["critic.m.w1"] - plain["critic.m.w1"]).norm() / plain["critic.m.w1"].norm()
    assert HALF / 100 < off < 10 * HALF  # moments of gradients


@known
@pytest.mark.slow
@pytest.mark.skipif(not compiler(), reason="this machine has no C++ compiler")
def test_compiled_products_are_those_of_eager_mode() -> None:
    eager, compiled = stepped(True), stepped(True, 0)
    for name, x in eager.items():  # an order of sums may tip a rounding
        torch.testing.assert_close(compiled[name], x, rtol=2 * HALF, atol=2 * HALF * float(x.abs().max() + 1e-9), msg=name)
    assert not compiled["critic.m.w1"].equal(stepped(False)["critic.m.w1"])
