"""An exported file against `Policy.act`: every algorithm, every kind of space, both formats; and what is refused."""

import dataclasses
import json
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import thespis
from thespis import api, cli, envs, ops
from thespis.core import Fault, Learner, OffPolicy, leaves
from thespis.engine import checkpoint
from thespis.envs import masks

HOUSE = Path(__file__).parents[2]
OBS = spaces.Box(np.array([-1, -np.inf, 0], np.float64), np.array([1, np.inf, 9], np.float64), dtype=np.float64)
BOX = spaces.Box(np.array([-3, 0.5], np.float32), np.array([1, 0.75], np.float32))
CHOICE = spaces.Discrete(4, start=-2)
CHOOSING = ("agents", "constrained", "discrete", "supervised")
BLOCKED = """\
import runpy, sys
sys.modules |= dict.fromkeys(("torch", "thespis", "gymnasium"))  # None: importing it is an ImportError
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_of(folder, name, observed=OBS, wanted=None):
    """A run directory as training leaves it, of an untrained policy."""
    torch.manual_seed(1)  # with 0 the tiny discrete policy would always choose the same
    algo = api.algorithm(name)
    wanted = wanted or (CHOICE if algo.family in CHOOSING else BOX)
    # of ode_steps each is a part of the file
    small = {"hidden": (8, 8), "ode_steps": 3} | ({"net": "mlp"} if algo.family == "supervised" else {})
    cfg = dataclasses.replace(algo.config, **{k: v for k, v in small.items() if hasattr(algo.config, k)})
    rewards = ("watch", "like") if algo.family == "constrained" else ("reward",)
    learner = algo.module.make(cfg, envs.actions.spec(observed, wanted)._replace(rewards=rewards))
    about = {
        "algo": name, "algo_config": thespis.config.to_json(cfg), "run": {"env": "Own-v0"}, "own_parts": [], "own_env": False,
        "observation_space": envs.spaces_json.to_json(observed), "action_space": envs.spaces_json.to_json(wanted), "step": 70,
        "rewards": rewards,
    }  # fmt: skip
    (folder / "policy").mkdir(parents=True)
    more = 3 if algo.family in CHOOSING else 1  # or its choice would hardly ever change
    tensors = {k: more * x for k, x in leaves(learner.policy(learner.init())).items()}
    tensors |= {k: x + 100 for k, x in tensors.items() if k.endswith("count")}  # observations have been seen: they are shown
    checkpoint.write_tensors(folder / "policy/last.safetensors", tensors)
    checkpoint.write_sealed(folder / "policy/last.json", about)
    return folder


def opened(path):
    """{name: array} -> {name: array}, by what others would run the file with."""
    if path.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime").InferenceSession(path)
        names = [x.name for x in runtime.get_outputs()]
        return lambda inputs: dict(zip(names, runtime.run(None, inputs), strict=True))
    module = torch.export.load(path).module()
    return lambda inputs: {k: x.numpy() for k, x in module({k: torch.from_numpy(v) for k, v in inputs.items()}).items()}


def one_line(function, *args, **kwargs):
    with pytest.raises(Fault) as fault:
        function(*args, **kwargs)
    assert "\n" not in str(fault.value)
    return str(fault.value)


# ------------------------------------------------------------------------------------------------------- the same actions


@pytest.mark.parametrize(
    "name",  # nhl's network is of images, and gmorl has contexts: tests/papers/test_gmorl.py
    [
        n
        for n, algo in thespis.algorithms().items()
        if algo.family not in ("diversity", "language", "tabular") and algo.file.stem not in ("gmorl", "nhl")
    ],
)
def test_every_algorithm_acts_as_its_file_does(tmp_path, name):
    policy = thespis.load(run_of(tmp_path / "run", name))
    rng = np.random.default_rng(1)
    seen = np.stack([rng.uniform(-1, 1, 300), 3 * rng.standard_normal(300), rng.uniform(0, 9, 300)], -1)
    wanted = np.stack([policy.act(x) for x in seen])
    for form in "onnx", "torch":
        made = thespis.export(tmp_path / "run", form)
        acts, memory, got = opened(made.path), {}, []
        if hidden := {"srl": 8, "recurrent_sac": 64, "recurrent_ppo": 64}.get(name):  # step by step, on its memory
            memory = {"memory_action": np.zeros((1, 2), np.float32), "memory_hidden": np.zeros((1, hidden), np.float32)}
            memory = {k: x for k, x in memory.items() if k in made.inputs}
            assert list(made.inputs) == ["observation", "look", *memory]
            for x in seen:
                out = acts({"observation": x[None], "look": np.array([True])} | memory)
                memory = {k: out[f"next_{k}"] for k in memory}
                got.append(out["action"])
        else:
            assert made.inputs == {"observation": "float64 (batch, 3)"}
            got = [acts({"observation": x})["action"] for x in np.split(seen, [1, 3, 100])]  # any length of batch
        action = np.concatenate(got)
        assert action.dtype == policy.action_space.dtype
        assert np.abs(action - wanted).max() <= 1e-5
        assert np.ptp(wanted, 0).min() > 0, "a policy that always does the same would prove nothing"


def test_a_plan_goes_on_where_nothing_is_seen(tmp_path):
    """srl's file without looks is srl in an episode that it sees every 4th step of."""
    policy = thespis.load(run_of(tmp_path / "run", "srl"))
    actor = thespis.engine.act.Actor(policy.learner, 1, every=4)
    acts = opened(thespis.export(tmp_path / "run", "torch").path)
    memory = {"memory_action": np.zeros((1, 2), np.float32), "memory_hidden": np.zeros((1, 8), np.float32)}
    for t in range(12):
        obs = np.random.default_rng(t).uniform(0, 1, (1, 3))
        wanted = actor(policy.params, torch.from_numpy(obs).float(), False)
        out = acts({"observation": obs, "look": np.array([t % 4 == 0])} | memory)
        memory = {k: out[f"next_{k}"] for k in memory}
        np.testing.assert_allclose(out["action"][0], envs.actions.scale_action(BOX, wanted[0].numpy()), atol=1e-6)


