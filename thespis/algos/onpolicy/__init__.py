"""Learning from the policy's own newest steps; any kind of action."""
