"""Intervals, tests, and where a number comes from."""