PARTS = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (2, 3, 1), np.uint8), "place": spaces.Discrete(3, start=5),
        "rest": spaces.Tuple([
            spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [-1, 0]]), spaces.MultiBinary(3),
            spaces.Box(-9, 9, (2,), np.int32), spaces.Box(-1, 1, (), np.float16),
        ]),
    }
)  # fmt: skip


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_every_kind_of_observation(tmp_path, form):
    policy = thespis.load(run_of(tmp_path / "run", "sac", PARTS))
    made = thespis.export(tmp_path / "run", form)
    assert made.inputs == {
        "observation_camera": "uint8 (batch, 2, 3, 1)", "observation_place": "int64 (batch)",
        "observation_rest_0": "int64 (batch, 2, 2)", "observation_rest_1": "int8 (batch, 3)",
        "observation_rest_2": "int32 (batch, 2)", "observation_rest_3": "float16 (batch)",
    }  # fmt: skip
    acts = opened(made.path)
    space = policy.observation_space
    space.seed(2)
    for _ in range(50):
        obs = space.sample()
        parts = [obs["camera"], obs["place"], *obs["rest"]]
        kinds = [space["camera"], space["place"], *space["rest"].spaces]
        given = {n: np.asarray(x, k.dtype)[None] for n, x, k in zip(made.inputs, parts, kinds, strict=True)}
        assert np.abs(acts(given)["action"][0] - policy.act(obs)).max() <= 1e-5


