"""Learning from recorded data alone."""
