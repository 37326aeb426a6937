"""How a function is made: init() -> params, apply(params, x) -> y."""

from thespis.nets.blocks import BatchNet, BatchNorm, bottleneck, orthogonal, simba, twins
from thespis.nets.functions import Build, Net, Start, ensemble, mlp, module, own
from thespis.nets.normed import layers, normed
from thespis.nets.policies import Dist, Policy, actor_critic, outputs, policy
from thespis.nets.recurrent import Cell, Recurrent, gru, unroller

__all__ = [
    "BatchNet", "BatchNorm", "Build", "Cell", "Dist", "Net", "Policy", "Recurrent", "Start", "actor_critic", "bottleneck",
    "ensemble", "gru", "layers", "mlp", "module", "normed", "orthogonal", "outputs", "own", "policy", "simba", "twins",
    "unroller",
]  # fmt: skip
