"""One reward to raise, and others that must not fall below a floor. A module a paper."""
