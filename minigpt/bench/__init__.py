"""Measurements beside peers, in one run on one machine: rows of {"what", "who", "value", "unit"}."""
