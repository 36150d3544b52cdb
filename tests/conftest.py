"""Settings of all tests; and, since a conftest.py puts its folder on the import path, tests/*.py can be imported."""

from hypothesis import settings

# The same examples every run, and no time limit on one: the first call into PyTorch may take seconds.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")
