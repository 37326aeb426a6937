"""Gymnasium environments that papers need and nobody ships. Importing `thespis` registers them as `thespis/<Name>-v0`; a world's
own module is imported when the first of its kind is made."""

import gymnasium as gym
from gymnasium.envs.registration import registry

WORLDS = {
    "AntOmni": ("ant_omni", 100),
    "BeamOrbit": ("beam", 50),
    "BeamTransmission": ("beam", 40),
    "BitFlip": ("goals", None),
    "Caves": ("caves", None),
    "CorruptedDigits": ("digits", None),
    "CrampedRoom": ("kitchen", None),
    "DRAM": ("dram", None),
    "DeepSea": ("finite", None),
    "Digits": ("digits", None),
    "DrawnDigits": ("samples", None),
    "EdgeComputing": ("edge", 100),
    "Gaussians": ("samples", None),
    "Gems": ("games", None),
    "HiddenCartPole": ("pendulums", 500),
    "HiddenPendulum": ("pendulums", 200),
    "LiveFeed": ("live_feed", 200),
    "Lock": ("finite", None),
    "MarkovGame": ("games", None),
    "MultiGoal": ("points", 30),
    "Omni": ("omni", 60),
    "PixelPendulum": ("pendulums", 200),
    "PrivateTuning": ("private_tuning", None),
    "Reach": ("goals", 50),
    "RiverSwim": ("finite", None),
    "Rounds": ("bandits", None),
    "ShortVideo": ("short_video", 40),
    "Tabletop": ("tabletop", 50),
    "Talking": ("samples", 2),
    "TwoDigits": ("digits", None),
    "TwoPeaks": ("bandits", None),
    "UserAuthor": ("user_author", 120),
    "WallReach": ("goals", 50),
}
"""the name of the class: (its module in here, steps after which an episode is cut off)"""

TEXT = {
    "Chains": ("chains", None),
    "Choices": ("choices", None),
    "Derivations": ("derivations", None),
    "KeyDoor": ("keydoor", None),
    "MiniGrid": ("minigrid", None),
    "Programs": ("programs", None),
    "Twenty": ("twenty", None),
}
"""those that are spoken to, in the same form"""

for _name, (_module, _limit) in (WORLDS | TEXT).items():
    if f"thespis/{_name}-v0" not in registry:
        gym.register(f"thespis/{_name}-v0", entry_point=f"thespis.worlds.{_module}:{_name}", max_episode_steps=_limit)
