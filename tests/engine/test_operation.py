"""What an operator relies on, on the embedded pair behind a real server: scripts/soak.py and
scripts/check_dashboards.py, each for as short as it still means something.

It would catch: a token that a request forbids, a text or a count that is another under load, a request that hangs when
a worker dies, an expression of the dashboard without a value.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_a_busy_engine_keeps_every_requests_rules_and_counts_right(tmp_path):
    command = [sys.executable, str(SCRIPTS / "soak.py"), "--minutes", "0.5", "--json", str(tmp_path / "soak.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["cramped"]["preemptions"] > 0 and found["cramped"]["aborted"] > 0
    assert all(found[half]["tokens_verified_again"] > 500 for half in ("roomy", "cramped"))
    assert all(found[half]["counted"]["judge_only"] > 0 for half in ("roomy", "cramped"))


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus: apt-get install prometheus")
def test_every_expression_has_a_value_on_a_server_under_load():
    command = [sys.executable, str(SCRIPTS / "check_dashboards.py"), "--seconds", "20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
