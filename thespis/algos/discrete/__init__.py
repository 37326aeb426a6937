"""Discrete actions, one reward, one agent."""
