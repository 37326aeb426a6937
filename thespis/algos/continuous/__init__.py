"""Continuous actions, one reward, one agent."""
