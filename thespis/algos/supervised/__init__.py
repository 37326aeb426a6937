"""From labels: one-step worlds, where an observation is to be given its class and the reward is 1 where that is right."""
