"""The models and questions of this folder's tests."""

from pathlib import Path

import pytest
from calibration_world import make_world


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path)
