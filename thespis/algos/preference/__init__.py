"""Learning from preferences between episodes."""
