"""What every algorithm keeps, found by walking thespis/algos: a new file is held to it without a line here."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from itertools import compress
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
import tyro
from safetensors.torch import load, save
from torch import Tensor
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

import thespis.algos
from thespis import cli, config, ops
from thespis.core import Batch, Box, Discrete, Fault, Learner, Mixed, MultiDiscrete, Spec, leaves, rebuild, tree_map
from thespis.data import Segments, Sequences
from thespis.engine import build
from thespis.engine.act import Actor
from thespis.engine.compile import Stepper
from thespis.engine.run import Run
from thespis.engine.tape import record

ALGORITHMS = {
    entry.name: importlib.import_module(f"thespis.algos.{family.name}.{entry.name}")
    for family in pkgutil.iter_modules(thespis.algos.__path__)
    if family.name != "language"  # whose own contract is test_language.py
    for entry in pkgutil.iter_modules(importlib.import_module(f"thespis.algos.{family.name}").__path__)
}
WORLDS = [
    Spec(Box(228), Box(2), images=((1, 226),), shapes=((15, 15),)),
    Spec(Box(256), Discrete(4), images=((0, 256),), shapes=((16, 16),)),
    Spec(Box(8), Discrete(4), rewards=("delay", "energy"), horizon=3),
    Spec(Box(8), Mixed(2, (2, 3)), mask=5), Spec(Box(3), Box(2)), Spec(Box(7), Discrete(4), horizon=3, mask=4),
    Spec(Box(3), MultiDiscrete((2, 3))), Spec(Box(3), Box(2), rewards=("fitness", "x", "y"), horizon=3),
    Spec(Box(5), Discrete(4), context=6, levels=(4, 4, 4, 4, 9, 9)),
]  # fmt: skip
ROWS = 6


@pytest.fixture(params=sorted(ALGORITHMS))
def algo(request: pytest.FixtureRequest) -> types.ModuleType:
    return ALGORITHMS[request.param]


def small(algo: types.ModuleType, given: Any = None) -> Any:
    """Its Config, or the one that is given, with tiny nets."""
    given = given or algo.Config()
    sizes = {"hidden": (8,), "critic_hidden": (8,), "burn_in": 1, "length": 2, "ask_every": 3, "blocks": 1}
    sizes |= {"offspring": 2, "genetic": 1, "gradient": 1, "asked": 1, "cells": 60, "critic_steps": 2, "variation_steps": 2}
    sizes |= {"vae_steps": 2}
    sizes = {name: size for name, size in sizes.items() if isinstance(getattr(given, name, None), type(size))}
    return dataclasses.replace(given, **sizes)


def made(algo: types.ModuleType, cfg: Any = None) -> tuple[Learner, Spec]:
    """A learner in the first world that it is for; the richest comes first."""
    for spec in WORLDS:
        if spec.mask and "mask" not in getattr(algo, "TAKES", ()):
            spec = spec._replace(mask=0)  # it is told nothing of masks
        if spec.images and "images" not in getattr(algo, "TAKES", ()):
            continue
        if len(spec.rewards) > 1 and "rewards" not in getattr(algo, "TAKES", ()):
            continue
        try:
            learner = algo.make(cfg or small(algo), spec)
        except Fault:
            continue
        with torch.random.fork_rng(), torch.device("meta"):  # as it is shown the world
            more = learner.context(learner.init(), 1, False).shape[1] if learner.context and not spec.context else 0
        return learner, spec._replace(obs=Box(spec.obs.dim + more))
    raise AssertionError("it is for none of the worlds here")


def batch(learner: Learner, spec: Spec, seed: int) -> Batch:
    """What an update is given. On-policy: rows that some fresh state has prepared."""
    if learner.prepare:
        with torch.random.fork_rng(), torch.no_grad():
            return learner.prepare(seeded(seed, learner.init), rollout(learner, spec, seed))[1]
    if isinstance(feed := learner.experience, Sequences):  # the first begins with its episode
        flat = rows(learner, spec, seed)
        many = tree_map(lambda x: x.expand(feed.burn_in + feed.length, *x.shape).transpose(0, 1).clone(), flat)
        many.extra["valid"] = torch.arange(ROWS)[:, None] + torch.arange(feed.burn_in + feed.length) >= feed.burn_in
        many.extra["hidden"] = torch.randn(ROWS, feed.memory, generator=torch.Generator().manual_seed(seed))
        return many
    return rows(learner, spec, seed)


def rollout(learner: Learner, spec: Spec, seed: int) -> Batch:
    """Three steps, or six that are cut in pieces, of two environments, or of as many as it has policies; of each an episode ends
    in the middle."""
    cut = isinstance(learner.experience, Segments)
    count = 6 if cut else 3
    envs = getattr(learner.experience, "policies", 0) or 2
    flat = rows(learner, spec, seed, count * envs)
    if cut:
        flat.extra["hidden"] = torch.randn(count * envs, learner.experience.memory, generator=torch.Generator().manual_seed(seed))
    flat.extra["ended"] = torch.tensor([False, True, True, False, False, False]).repeat(2 * envs)[: count * envs]
    return tree_map(lambda x: x.unflatten(0, (count, envs)), flat)


def rows(learner: Learner, spec: Spec, seed: int, count: int = ROWS) -> Batch:
    g = torch.Generator().manual_seed(1000 + seed)
    obs, next_obs = (observations(spec, count, g) for _ in range(2))
    dim, ns = ops.sizes(spec.action)
    chance = (ops.allowed(spec, obs) if spec.mask else torch.ones(count, sum(ns))).float()
    choices = [part.multinomial(1, generator=g)[:, 0] for part in chance.split(ns, -1)] if ns else []
    action = ops.joined(spec.action, torch.rand(count, dim, generator=g) * 2 - 1, choices)
    discount = torch.tensor([0.99, 0.0, 0.9]).repeat(count // 3)
    columns = {
        "previous": {"previous": action.flip(0)},
        "return_scale": {"return_std": torch.full((count,), 1.5), "return_max": torch.full((count,), 6.0)},
        "demo": {"demo": torch.tensor([1.0, 0.0]).repeat(count // 2)},
    }
    extra = {k: v for need in sorted(learner.needs) for k, v in columns[need].items()}
    several = ops.reward_shape(spec)
    discount = discount[:, None].expand(count, *several) if several else discount
    return Batch(obs, action, torch.randn(count, *several, generator=g), discount, next_obs, extra)


def recorded(learner: Learner, spec: Spec) -> Batch:
    """A dataset, as it is given."""
    extra = {"episode_return": torch.tensor([1.0, 1.0, 1.0, 4.0, 4.0, 4.0]), "context": torch.eye(ROWS)[:, : spec.context]}
    return dataclasses.replace(rows(learner, spec, 0), extra=extra)


def observations(spec: Spec, rows: int, g: torch.Generator | None = None) -> Tensor:
    """Random ones; of each choice at least the first is allowed."""
    obs = torch.randn(rows, spec.obs.dim, generator=g)
    if spec.mask:
        obs[:, -spec.mask :] = (obs[:, -spec.mask :] > 0).float()
        for first in np.cumsum([0, *ops.sizes(spec.action)[1]])[:-1]:
            obs[:, spec.obs.dim - spec.mask + first] = 1
    return obs


def steps(learner: Learner, spec: Spec, state: Any, first: int, stop: int) -> tuple[Any, list[dict[str, Tensor]]]:
    """The updates first <= i < stop, as the engine numbers them, without its help."""
    said = []
    with torch.no_grad():
        for i in range(first, stop):
            given, told = batch(learner, spec, i), {}
            if learner.prepare:
                state, given, told = learner.prepare(state, rollout(learner, spec, i))
            state, metrics = learner.update(state, given, i % learner.period)
            assert not told.keys() & metrics.keys(), "one name, two numbers"
            said.append(told | metrics)
    return state, said


def draws_nothing(learner: Learner) -> bool:
    """A table that begins empty: its numbers come from steps alone."""
    one, two = (seeded(seed, learner.init) for seed in (3, 4))
    return not differing(one, two) and not any(".params." in name for name in leaves(one))


def seeded(seed: int, init: Callable[[], Any]) -> Any:
    torch.manual_seed(seed)
    return init()


def differing(a: Any, b: Any) -> list[str]:
    """The leaves that are not the same to the bit."""
    x, y = leaves(a), leaves(b)
    assert list(x) == list(y)
    return [name for name in x if x[name].dtype != y[name].dtype or not torch.equal(x[name], y[name])]


def assert_close(a: Any, b: Any, rtol: float, atol: float, loose: float = 1.0) -> None:
    """`loose`: what rtol is multiplied by for Adam's means of gradients."""
    x, y = leaves(a), leaves(b)
    assert list(x) == list(y)
    for name in x:
        r = loose * rtol if {"m", "v"} & set(name.split(".")) else rtol
        torch.testing.assert_close(x[name], y[name], rtol=r, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


# ----------------------------------------------------------------------------------------------------------- what it tells


def test_there_are_algorithms() -> None:
    assert "sac" in ALGORITHMS


def test_header_names_paper_parent_and_departures(algo: types.ModuleType) -> None:
    lines = inspect.cleandoc(algo.__doc__ or "").splitlines()
    assert lines[0].endswith("."), "the first line says what it is, in a sentence"
    for word in ("Paper:", "Parent:", "Departures:"):
        told = [line.removeprefix(word).strip() for line in lines if line.startswith(word)]
        assert len(told) == 1, word
        assert told[0], word
    assert "REPLACE" not in (algo.__doc__ or "")


def test_every_option_tells_what_it_is(algo: types.ModuleType) -> None:
    tree = ast.parse(inspect.getsource(algo))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config")
    named = [n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    assert named == [f.name for f in dataclasses.fields(algo.Config)]
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            assert isinstance(told, str), ast.unparse(node)
            assert len(told.split()) > 2, ast.unparse(node)


def test_declares_what_it_must(algo: types.ModuleType) -> None:
    cfg = algo.Config()
    assert config.check(cfg) == cfg
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cfg, dataclasses.fields(cfg)[0].name, 1)
    twice = {f.name for f in dataclasses.fields(cfg)} & {f.name for f in dataclasses.fields(Run)}
    assert twice <= {"normalise_obs", "normalise_reward"}, "one name, two options"  # of these two the algorithm's own counts
    learner, _ = made(algo)
    assert isinstance(learner.init(), algo.State)
    assert learner.period >= 1


def test_presets_are_whole_configs_each_known_by_a_name_of_its_own(algo: types.ModuleType) -> None:
    known = thespis.algorithms()
    for name, preset in getattr(algo, "PRESETS", {}).items():
        assert name not in ALGORITHMS
        assert sum(name in getattr(m, "PRESETS", {}) for m in ALGORITHMS.values()) == 1
        assert type(preset) is algo.Config
        assert config.check(preset) == preset != algo.Config()
        assert (known[name].module, known[name].config) == (algo, preset)
        learner, spec = made(algo, small(algo, preset))
        state = learner.init()
        assert differing(state, steps(learner, spec, state, 0, learner.period)[0])


def other(hint: Any, value: Any) -> list[Any]:
    """Values of another kind than the default's; those out of range are for the caller to pass over."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return other(args[0], value)
    if origin in (typing.Union, types.UnionType):
        if config.Schedule in args:
            return [config.Schedule(text) for text in ("linear:0.1:0.02:warmup=0.25", "cosine:1e-3:updates=40")]
        inner = next(a for a in args if a is not type(None))
        return other(inner, value) if value is None else [None]
    if origin is Literal:
        return [a for a in args if a != value]
    if origin is tuple:
        lists = [other(a, 0) for a in ([args[0]] * 3 if args[-1] is Ellipsis else args)]
        return [tuple(x) for x in zip(*lists, strict=False)]
    words = ["other", "operator:lt", "energy"]
    return {float: [0.1 + 0.2, 1 / 3 - 2, 1e-17, 7.5], int: [3, 7, 0], str: words, bool: [not value]}[hint]


def changed(algo: types.ModuleType) -> Any:
    """Its Config with no field at its default."""
    cfg = algo.Config()
    for name, hint in typing.get_type_hints(algo.Config, include_extras=True).items():
        for value in other(hint, getattr(cfg, name)):
            try:
                new = config.check(dataclasses.replace(cfg, **{name: value}))
                made(algo, new)
            except (Fault, AssertionError):  # out of range, or at odds with what was changed before it
                continue
            if getattr(new, name) != getattr(cfg, name):
                cfg = new
                break
        else:
            raise AssertionError(f"no second value for {name}")
    return cfg


def strings(cfg: Any) -> list[str]:
    """A Config as a person types it."""
    args = []
    for f in dataclasses.fields(cfg):
        value, name = getattr(cfg, f.name), f.name.replace("_", "-")
        if isinstance(value, bool):
            args.append(f"--{'' if value else 'no-'}{name}")
        else:
            args += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return args


@pytest.mark.parametrize("of", [lambda algo: algo.Config(), changed], ids=["defaults", "no default"])
def test_config_through_command_line_and_json_is_the_identity(algo: types.ModuleType, of: Callable[..., Any]) -> None:
    cfg = of(algo)
    typed = tyro.cli(algo.Config, args=strings(cfg), registry=cli.TYPES)
    assert config.check(typed) == cfg
    text = json.dumps(config.to_json(typed), allow_nan=False)
    assert config.build(algo.Config, json.loads(text)) == cfg


def rates(algo: types.ModuleType) -> list[str]:
    """The fields that are step sizes."""
    return [name for name, hint in typing.get_type_hints(algo.Config, include_extras=True).items() if hint == config.Rate]


def scheduled(algo: types.ModuleType, text: str) -> Any:
    """Its small Config, all step sizes on one schedule."""
    return dataclasses.replace(small(algo), **dict.fromkeys(rates(algo), config.Schedule(text)))


def test_every_step_size_may_be_a_schedule(algo: types.ModuleType) -> None:
    if not made(algo)[0].losses:
        pytest.skip("it takes no gradient")
    named = [f.name for f in dataclasses.fields(algo.Config) if "lr" in f.name.split("_")]
    assert named
    assert rates(algo) == named


def test_a_schedule_counts_updates_in_every_group_also_in_those_that_step_in_few(algo: types.ModuleType) -> None:
    """Told as a metric for each loss; only where the docstring says "own steps" each group counts by itself. At the end of one
    that leads to 0, nothing that an optimiser trains moves."""
    learner, spec = made(algo, scheduled(algo, "linear:0.01:updates=12"))
    if not learner.losses:
        pytest.skip("it takes no gradient")
    tree = ast.parse(inspect.getsource(algo))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config")
    own = any("own steps" in ast.unparse(n) for n in body if isinstance(n, ast.Expr))
    if getattr(algo.Config, "anneal", False):
        pytest.skip("its step size falls otherwise, too; see its test")
    state, said = steps(learner, spec, seeded(0, learner.init), 0, 12)
    counts: dict[str, int] = {}
    for i, metrics in enumerate(said):
        names = {name for name in metrics if name.endswith("_lr")}
        assert names == {f"{name.removesuffix('_loss')}_lr" for name in metrics if name.endswith("_loss")}
        for name in names:
            at = counts[name] = counts.get(name, 0) + 1
            assert float(metrics[name]) == pytest.approx(0.01 * (1 - ((at - 1) if own else i) / 12), rel=1e-5), name
    assert {"critic_lr", "actor_lr", "joint_lr"} & counts.keys()
    if not own and not learner.prepare:
        after, _ = steps(learner, spec, state, 12, 12 + learner.period)
        trained = [name for name in leaves(state) if ".params." in name]
        assert trained
        assert not set(trained) & set(differing(state, after))


def test_the_feed_is_the_configs(algo: types.ModuleType) -> None:
    cfg = changed(algo)
    learner, _ = made(algo, cfg)
    for f in dataclasses.fields(learner.experience):
        if hasattr(cfg, f.name):
            assert getattr(learner.experience, f.name) == getattr(cfg, f.name), f.name


# ------------------------------------------------------------------------------------------------------------------- state


def test_state_holds_tensors_and_nothing_else(algo: types.ModuleType) -> None:
    def walk(node: Any, path: str) -> None:
        if isinstance(node, Tensor):
            assert not node.requires_grad, path
        elif isinstance(node, Mapping):
            for name, child in node.items():
                walk(child, f"{path}.{name}")
        else:
            assert dataclasses.is_dataclass(node), f"{path} is a {type(node).__name__}"
            for f in dataclasses.fields(node):
                walk(getattr(node, f.name), f"{path}.{f.name}")

    learner, spec = made(algo)
    state = learner.init()
    walk(state, "state")
    walk(steps(learner, spec, state, 0, learner.period)[0], "state")


def test_the_engines_state_shares_no_memory(algo: types.ModuleType) -> None:
    learner, _ = made(algo)
    state = learner.init()
    held = Stepper(learner, state).state
    places = [x.untyped_storage().data_ptr() for x in leaves(held).values()]
    assert len(set(places)) == len(places)
    assert not set(places) & {x.untyped_storage().data_ptr() for x in leaves(state).values()}


def test_update_keeps_names_shapes_and_types(algo: types.ModuleType) -> None:
    """The engine copies the new state over the old: what differed would be cast or spread without a word."""
    learner, spec = made(algo)
    state = learner.init()
    after, _ = steps(learner, spec, state, 0, 2 * learner.period)
    assert {k: (v.shape, v.dtype) for k, v in leaves(after).items()} == {k: (v.shape, v.dtype) for k, v in leaves(state).items()}


def test_update_leaves_its_input(algo: types.ModuleType) -> None:
    learner, spec = made(algo)
    state = tree_map(torch.clone, learner.init())
    state, _ = steps(learner, spec, state, 0, learner.period)
    for k in range(learner.period):
        given, before = batch(learner, spec, 7), tree_map(torch.clone, state)
        after, _ = learner.update(state, given, k)
        assert not differing(state, before)
        assert not differing(given, batch(learner, spec, 7))
        assert differing(after, before)


def test_every_leaf_of_the_state_is_used(algo: types.ModuleType) -> None:
    """A period of updates moves every tensor, or what it holds has a say in where the others go."""
    learner, spec = made(algo)
    state = seeded(0, learner.init)
    if learner.given:
        data = recorded(learner, spec)
        data.extra["episode_return"] = torch.arange(float(ROWS))
        state = seeded(1, lambda: learner.given(state, data))
    after, _ = seeded(1, lambda: steps(learner, spec, state, 0, 2 * learner.period))
    for name in set(leaves(state)) - set(differing(state, after)):
        x, rng = leaves(state)[name], torch.Generator().manual_seed(0)  # not all by the same, to which a softmax is blind
        moved = {**leaves(state), name: x + 0.5 + torch.rand(x.shape, generator=rng)}
        again, _ = seeded(1, lambda moved=moved: steps(learner, spec, rebuild(state, moved), 0, 2 * learner.period))
        assert set(differing(after, again)) - {name}, f"{name} neither moves nor matters"


def test_metrics_are_finite_numbers(algo: types.ModuleType) -> None:
    learner, spec = made(algo)
    _, said = steps(learner, spec, learner.init(), 0, 2 * learner.period)
    for metrics in said:
        assert metrics
        for name, value in metrics.items():
            assert value.shape == (), name
            assert value.isfinite(), name
            assert not value.requires_grad, name


def test_weights_of_rows_count_in_the_critics_loss_alone_and_errors_are_told(algo: types.ModuleType) -> None:
    """Where rows are drawn by priority: by the algorithms whose loss is of `ops.squared`."""
    learner, spec = made(algo)
    if "ops.squared(" not in inspect.getsource(algo):
        return
    state, given, told = seeded(0, learner.init), batch(learner, spec, 0), {}
    for what, weight in {"none": None, "ones": torch.ones(ROWS), "half": torch.arange(ROWS) % 2 * 1.0}.items():
        weighed = given if weight is None else dataclasses.replace(given, extra={**given.extra, "weight": weight})
        told[what] = seeded(1, lambda weighed=weighed: learner.update(state, weighed, 0))
    assert not differing(told["none"][0], told["ones"][0])
    errors = told["ones"][1]["errors"]
    assert errors.shape == (ROWS,)
    assert bool((errors > 0).all())
    assert torch.equal(errors, told["half"][1]["errors"])
    loss = {what: float(metrics["critic_loss"]) for what, (_, metrics) in told.items()}
    assert loss["half"] < loss["ones"] == loss["none"]
    assert "errors" not in told["none"][1]


def test_what_is_taken_of_a_dataset_is_drawn_from_the_seed_and_keeps_what_acts(algo: types.ModuleType) -> None:
    """`given` is pure, finite and repeatable, and changes no shape of the policy, which is loaded without a dataset."""
    learner, spec = made(algo)
    if learner.given is None:
        pytest.skip("it takes nothing of a dataset as a whole")
    data = recorded(learner, spec)
    state = seeded(0, learner.init)
    before = tree_map(torch.clone, state)
    one, two = (seeded(1, lambda: learner.given(state, data)) for _ in range(2))
    assert not differing(one, two)
    assert not differing(state, before)
    assert all(x.isfinite().all() for x in leaves(one).values())
    shapes = [{k: (x.shape, x.dtype) for k, x in leaves(learner.policy(s)).items()} for s in (state, one)]
    assert shapes[0] == shapes[1]
    after, _ = learner.update(one, batch(learner, spec, 1), 0)
    assert {k: x.shape for k, x in leaves(after).items()} == {k: x.shape for k, x in leaves(one).items()}


# ----------------------------------------------------------------------------------------------------------- same numbers


def test_two_runs_from_one_seed_are_equal_to_the_bit(algo: types.ModuleType) -> None:
    learner, spec = made(algo)
    one, two = (seeded(3, lambda: steps(learner, spec, learner.init(), 0, 3)) for _ in range(2))
    assert not differing(one[0], two[0])
    assert one[1] == two[1]
    third = seeded(4, lambda: steps(learner, spec, learner.init(), 0, 3))
    assert draws_nothing(learner) or differing(one[0], third[0])


def test_every_parameter_is_drawn_from_the_seed(algo: types.ModuleType) -> None:
    learner, _ = made(algo)
    if draws_nothing(learner):
        pytest.skip("it has no parameters")
    one, two = seeded(3, learner.init), seeded(4, learner.init)
    constant = {name for name, x in leaves(one).items() if bool((x == x.flatten()[0]).all())}  # moments, counts, temperatures
    assert constant < set(leaves(one))
    assert set(differing(one, two)) >= set(leaves(one)) - constant


def test_saved_loaded_and_continued_equals_not_stopping_to_the_bit(algo: types.ModuleType) -> None:
    learner, spec = made(algo)
    half = 2 * learner.period + 1
    state, _ = seeded(0, lambda: steps(learner, spec, learner.init(), 0, half))
    kept, rng = save(leaves(Stepper(learner, state).state)), torch.get_rng_state()
    whole, _ = steps(learner, spec, state, half, 2 * half)
    fresh = seeded(99, learner.init)  # another process has other numbers in it
    found = load(kept)
    assert set(found) == set(leaves(fresh))
    torch.set_rng_state(rng)
    resumed, _ = steps(learner, spec, rebuild(fresh, found), half, 2 * half)
    assert not differing(whole, resumed)


def test_the_engine_in_place_equals_the_pure_update_to_the_bit(algo: types.ModuleType) -> None:
    learner, spec = made(algo)
    state = seeded(0, learner.init)
    count = 2 * learner.period + 1
    wanted, said = seeded(1, lambda: steps(learner, spec, state, 0, count))
    stepper = Stepper(learner, state)
    places = [x.data_ptr() for x in leaves(stepper.state).values()]
    torch.manual_seed(1)
    for i in range(count):
        stepper.step(stepper.prepare(rollout(learner, spec, i)) if learner.prepare else batch(learner, spec, i))
    assert not differing(stepper.state, wanted)
    assert places == [x.data_ptr() for x in leaves(stepper.state).values()]
    for name, mean in stepper.means().items():
        values = [float(m[name]) for m in said if name in m]
        assert mean == pytest.approx(sum(values) / len(values), rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("lr", ["", "cosine:0.01:0.001:warmup=0.25:updates=12"], ids=["constant", "schedule"])
def test_update_is_one_graph_and_equals_eager_to_the_bit(algo: types.ModuleType, lr: str) -> None:
    learner, spec = made(algo, scheduled(algo, lr) if lr else None)
    state = seeded(0, learner.init)
    for k in range(learner.period):
        if learner.alike(k) != k:
            continue
        sources = set()
        ours = theirs = tree_map(torch.clone, state)
        for i in range(3):
            given = batch(learner, spec, i)
            tensors = [*leaves(ours).values(), *leaves(given).values()]

            def flat(*tensors: Tensor, k: int = k, like: tuple[Any, Batch] = (ours, given)) -> list[Tensor]:
                rest = iter(tensors)
                after, metrics = learner.update(*(rebuild(x, {name: next(rest) for name in leaves(x)}) for x in like), k)
                return [*leaves(after).values(), *metrics.values()]

            program = record(flat, tensors)
            sources.add(program.source)
            torch.manual_seed(i)
            with torch.no_grad():
                out = build.function(program.source)(*compress(tensors, program.read), *program.constants)
            torch.manual_seed(i)
            theirs, wanted = learner.update(theirs, given, k)
            ours = rebuild(theirs, dict(zip(leaves(theirs), out, strict=False)))
            assert not differing(ours, theirs)
            assert list(wanted.values()) == list(out[len(leaves(theirs)) :])
        assert len(sources) == 1, "a number that changes between updates is baked into the graph"


def compiler() -> bool:
    try:
        return bool(cpp_builder.get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


def build_here(source: str, inputs: list[Tensor], threads: int) -> tuple[Callable[[], bool], Callable[[], build.Runner]]:
    """As `build.begin`, but that it compiles in this process, which then imports torch's compiler once for all, and is sooner
    done with what is no arithmetic."""
    folder = build.place(job := build.order(source, inputs, threads))
    if not build.library(folder).exists():
        build.build(job, folder, **{"aot_inductor.precompile_headers": True, "aot_inductor.compile_wrapper_opt_level": "O0"})
    return lambda: True, lambda: build.load(folder)


@pytest.mark.slow
@pytest.mark.skipif(not compiler(), reason="this machine has no C++ compiler")
def test_compiled_equals_eager(algo: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own compiler: one cold compilation, of an update that acts, too, and has a schedule. Where updates differ, it
    is of the longest, which does what the others do; these run operation by operation."""
    sources: list[str] = []

    def begin(source: str, inputs: list[Tensor], threads: int) -> tuple[Callable[[], bool], Callable[[], build.Runner]]:
        sources.append(source)  # all of them, before the first is waited for
        by_hand = lambda tensors: build.function(source)(*tensors)
        return lambda: True, lambda: build_here(source, inputs, threads)[1]() if source == max(sources, key=len) else by_hand

    monkeypatch.setattr("thespis.engine.build.begin", begin)
    learner, spec = made(algo, scheduled(algo, "cosine:3e-4:1e-4:warmup=0.25:updates=12"))

    def update(s: Any, b: Batch, k: int = 0) -> tuple[Any, dict[str, Tensor]]:
        after, metrics = learner.update(s, b, k)
        seen = torch.nn.functional.pad(b.obs, (0, spec.obs.dim - b.obs.shape[-1]))  # a context that the update does without
        return after, metrics | ({} if learner.memory else {"action": learner.act(learner.policy(after), seen, True)})

    state = seeded(0, learner.init)
    said: list[str] = []
    eager, compiled = (
        Stepper(dataclasses.replace(learner, update=update), state, after, said.append) for after in (-1, 2 * learner.period)
    )
    for stepper in (eager, compiled):
        torch.manual_seed(1)
        for i in range(6 * learner.period):
            stepper.step(batch(learner, spec, i))
    # a step of Adam is 3e-4: float32 rounds 3% of it; a gradient may be a small difference of large numbers
    assert_close(compiled.state, eager.state, rtol=1e-5, atol=1e-5, loose=20)
    assert said == []
    assert compiled.totals.keys() == eager.totals.keys()
    for name, total in eager.totals.items():
        count = eager.counts[name]
        torch.testing.assert_close(compiled.totals[name] / count, total / count, rtol=1e-4, atol=1e-5, msg=name)


def test_vmap_over_seeds_row_by_row(algo: types.ModuleType) -> None:
    """Two states and two batches at once, with the same noise for both: each row is its single run (float64: to rounding)."""
    learner, spec = made(algo)

    def double(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    def stack(a: Any, b: Any) -> Any:
        return rebuild(a, {k: torch.stack([x, leaves(b)[k]]) for k, x in leaves(a).items()})

    singles = [tree_map(double, seeded(i, learner.init)) for i in range(2)]
    both = stack(*singles)
    with torch.no_grad():
        for i in range(3):
            given = [tree_map(double, batch(learner, spec, 10 * i + row)) for row in range(2)]
            k = i % learner.period
            update = torch.vmap(lambda s, b, k=k: learner.update(s, b, k), randomness="same")
            torch.manual_seed(i)
            both, metrics = update(both, stack(*given))
            for row in range(2):
                torch.manual_seed(i)
                singles[row], wanted = learner.update(singles[row], given[row], k)
                assert_close({name: m[row] for name, m in metrics.items()}, wanted, 1e-8, 1e-10)
    for row in range(2):
        assert_close(tree_map(lambda x, row=row: x[row], both), singles[row], 1e-8, 1e-10)


# ------------------------------------------------------------------------------------------------------------------ acting


def test_act(algo: types.ModuleType) -> None:
    learner, spec = made(algo)
    state, _ = steps(learner, spec, learner.init(), 0, learner.period)
    policy = learner.policy(state)
    obs = torch.cat([observations(spec, 20), observations(spec, 20)])
    obs[20:, : spec.obs.dim - spec.mask] *= 1e3
    acts = {
        explore: [seeded(seed, lambda explore=explore: Actor(learner, len(obs))(policy, obs, explore)) for seed in range(3)]
        for explore in (False, True)
    }
    (dim, ns), mask = ops.sizes(spec.action), ops.allowed(spec, obs)
    for action in (*acts[False], *acts[True]):
        assert action.shape == {Discrete: (40,)}.get(type(spec.action), (40, dim + len(ns)))
        assert action.is_floating_point() == (dim > 0)
        vector, choices = ops.parts(spec.action, action)
        assert learner.prepare or bool((vector.abs() <= 1).all())  # on-policy: it is the environment that clips
        for choice, n, ok in zip(choices, ns, mask.split(ns, -1) if mask is not None else [None] * len(ns), strict=True):
            assert bool(((choice >= 0) & (choice < n)).all())
            assert ok is None or bool(ok.gather(-1, choice[:, None]).all()), "a choice that the mask forbids"
    assert torch.equal(acts[False][0], acts[False][1])
    assert learner.collect or not torch.equal(acts[True][0], acts[True][1])  # where policies differ, that is what explores
    alone = torch.cat([Actor(learner, 1)(policy, row[None], False) for row in obs])
    torch.testing.assert_close(alone, acts[False][0], rtol=1e-4, atol=1e-5)


def test_each_environment_acts_by_a_policy_of_its_own(algo: types.ModuleType) -> None:
    """Row i of all is that of policy i alone; and no two are the same, so that each is told apart."""
    learner, spec = made(algo)
    if learner.collect is None:
        pytest.skip("one policy acts in all environments")
    n = learner.experience.policies
    state, obs = learner.init(), observations(spec, 1).expand(n, -1)
    together = learner.collect(state, obs, torch.arange(n))
    assert together.shape == (n, spec.action.dim)
    assert bool((together.abs() <= 1).all())
    alone = torch.cat([learner.collect(state, obs[:1], torch.tensor([i])) for i in range(n)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
    assert len({tuple(row) for row in together.tolist()}) == n
    torch.testing.assert_close(learner.collect(state, obs, torch.arange(n).flip(0)), together.flip(0), rtol=1e-5, atol=1e-6)


def test_its_value_is_the_mean_of_its_critics(algo: types.ModuleType) -> None:
    """As its critic loss reports it; the bonus is finite, and none where no policy is drawn from."""
    learner, spec = made(algo)
    if learner.value is None:
        pytest.skip("its critics' values are not in units of reward, or want more than obs and action")
    s, b = seeded(1, learner.init), batch(learner, spec, 0)
    value, bonus = learner.value(s, b.obs, b.action)
    assert value.shape == bonus.shape == (ROWS,)
    assert torch.isfinite(bonus).all()
    q = learner.losses["critic"](s.critic.params, s, b)[1]["q"]
    assert value.mean() * getattr(small(algo), "reward_scale", 1.0) == pytest.approx(float(q), rel=1e-5)


def test_the_policy_alone_is_enough_to_act(algo: types.ModuleType) -> None:
    """What is published is a tree of tensors of the state: through a file and back it acts the same."""
    learner, spec = made(algo)
    state = learner.init()
    flat = leaves(learner.policy(state))
    found = load(save({k: v.clone() for k, v in flat.items()}))
    again = rebuild(learner.policy(seeded(99, learner.init)), found)
    obs = observations(spec, 5)
    assert torch.equal(Actor(learner, 5)(again, obs, False), Actor(learner, 5)(learner.policy(state), obs, False))
    held = {x.data_ptr() for x in leaves(state).values()}
    assert all(x.data_ptr() in held for x in flat.values())
