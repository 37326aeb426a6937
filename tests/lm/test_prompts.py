"""Soft prompts beside a frozen model, held to slow loops and to a layer by layer forward as the papers have it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import thespis
from thespis import language
from thespis.core import Fault
from thespis.engine.play import gathered, play
from thespis.envs.text import text_world
from thespis.lm import Model, Text, adapter, padded, parse, prompts
from thespis.turns import Out, Rows

NAMES = [
    "prompt:tokens=3",
    "dept:tokens=3,rank=2,length=4",
    "ept:tokens=3,rank=2,length=4,spaces=2,width=3",
    "iapt:tokens=2,width=3",
]
PROMPTS = [[65, 43, 66, 257], [65, 257], [65, 43, 66, 257], [66, 43, 67, 45, 68, 257]]


def made(name: str, seed: int = 0, temperature: float = 1.0) -> Model:
    """A small Llama with an adapter whose parameters are all away from where they begin."""
    torch.manual_seed(0)
    inner = parse("tiny:dim=16,layers=2,heads=2,context=64").make()
    torch.manual_seed(seed)
    sizes = adapter(name)
    model = Model(inner.module, inner.text, temperature=temperature, adapter=sizes.make(inner.module) if sizes else None)
    with torch.no_grad():
        for p in model.weights().values():
            p.add_(0.3 * torch.randn_like(p))
    return model


def rows_of(answers: list[Any], asked: list[list[int]] = PROMPTS) -> Rows:
    return padded([(p + t, [False] * len(p) + [True] * len(t)) for p, (t, _) in zip(asked, answers, strict=True)])


def loss(out: Out, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
    return -out.logp.sum(), {}


@torch.no_grad()
def plain(model: Model, tokens: list[int], asked: int) -> Tensor:
    """(T, V) log-probabilities by a forward without cache, padding or hooks: the papers' input, written out."""
    front, decoder = model.adapter, model.module.get_decoder()
    x = model.module.get_input_embeddings()(torch.tensor([tokens]))[0].detach()
    if isinstance(front, prompts.Front):
        soft, offsets = front.tables()
        for t in range(min(asked, len(offsets) if offsets is not None else 0)):
            assert offsets is not None
            x[t] += offsets[t].detach()
        hidden = decoder(inputs_embeds=torch.cat([soft, x])[None], use_cache=False).last_hidden_state[:, len(soft) :]
    else:
        h, count = x[None], front.sizes.tokens
        place = torch.tensor([[0] * count + list(range(count, count + len(tokens)))])
        look = torch.full((count + len(tokens),) * 2, -torch.inf).triu(1)  # each sees what is before it
        for i, layer in enumerate(decoder.layers):  # [P_i; h] goes in, and P_i is dropped
            p = front.prompts(i, h[:, :asked], torch.ones(1, asked, dtype=torch.bool))
            both = torch.cat([p, h], 1)
            look_ = torch.zeros_like(look) + look
            out = layer(both, attention_mask=look_[None, None], position_embeddings=decoder.rotary_emb(both, position_ids=place))
            h = out[:, count:]
        hidden = decoder.norm(h)
    return (model.module.get_output_embeddings()(hidden)[0] / model.temperature).log_softmax(-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_what_was_sampled_is_what_is_read_and_what_a_plain_forward_says(name: str, temperature: float) -> None:
    model = made(name, temperature=temperature)
    answers = model.sample(PROMPTS, 5, torch.Generator().manual_seed(3))
    assert answers[0] != answers[2], "the same prompt twice, and answers of their own"
    read = model.read(rows_of(answers))
    for r, (prompt, (tokens, logps)) in enumerate(zip(PROMPTS, answers, strict=True)):
        said = plain(model, prompt + tokens, len(prompt))
        for i, (token, logp) in enumerate(zip(tokens, logps, strict=True)):
            place = len(prompt) + i
            assert logp == pytest.approx(float(said[place - 1, token]), abs=2e-5)
            assert float(read[r, place]) == pytest.approx(float(said[place - 1, token]), abs=2e-5)
    bare = Model(model.module, Text(), temperature=temperature).read(rows_of(answers))
    assert float((bare - read).abs().max()) > 1e-2, "the prompt counts for something"


@pytest.mark.parametrize("name", NAMES)
def test_later_turns_are_read_as_they_were_sampled(name: str) -> None:
    model = made(name)
    envs = [text_world("thespis/KeyDoor-v0").make() for _ in range(3)]
    turns = gathered(play(model, envs, [1, 2, 3], 2, torch.Generator().manual_seed(0), longest=3))
    assert len(turns.row) > 3
    torch.testing.assert_close(model.read(turns.rows()), turns.logp, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_adapters_of_their_own_are_as_each_alone(name: str) -> None:
    """Also where the prompts are the same."""
    model, other = made(name), made(name, seed=5)
    mixed = model.sample(PROMPTS, 5, greedy=True, adapters=[(model, other)[i % 3 != 0].adapter for i in range(4)])
    alone = [m.sample(PROMPTS, 5, greedy=True) for m in (model, other)]
    for i, (tokens, logps) in enumerate(mixed):
        assert tokens == alone[i % 3 != 0][i][0]
        assert logps == pytest.approx(alone[i % 3 != 0][i][1], abs=2e-5)
    assert alone[0] != alone[1]
    with pytest.raises(Fault, match="one kind and one size"):
        model.sample(PROMPTS[:2], 1, adapters=[made(n).adapter for n in NAMES[:2]])


@pytest.mark.parametrize("name", NAMES)
def test_the_adapter_learns_alone(name: str) -> None:
    model = made(name)
    rows = rows_of(model.sample(PROMPTS, 5, torch.Generator().manual_seed(3)))
    before = {k: p.detach().clone() for k, p in model.params.items()}
    start = model.frozen()
    for _ in range(3):
        model.descend(loss, rows, 1e-2)
    moved = {k for k, p in model.params.items() if not torch.equal(p, before[k])}
    assert moved == model.weights().keys() == {k for k in before if k.startswith("adapter.")}
    assert float(model.read(rows).sum()) > float(start.read(rows).sum())
    start.follow(model)
    torch.testing.assert_close(start.read(rows), model.read(rows), atol=1e-5, rtol=0)
    assert model.context == 64 - model.adapter.sizes.tokens


def test_tables_are_those_of_slow_loops() -> None:
    """DePT's and EPT's, number by number in float64."""
    front = made(NAMES[2]).adapter
    soft, offsets = front.tables()
    P, A, B, D, U, W, b = (
        front.get_parameter(k).detach().double().numpy() for k in ("tokens", "a", "b", "down", "up", "gate.weight", "gate.bias")
    )
    (s, h), n, q = P.shape, len(A), D.shape[2]
    AB = np.array([[sum(A[i, r] * B[r, j] for r in range(2)) for j in range(h)] for i in range(n)])
    fused = P.copy()
    for i in range(s):
        score = np.array([sum(P[i, j] * AB[t, j] for j in range(h)) / h**0.5 for t in range(n)])
        share = np.exp(score) / np.exp(score).sum()
        fused[i] += sum(share[t] * AB[t] for t in range(n))
    logits = [sum(W[k, j] * fused[:, j].mean() for j in range(h)) + b[k] for k in range(2)]
    gate = np.exp(logits) / np.exp(logits).sum()
    wanted = fused.copy()
    for i in range(s):
        for k in range(2):
            inner = [np.tanh(sum(fused[i, j] * D[k, j, c] for j in range(h))) for c in range(q)]
            wanted[i] += gate[k] * np.array([sum(inner[c] * U[k, c, j] for c in range(q)) for j in range(h)])
    assert offsets is not None
    np.testing.assert_allclose(offsets.detach(), AB, atol=1e-5)
    np.testing.assert_allclose(soft.detach(), wanted, atol=1e-5)


def test_a_layers_prompts_are_those_of_slow_loops() -> None:
    front = made(NAMES[3]).adapter
    torch.manual_seed(2)
    x, asked = torch.randn(2, 5, 16), torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
    found = front.prompts(1, x, asked).detach()
    g = {k: p.detach().double().numpy() for k, p in front.named_parameters()}
    for r in range(2):
        z = []
        for t in range(5):
            h = x[r, t].double().numpy()
            z.append((h / np.sqrt((h**2).mean() + 1e-7)) @ g["down"] + g["low"][0])
        for i in range(2):
            score = {t: z[t] @ g["score"][1][:, i] for t in range(5) if asked[r, t]}
            total = sum(np.exp(v) for v in score.values())
            p = sum(np.exp(v) / total * z[t] for t, v in score.items())
            p = (p - p.mean()) / np.sqrt(p.var() + 1e-5)
            c = g["activation"][1]
            top, under = sum(c[j] * p**j for j in range(6)), 1 + abs(sum(c[5 + j] * p**j for j in range(1, 5)))
            np.testing.assert_allclose(found[r, i], top / under @ g["up"] + g["high"][0], atol=1e-4)


def test_limits() -> None:
    """EPT without spaces and offsets, and DePT without offsets, are prompt tuning; the activation begins as GELU."""
    front = {n.split(":")[0]: made(n).adapter for n in NAMES}
    for name in ("dept", "ept"):
        with torch.no_grad():
            front[name].b.zero_()
            if name == "ept":
                front[name].up.zero_()
        soft, offsets = front[name].tables()
        assert torch.equal(soft, front[name].tokens)
        assert offsets is not None
        assert not offsets.any()
    x = torch.linspace(-3, 3, 101)[None, None]
    torch.testing.assert_close(prompts.rational(x, torch.tensor(prompts.GELU)), torch.nn.functional.gelu(x), atol=2e-3, rtol=0)
    assert prompts.rational(1e3 * x, torch.tensor(prompts.GELU)).isfinite().all()


def test_parameters_are_as_many_as_the_papers_count() -> None:
    torch.manual_seed(0)
    module = parse("tiny:dim=64,layers=4").make().module

    def count(name: str) -> int:
        sizes = adapter(name)
        assert sizes
        return sum(p.numel() for p in sizes.make(module).parameters())

    assert count("prompt:tokens=20") == 20 * 64
    assert count("dept:tokens=6,rank=10,length=17") == 6 * 64 + 10 * (17 + 64)
    assert count("iapt:tokens=4,width=8") == 64 * 8 + 8 + 8 * 64 + 64 + 4 * 8 * 4 + 4 * 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return thespis.train(
        "sft",
        env="thespis/Chains-v0",
        out=tmp_path_factory.mktemp("base") / "run",
        steps=8,
        model="tiny:dim=16,layers=1",
        **QUICK,
    ).path


QUICK: dict[str, Any] = {
    "answer_tokens": 4, "eval_episodes": 2, "eval_samples": 1, "panel": False, "quiet": True, "sinks": (), "batch_size": 4,
    "env_args": ("steps=1",), "checkpoint_every": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", ["lora", *NAMES[2:]])
def test_a_run_beside_an_earlier_one_keeps_the_adapter_alone_and_goes_on_to_the_bit(
    name: str, base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    how = QUICK | {"model": str(base), "adapter": name, "env": "thespis/Chains-v0", "rank": 2}
    whole = thespis.train("sft", out=tmp_path / "whole", steps=24, **how)
    thespis.train("sft", out=tmp_path / "cut", steps=8, **how)
    torch.manual_seed(9)
    again = thespis.resume(tmp_path / "cut", steps=24, panel=False, quiet=True)
    a, b = (load_file(r.path / "policy" / "last.safetensors") for r in (whole, again))
    assert a.keys() == b.keys()
    assert all(torch.equal(x, b[k]) for k, x in a.items())
    assert all("lora_" in k or k.startswith("adapter.") for k in a)
    _, model, _ = language.writer(whole.path)
    frozen = load_file(base / "policy" / "last.safetensors")
    kept = {k.replace(".base_layer", ""): p for k, p in model.params.items()}
    assert all(torch.equal(x, kept[k]) for k, x in frozen.items() if k in kept)
    assert len(thespis.evaluate(whole, episodes=2)["returns"]) == 2
    more = thespis.train("sft", out=tmp_path / "more", steps=4, start_from=whole, **how | {"lr": 1e-12})
    for k, x in load_file(more.path / "policy" / "last.safetensors").items():
        torch.testing.assert_close(x, a[k], atol=1e-6, rtol=0)


def test_what_cannot_be_is_one_line(base: Path, tmp_path: Path) -> None:
    def refused(says: str, **how: Any) -> None:
        with pytest.raises(Fault, match=says) as told:
            thespis.train("sft", env="thespis/Chains-v0", out=tmp_path / "run", steps=4, **QUICK | {"model": str(base)} | how)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "run").exists()

    refused("adapter is 'soft'; allowed: none, lora, prompt", adapter="soft")
    refused("adapter: rank is not an option", adapter="prompt:rank=3")
    refused("adapter: tokens is 0", adapter="iapt:tokens=0")
    refused("trained whole", adapter="prompt", model="tiny")
    beside = thespis.train(
        "sft",
        env="thespis/Chains-v0",
        out=tmp_path / "beside",
        steps=4,
        **QUICK | {"model": str(base), "adapter": "prompt:tokens=2"},
    )
    refused("allowed: those of actors that write, trained whole", model=str(beside.path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_bytes((base / "config.json").read_bytes())
    refused("holds no policy yet", model=str(tmp_path / "empty"))
    (tmp_path / "empty" / "policy").mkdir()
    (tmp_path / "empty" / "policy" / "last.safetensors").write_bytes(b"x" * 99)
    refused("cannot be loaded", model=str(tmp_path / "empty"))
