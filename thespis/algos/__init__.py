"""One file a paper, in families by the kind of problem. No algorithm imports another."""
