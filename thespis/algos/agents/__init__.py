"""Several agents that learn together. A module a paper."""