class Stub(nn.Module):
    """A learner whose action is its observation, as choices or not."""

    def __init__(self, choices):
        super().__init__()
        self.choices = choices

    def learner(self):
        act = lambda p, obs, explore: (obs + p["zero"]).long() if self.choices else (obs + p["zero"])
        none = lambda *a: None
        return Learner(none, none, none, act, {}, OffPolicy(0.9, 1, 1, 1, 0, 1))


@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("space", "given", "wanted"),
    [
        (spaces.Box(-4, 10, (2,), np.int32), [0.0, 1.0], [3, 10]),
        (spaces.Box(0, 255, (2,), np.uint8), [-1.5, 0.1], [0, 140]),
        (spaces.Box(-1e6, 3e6, (1, 2), np.float64), [0.25, 2.0], [[1.5e6, 3e6]]),
        (spaces.MultiDiscrete([[3, 4]], start=[[7, -1]]), [2.0, 3.0], [[9, 2]]),
        (spaces.Box(-1, 1, (2,), np.float16), [0.5, -3.0], [0.5, -1]),
    ],
)
def test_every_kind_of_action(tmp_path, monkeypatch, form, space, given, wanted):
    observed = spaces.Box(0, 1, (2,), np.float32)  # what the trial tries are choices too
    learner = Stub(isinstance(space, spaces.MultiDiscrete)).learner()
    about = {"algo": "stub", "run": {"env": "Own-v0"}, "step": 0}
    policy = api.Policy(learner, {"zero": torch.zeros(2)}, observed, space, about)
    monkeypatch.setattr(api, "load", lambda *a, **k: policy)
    out = opened(thespis.export("run", form, out=tmp_path / f"policy{'.onnx' if form == 'onnx' else '.pt2'}").path)(
        {"observation": np.array([given], np.float32)}
    )["action"]
    assert out.dtype == space.dtype
    assert out.tolist() == [wanted]


TREE = spaces.Dict(
    {
        "gear": spaces.Discrete(3, start=-1), "push": spaces.Box(np.array([0, -np.inf]), np.array([4, np.inf]), dtype=np.float64),
        "row": spaces.Tuple([spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3], start=[5, 0])]),
    }
)  # fmt: skip
MASKED = spaces.Dict([("action_mask", spaces.MultiBinary(3 + 4 + 5)), ("observation", OBS)])


@pytest.mark.parametrize(
    ("name", "observed", "space", "form"),
    [
        ("ppo", MASKED, TREE, "onnx"),
        ("hybrid_sac", MASKED, spaces.Dict({**TREE.spaces, "push": BOX}), "torch"),
        ("ppo", OBS, spaces.MultiBinary((2, 2)), "torch"),
        ("sac_discrete", spaces.Dict({"action_mask": spaces.MultiBinary(4), "observation": OBS}), CHOICE, "onnx"),
    ],
)
def test_every_part_of_an_action_and_its_mask(tmp_path, name, observed, space, form):
    policy = thespis.load(run_of(tmp_path / "run", name, observed, space))
    acts, rng, seen = opened(thespis.export(tmp_path / "run", form).path), np.random.default_rng(3), set()
    for _ in range(40):
        obs = {"observation": rng.uniform(-1, 1, 3) * [1, 3, 9]}
        obs["observation"][2] = abs(obs["observation"][2])
        if observed is not OBS:
            many = observed["action_mask"].n
            obs["action_mask"] = rng.integers(0, 2, many).astype(np.int8)
            obs["action_mask"][np.cumsum([0, 3, 2, 2, 2, 3])[:-1] if many == 12 else [2]] = 1
        out = acts({k: x[None] for k, x in obs.items()})
        action = policy.act(obs if observed is not OBS else obs["observation"])
        assert space.contains(action)
        parts = {"action": action}
        if isinstance(space, spaces.Dict):
            parts = {"action_gear": action["gear"], "action_push": action["push"]}
            parts |= {f"action_row_{i}": x for i, x in enumerate(action["row"])}
        assert out.keys() == parts.keys()
        for key, wanted in parts.items():
            assert out[key].dtype == np.asarray(wanted).dtype
            np.testing.assert_allclose(out[key][0], wanted, atol=1e-5)
        if observed is not OBS:
            assert masks.of(space, obs["action_mask"])[row_of(space, action)].all(), "what the mask forbids"
        seen.add(str([np.asarray(x).round(3).tolist() for x in parts.values()]))
    assert len(seen) > 3, "a policy that always does the same would prove nothing"


