"""The only room that touches device, clock, disk and logger."""
