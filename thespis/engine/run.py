"""What a run is, apart from its algorithm."""

from dataclasses import dataclass
from typing import Annotated, Literal

from thespis.config import Count, Fraction, Natural, Positive, Range


@dataclass(frozen=True)
class Run:
    env: str | None = None
    """Gymnasium id of the environment; where none is named, the dataset's own, or HalfCheetah-v5 without a dataset"""
    steps: Count = 1_000_000
    """environment steps in all, summed over the environments; of a run that learns from a dataset alone, updates"""
    data: str | None = None
    """dataset to learn from, besides or alone: id or folder of a Minari dataset, or a file of columns, as D4RL's .hdf5 or .npz"""
    offline: bool = False
    """learn from the dataset alone, with an off-policy algorithm: steps are updates then"""
    seed: Natural = 0
    """random seed of parameters, exploration, replay and episodes"""
    num_envs: Count = 1
    """environments that are stepped side by side"""
    env_args: tuple[str, ...] = ()
    """arguments of the environment, each as name=value; a value is JSON, or else text (from Python also a dictionary)"""
    wrappers: tuple[str, ...] = ()
    """put around the environment, the last outermost: Gymnasium's own as "TimeLimit(max_episode_steps=50)", and module:Wrapper"""
    frame_stack: Count = 1
    """observations that the learner sees side by side, the newest last, where one shows no speed; the replay stores each once"""
    vector: Literal["sync", "async"] = "sync"
    """step the environments in this process, or each in a process of its own (pays where a step takes more than about 1 ms)"""
    collectors: Natural = 0
    """processes that step num_envs environments each while this one learns (needs thespis[ray]); 0: this one does both.
    Resuming is then not bit for bit: episodes under way are cut as a time limit would"""
    ray_address: str | None = None
    """host:port of a Ray cluster that the collectors join, auto for the one on this machine, or local for one of the run's own,
    the default"""
    on_env_error: Literal["stop", "restart"] = "stop"
    """where an environment fails: end the run, or make a new environment in its place and go on"""
    env_timeout: Positive | None = None
    """seconds that a step, reset or close may take before it counts as failed; each environment then has a process of its own"""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """where numbers are no longer finite: end the run, or go back to the last checkpoint and on with other random numbers"""
    max_hours: Positive | None = None
    """hours after which the run stops with a checkpoint, as by Ctrl-C; they start again at 0 when the run is resumed"""
    stop_at: float | None = None
    """mean return of an evaluation at which the run ends, as if its steps were done; None: at none"""
    eval_every: Count = 10_000
    """steps between evaluations"""
    eval_episodes: Natural = 10
    """episodes of an evaluation, with seeds of their own; 0: none is done"""
    eval_env: Literal["auto", "own", "same"] = "auto"
    """evaluate on environments of their own, or on those that train, whose episodes are then cut as a time limit would;
    auto: on those where no others can be made"""
    eval_steps: Count | None = None
    """steps after which an episode of an evaluation is cut; None: 10,000, or the environment's own limit where that is longer"""
    eval_policy: Literal["mean", "sampled", "both"] = "mean"
    """what is evaluated: the mean action, actions as training samples them, or each of these in episodes of its own"""
    log_every: Count = 1_000
    """steps between rows of metrics"""
    checkpoint_every: Count = 10_000
    """steps between checkpoints"""
    keep: Count = 2
    """how many checkpoints are kept"""
    sinks: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """where metrics go besides metrics.jsonl"""
    agents: Literal["separate", "shared"] | None = None
    """of a world with several agents: one learner for each, with parameters of its own, or with the same for all; None: one
    learner for all of them, which sees and does everything"""
    weights: tuple[str, ...] = ()
    """of a world with several rewards: those by which one learner is given their sum, in order or by name, as
    treasure=1,time=0.5; with one reward also of numbers of its info, as reward=1,cost=-0.1"""
    hindsight: Literal["future", "final"] | None = None
    """goals of an off-policy learner's batches: what the episode achieved later, or at its end; None: those asked for"""
    hindsight_share: Fraction = 0.8
    """part of a batch's rows that get a goal in hindsight; 0.8 is four for each that keeps its own"""
    priority: Positive | None = None
    """draw rows of the replay by how wrong the critics were about them, to this power: 0.6 in the paper; None: uniformly"""
    priority_beta: Fraction = 0.4
    """how far weights make up for that in the loss, at the first update; it rises to 1, which is wholly, at the run's last"""
    freeze: tuple[str, ...] = ()
    """parts of the algorithm's State that stay as they begin, such as actor; for a run that begins with another's networks"""
    normalise_obs: bool = False
    """scale observations by the mean and spread of the rows drawn so far, within 10; an algorithm's option of that name counts"""
    normalise_reward: bool = False
    """scale rewards by the spread of discounted returns, within 10; an algorithm's option of that name counts"""
    reward_unit: Positive | None = None
    """what updates divide rewards by; None: 1, or a power of ten where rewards are above 100 on average, or all below 0.05"""
    wandb_project: str = "thespis"
    """project of Weights & Biases, with the sink wandb"""
    wandb_entity: str | None = None
    """user or team that the project belongs to; None: the one of your login"""
    wandb_group: str | None = None
    """group of runs, as the seeds of one setting"""
    wandb_tags: tuple[str, ...] = ()
    """words to find the run by"""
    device: str = "cpu"
    """torch device of the learner"""
    threads: Natural = 0
    """torch threads; 0: one at first, and for the compiled update the fastest number (OMP_NUM_THREADS at most)"""
    precision: Literal["float32", "bf16"] = "float32"
    """precision of matrix products in an update; bf16 rounds their factors to bfloat16, and sums and parameters stay float32"""
    compile_after: Annotated[int, Range(-1)] = 1_000
    """updates before the compiled update takes over, which another process compiles meanwhile; -1: never compile"""


WATCHING = {
    "steps", "vector", "ray_address", "on_env_error", "env_timeout", "on_divergence", "max_hours", "stop_at", "eval_every",
    "eval_episodes", "eval_steps", "eval_policy", "log_every", "checkpoint_every", "keep", "sinks", "wandb_project",
    "wandb_entity", "wandb_group", "wandb_tags",
}  # fmt: skip
"""options that bear on how a run is watched and kept, not on what it learns: it may go on with others and be the same run"""
FIXED = {"seed", "num_envs", "frame_stack", "collectors", "data", "offline", "agents", "weights", "priority"}
"""options that what a run has kept is laid out by: it cannot go on with others"""