def row_of(space, action):
    """The columns of the mask that belong to what was taken."""
    kind = envs.actions.spec(OBS, space).action
    choices = ops.parts(kind, torch.as_tensor(envs.spaces.unscale_action(space, action)))[1]
    ns = ops.sizes(kind)[1]
    return [int(first) + int(c) for first, c in zip(np.cumsum([0, *ns]), choices, strict=False)]


# ---------------------------------------------------------------------------------------------------------- what is in it


def test_a_file_says_what_it_is_and_holds_no_pickle(tmp_path):
    run = run_of(tmp_path / "run", "sac")
    said = {"thespis": thespis.__version__, "algorithm": "sac", "environment": "Own-v0", "step": "70", "policy": "last"}
    said |= {k: json.dumps(envs.spaces_json.to_json(s)) for k, s in (("observation_space", OBS), ("action_space", BOX))}
    model = pytest.importorskip("onnx").load(thespis.export(run).path)
    assert {p.key: p.value for p in model.metadata_props} == said
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3]
    assert (model.producer_name, model.opset_import[0].version) == ("thespis", 20)
    file = thespis.export(run, "torch").path
    with zipfile.ZipFile(file) as parts:
        names = {n.partition("/")[2]: n for n in parts.namelist()}
        assert json.loads(parts.read(names["extra/thespis.json"])) == said
        for name, full in names.items():
            data = parts.read(full)
            assert b"/thespis/" not in data, "a path of the machine that it was made on"
            assert data[:2] not in (b"PK", b"\x80\x02"), name
            if name.endswith("config.json"):
                assert not any(w["use_pickle"] for w in json.loads(data)["config"].values())


