"""docs/observability/: what the dashboard and the alerts ask for is what engines count, and alerts come when they must.

It would catch: a metric or a label that was renamed, and an alert that stays silent or never ends.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from vllm_judge.engine.gauges import GAUGES, INFO, INFO_LABELS
from vllm_judge.engine.metrics import COUNTERS

FOLDER = Path(__file__).parents[2] / "docs" / "observability"
OURS = re.compile(r"vllm:(?:spec_decode_(?:num_)?judge_\w+|judge_\w+)")
VLLMS_LABELS = {"model_name", "engine", "job", "instance"}
LABELS = {INFO: INFO_LABELS, **{name: own for name, (own, _) in {**COUNTERS, **GAUGES}.items()}}


def expressions() -> Iterator[str]:
    for panel in json.loads((FOLDER / "grafana.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_metric_of_ours_is_one_that_engines_have():
    known = {f"{name}_total" for name in COUNTERS} | {INFO, *GAUGES}
    asked = {found for expression in expressions() for found in OURS.findall(expression)}
    assert asked and asked <= known
    assert asked == known, "what is counted and shown nowhere"


def test_every_label_is_one_that_the_metric_has():
    for expression in expressions():
        for name, selected in re.findall(r"(vllm:\w*judge\w*)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected))
            assert labels <= {*LABELS[name.removesuffix("_total")], *VLLMS_LABELS}, expression


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs Prometheus: apt-get install prometheus")
def test_alerts_come_when_they_must_and_only_then():
    command = ["promtool", "test", "rules", str(FOLDER / "rules_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
