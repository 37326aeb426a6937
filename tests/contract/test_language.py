"""What every algorithm of the language family keeps, found by walking its folder."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
import types
from collections import defaultdict
from typing import Any

import pytest
import torch
import tyro

import thespis.algos.language
from thespis import cli, config
from thespis.core import Box, Fault, Spec, leaves
from thespis.engine.language_run import LanguageRun
from thespis.engine.play import gathered, play
from thespis.engine.written import Book
from thespis.envs.text import text_world
from thespis.lm import Model, parse
from thespis.turns import Out, Paired, Played, TextLearner, TextSpec

ALGORITHMS = {
    entry.name: importlib.import_module(f"thespis.algos.language.{entry.name}")
    for entry in pkgutil.iter_modules(thespis.algos.language.__path__)
}
WORLD = text_world("thespis/Chains-v0", {"steps": 1})
QUICK = {"warmup": 0, "critic_updates": 2}
"""so that each part of an update does something, and no part much"""


def quick(cfg: Any) -> Any:
    return dataclasses.replace(cfg, **{k: v for k, v in QUICK.items() if hasattr(cfg, k)})


CASES = [(name, quick(m.Config())) for name, m in ALGORITHMS.items()]
CASES += [(name, quick(preset)) for name, m in ALGORITHMS.items() for preset in getattr(m, "PRESETS", {}).values()]


@pytest.fixture(params=sorted(ALGORITHMS))
def algo(request: pytest.FixtureRequest) -> types.ModuleType:
    return ALGORITHMS[request.param]


def tiny(part: int = 2**14) -> Model:
    torch.manual_seed(0)
    model = parse("tiny:dim=16,layers=1,heads=2,context=64").make()
    model.part = part
    return model


def given(learner: TextLearner, model: Model) -> Any:
    """What an update is given: episodes that it played, with rewards made up, or conversations."""
    if isinstance(learner.experience, Paired):
        pairs = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": "no" * (i % 3 + 1)} for i in range(6)]
        return Book(model.text, model.context, 0, None, pairs, True).batch(0, 6)
    if not isinstance(learner.experience, Played):
        columns = {k: 1.0 if math.isnan(x) else x for k, x in learner.experience.columns.items()}  # nan: a row must tell it
        return Book(model.text, model.context, 0, WORLD, None, columns=columns).batch(0, 6)
    envs = [WORLD.make() for _ in range(6)]
    turns = gathered(play(model, envs, [1, 2], 5, torch.Generator().manual_seed(0), group=3))
    return dataclasses.replace(turns, reward=torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]))


def test_header_and_options_tell_what_they_are(algo: types.ModuleType) -> None:
    text = inspect.cleandoc(algo.__doc__ or "").splitlines()
    assert text[0].endswith(".")
    for word in ("Paper:", "Parent:", "Departures:"):
        assert sum(line.startswith(word) and len(line) > len(word) + 1 for line in text) == 1, word
    body = next(n.body for n in ast.parse(inspect.getsource(algo)).body if isinstance(n, ast.ClassDef) and n.name == "Config")
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            assert isinstance(said, str), ast.unparse(node)
            assert len(said.split()) > 2, ast.unparse(node)


def test_configs_are_whole_and_go_through_command_line_and_json(algo: types.ModuleType) -> None:
    for cfg in (algo.Config(), *getattr(algo, "PRESETS", {}).values()):
        assert config.check(cfg) == cfg
        assert not {f.name for f in dataclasses.fields(cfg)} & {f.name for f in dataclasses.fields(LanguageRun)}
        assert config.build(algo.Config, json.loads(json.dumps(config.to_json(cfg)))) == cfg
        assert tyro.cli(algo.Config, args=[], default=cfg, registry=cli.TYPES) == cfg
    with pytest.raises(Fault):
        algo.make(algo.Config(), Spec(Box(3), Box(2)))


@pytest.mark.parametrize(("name", "cfg"), CASES)
def test_an_update_moves_its_models_alone_and_tells_finite_numbers(name: str, cfg: Any) -> None:
    learner, model = ALGORITHMS[name].make(cfg, TextSpec()), tiny()
    state, batch = learner.init(model), given(ALGORITHMS[name].make(cfg, TextSpec()), model)
    before = {k: x.clone() for k, x in leaves(state).items()}
    tokens = batch.tokens.clone()
    state, told = learner.update(state, batch)
    moved = {k for k, x in leaves(state).items() if not torch.equal(x, before[k])}
    assert any(k.startswith("policy.params.") for k in moved)
    assert not any(k.startswith("reference.") for k in moved), "a start that is held to stays"
    assert torch.equal(batch.tokens, tokens)
    assert learner.policy(state) is model
    for key, value in told.items():
        assert value.shape == (), key
        assert value.isfinite(), key


@pytest.mark.parametrize(("name", "cfg"), CASES)
def test_parts_change_nothing(name: str, cfg: Any) -> None:
    """Learnt from at once and row by row: the same numbers, to rounding."""
    models = [tiny(), tiny(part=1)]
    told = []
    for model in models:
        learner = ALGORITHMS[name].make(cfg, TextSpec())
        torch.manual_seed(1)
        told.append(learner.update(learner.init(model), given(learner, tiny()))[1])
    for key, value in told[0].items():
        torch.testing.assert_close(told[1][key], value, atol=1e-5, rtol=1e-3, msg=key)
    for key, m in models[0].m.items():
        torch.testing.assert_close(models[1].m[key], m, atol=1e-5, rtol=1e-2, msg=key)


def rows_of(x: torch.Tensor) -> Any:
    """Rows that have every column."""

    class All:
        tokens, mask = x.long(), x < 0

        def __getattr__(self, name: str) -> torch.Tensor:
            return x

    return All()


def test_a_loss_calls_no_model(algo: types.ModuleType) -> None:
    """It is given tensors alone, where there is nothing that could be called."""
    learner = algo.make(algo.Config(), TextSpec())
    x = torch.full((2, 3), -0.5)
    rows, heads = rows_of(x), defaultdict[str, Any](lambda: lambda hidden: hidden[..., :1])
    for loss in learner.losses.values():
        value, metrics = loss(
            Out(x.clone().requires_grad_(), rows, x[..., None], lambda hidden: hidden.repeat(1, 4), heads), rows
        )
        assert value.shape == ()
        assert all(m.shape == () for m in metrics.values())
