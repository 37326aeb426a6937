"""Worlds of few states, by tables."""
