"""Archives of policies that differ: at most one a cell of what policies may do."""
