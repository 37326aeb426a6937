"""Generators that are flows: the action is the sample, the reward its judge."""
