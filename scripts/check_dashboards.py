"""Every expression of docs/observability/, evaluated by a real Prometheus on a real server under load.

    apt-get install prometheus
    python scripts/check_dashboards.py [--seconds 60] [--picture dashboard.png]

Serves the embedded harder pair with half of the requests judged and half in shadow, asks it word problems, and has
Prometheus scrape it every second. Each expression of the dashboard, and each recorded number, must have a finite value;
each alert must be evaluated without an error. The alerts themselves are tested by promtool (rules_test.yml). The
picture shows what Prometheus answered for each panel.
"""

import argparse
import json
import math
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml
from vllm_server import MODEL, Server

from vllm_judge.demo.choices import World
from vllm_judge.demo.tokenizer import render_prompt
from vllm_judge.demo.trio import TRIOS
from vllm_judge.demo.world import problems

FOLDER = Path(__file__).parent.parent / "docs" / "observability"
CONCURRENCY = 8
# As Grafana fills them in; with a scrape a second.
FILLED = {"$__rate_interval": "10s", "$model_name": ".*"}


def expressions() -> dict[str, list[tuple[str, str]]]:
    """Of each panel: what its lines are called, and their expressions."""
    found = {}
    for panel in json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]:
        found[panel["title"]] = [(one["legendFormat"], _filled(one["expr"])) for one in panel["targets"]]
    return found


def _filled(expression: str) -> str:
    for name, value in FILLED.items():
        expression = expression.replace(name, value)
    return expression


class Prometheus:
    """A context manager around a Prometheus that scrapes a server every second, with our rules at that pace too."""

    def __init__(self, target: str, folder: Path):
        rules = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule["expr"] = rule["expr"].replace("[10m]", "[10s]")
        (folder / "rules.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        scrape = {"job_name": "vllm", "static_configs": [{"targets": [target]}]}
        config = {"global": {"scrape_interval": "1s"}, "rule_files": ["rules.yml"], "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._folder = folder

    def __enter__(self) -> "Prometheus":
        command = ["prometheus", f"--config.file={self._folder}/prometheus.yml", f"--web.listen-address={self.address}"]
        command += [f"--storage.tsdb.path={self._folder}/data"]
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def ask(self, path: str, **parameters: str | float) -> Any:
        """Data of an answer of its HTTP API."""
        answer = httpx.get(f"http://{self.address}/api/v1/{path}", params=parameters).json()
        if answer["status"] != "success":
            raise SystemExit(f"{parameters}: {answer['error']}")
        return answer["data"]


def load(server: Server, seconds: float) -> int:
    """Answers to word problems for so long; how many."""
    asked = [render_prompt(one.question) for one in problems(1000, 0, "test", World.HARDER)]
    end = time.monotonic() + seconds

    def ask(prompt: str) -> bool:
        if time.monotonic() > end:
            return False
        body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 96}
        return httpx.post(f"{server.url}/v1/completions", json=body, timeout=120).raise_for_status().is_success

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(pool.map(ask, asked))


def check(prometheus: Prometheus) -> list[str]:
    """What has no value, or an error."""
    faults = []
    rules = prometheus.ask("rules")["groups"][0]["rules"]
    faults += [f"rule {rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    named = [(f"{panel}: {line}", one) for panel, lines in expressions().items() for line, one in lines]
    named += [(rule["name"], rule["name"]) for rule in rules if rule["type"] == "recording"]
    for name, expression in named:
        values = [float(one["value"][1]) for one in prometheus.ask("query", query=expression)["result"]]
        print(f"{name}: {', '.join(f'{value:.4g}' for value in values)}")
        if not values or not all(map(math.isfinite, values)):
            faults.append(f"{name} has no value: {expression}")
    return faults


def draw(prometheus: Prometheus, seconds: float, path: Path) -> None:
    """The panels, from what Prometheus answers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {title: lines for title, lines in expressions().items() if title != "Is this engine lossy?"}
    figure, axes = plt.subplots(math.ceil(len(panels) / 3), 3, figsize=(15, 13), layout="constrained")
    for unused in axes.flat[len(panels) :]:
        unused.remove()
    now = time.time()
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(title, fontsize=10)
        for legend, expression in lines:
            for one in prometheus.ask("query_range", query=expression, start=now - seconds, end=now, step=1)["result"]:
                label = legend
                for name, value in one["metric"].items():
                    label = label.replace("{{" + name + "}}", value)
                times, values = zip(*((at - now, float(value)) for at, value in one["values"]), strict=True)
                axis.plot(times, values, label=label, linewidth=1)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=6, ncols=2)
    figure.supxlabel("seconds")
    figure.savefig(path, dpi=80)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of load")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if not shutil.which("prometheus"):
        sys.exit("no prometheus here: apt-get install prometheus")
    config = TRIOS[World.HARDER].judge_config()
    config["judge"]["share"] = 0.5
    options = ["--max-num-seqs", str(CONCURRENCY)]
    with (
        Server(json.dumps(config), str(TRIOS[World.HARDER].target), options) as server,
        tempfile.TemporaryDirectory() as folder,
        Prometheus(server.url.removeprefix("http://"), Path(folder)) as prometheus,
    ):
        print(f"{load(server, arguments.seconds)} answers")
        faults = check(prometheus)
        if arguments.picture:
            draw(prometheus, arguments.seconds, arguments.picture)
    print(*faults, f"{len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
