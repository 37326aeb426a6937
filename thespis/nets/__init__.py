"""How a function is made: init() -> params, apply(params, x) -> y."""

from thespis.nets.blocks import BatchNet, bottleneck, copies, orthogonal, simba
from thespis.nets.functions import Build, Net, ensemble, mlp, module, own
from thespis.nets.normed import layers, normed
from thespis.nets.policies import Dist, Policy, actor_critic, bounded, outputs, policy
from thespis.nets.recurrent import Cell, Recurrent, gru, unroller
from thespis.nets.renormed import renormed

__all__ = [
    "BatchNet", "Build", "Cell", "Dist", "Net", "Policy", "Recurrent", "actor_critic",
    "bottleneck", "bounded", "copies", "ensemble", "gru", "layers", "mlp", "module", "normed", "orthogonal", "outputs", "own",
    "policy", "renormed", "simba", "unroller",
]  # fmt: skip