def test_the_example_runs_where_there_is_neither_torch_nor_thespis(tmp_path):
    pytest.importorskip("onnxruntime")
    run = run_of(tmp_path / "run", "srl", wanted=BOX)
    file = thespis.export(run).path
    command = [sys.executable, "-c", BLOCKED, str(HOUSE / "docs/examples/run_onnx.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    policy = thespis.load(run)
    wanted = [policy.act(np.full(3, x)) for x in (0.1, 0.2)]
    np.testing.assert_allclose(printed, wanted, atol=1e-5)
    assert not np.allclose(*wanted), "else the memory would not show"


# --------------------------------------------------------------------------------------------------------- what is refused


def test_a_file_that_exists_stays_unless_it_is_to_be_replaced(tmp_path, capsys):
    run = run_of(tmp_path / "run", "td3")
    file = tmp_path / "mine.pt2"
    file.write_text("mine")
    assert "exists" in one_line(thespis.export, run, "torch", out=file)
    assert file.read_text() == "mine"
    assert cli.main(["export", str(run), "--format", "torch", "--out", str(file), "--force"]) == 0
    assert str(file) in capsys.readouterr().out
    assert zipfile.is_zipfile(file)
    assert "directory" in one_line(thespis.export, run, "torch", out=tmp_path / "none/x.pt2")
    assert "exists" in one_line(thespis.export, run, "torch", out=tmp_path, force=True)
    assert "format is 'jax'; allowed: onnx, torch" in one_line(thespis.export, run, "jax")
    assert "best.json is missing" in one_line(thespis.export, run, "torch", which="best")
    assert [p.name for p in tmp_path.iterdir()].count("mine.pt2") == len(list(tmp_path.iterdir())) - 1


def test_names_that_would_be_one(tmp_path):
    space = spaces.Dict({"a b": spaces.Discrete(2), "a_b": spaces.Discrete(2)})
    assert "observation_a_b" in one_line(thespis.export, run_of(tmp_path / "run", "sac", space), "torch")


def changed(policy, act=None, memory=None):
    learner = dataclasses.replace(policy.learner, act=act or policy.learner.act, memory=memory or policy.learner.memory)
    return dataclasses.replace(policy, learner=learner)


def test_what_would_act_otherwise_is_not_written(tmp_path, monkeypatch):
    policy = thespis.load(run_of(tmp_path / "run", "td3"))
    act, load = policy.learner.act, api.load
    random = changed(policy, lambda p, obs, explore: (act(p, obs, False) + torch.randn_like(obs[:, :2])).clamp(-1, 1))
    monkeypatch.setattr(api, "load", lambda *a, **k: random)
    assert "differ" in one_line(thespis.export, tmp_path / "run", "torch")
    broken = changed(policy, lambda p, obs, explore: act(p, obs, False) * (1 if obs.sum() > 0 else -1))
    monkeypatch.setattr(api, "load", lambda *a, **k: broken)
    assert "td3 cannot be exported as torch" in one_line(thespis.export, tmp_path / "run", "torch")
    policy = load(run_of(tmp_path / "srl", "srl"))
    ones = changed(policy, memory=lambda n: {k: x + 1 for k, x in policy.learner.memory(n).items()})
    monkeypatch.setattr(api, "load", lambda *a, **k: ones)
    assert "begin an episode at zero" in one_line(thespis.export, tmp_path / "srl", "torch")
    assert not list(tmp_path.rglob("*.pt2"))


def test_without_the_packages_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'pip install "thespis[onnx]"' in one_line(thespis.export, run_of(tmp_path / "run", "sac"))


# ---------------------------------------------------------------------------------------------------- what was trained on


def test_a_file_names_the_range_of_what_its_run_has_seen_and_the_control_room_refuses_the_rest(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    readings, currents = spaces.Box(-np.inf, np.inf, (30,), np.float32), spaces.Box(-1, 1, (10,), np.float32)
    folder, rng = run_of(tmp_path, "tbsac", readings, currents), np.random.default_rng(0)
    obs, finals = (rng.uniform(-5, 5, (n, 30)).astype(np.float32) for n in (40, 3))
    finals[1, 7] = 9.0
    (folder / "replay").mkdir()
    for start, last in ((0, finals), (30, finals[:0])):
        held = {"obs": torch.from_numpy(obs[start : start + 30]), "finals": torch.from_numpy(last)}
        checkpoint.write_tensors(folder / f"replay/{start:09d}.safetensors", held)
    file = thespis.export(folder).path
    monkeypatch.setattr("sys.argv", ["control_room.py", str(file)])
    room = runpy.run_path(str(HOUSE / "docs/examples/control_room.py"))
    both = np.concatenate([obs, finals])
    np.testing.assert_array_equal(room["low"], both.min(0))
    np.testing.assert_array_equal(room["high"], both.max(0))
    assert room["high"][7] == 9
    policy, (first, second) = thespis.load(folder), rng.uniform(-2, 2, (2, 10)).astype(np.float32)
    room["rows"][2] = first
    wanted = policy.act(np.concatenate([np.zeros(10, np.float32), second - first, second]))
    np.testing.assert_allclose(room["steps"](second), wanted, atol=1e-5)
    for bad in (np.full(10, 5.5), np.full(10, np.nan)):
        room["rows"][1:] = 0.0
        with pytest.raises(ValueError, match="refused"):
            room["steps"](bad)
    (folder / "replay/000000030.safetensors").write_bytes(b"damaged")  # what it held is not known: no range is named
    assert (
        "observed"
        not in onnxruntime.InferenceSession(thespis.export(folder, force=True).path).get_modelmeta().custom_metadata_map
    )
