"""Loads `vllm serve` with `vllm bench serve`, plain, strict and judged, over a sweep of concurrency; quality beside it.

One server after the other gets the same prompts, other ones at each concurrency, so that no level finds its prompts in
the prefix cache. Latencies and throughput are `vllm bench serve`'s own; the answers that it timed are the ones that are
checked. By default the embedded models solve word problems; for a pair of your own:

    scripts/bench_serve.py --target TARGET --speculative-config judge.json --questions questions.jsonl -n 100 \\
        --concurrency 1 8 64 --goodput ttft:200 tpot:20 --serve-options "--tensor-parallel-size 4" --json serve.json

`vllm-judge court questions` writes such files; the held-out questions are asked, and where all of them can be checked,
accuracy is measured too.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from serve_prompts import Prompt, PromptError, demo_prompts, quality, read_prompts
from vllm_server import MODEL, Server, ServerError, vllm_command

from vllm_judge.benchmarks.offline import last_lines
from vllm_judge.config import read_speculative_config
from vllm_judge.demo import trio
from vllm_judge.demo.engine import engine_environment
from vllm_judge.errors import JudgeConfigError, JudgeError
from vllm_judge.measuring.provenance import about
from vllm_judge.measuring.statistics import Estimate

WIDTH = 110  # characters that the widest table takes
MODES = ("plain", "strict", "judge")
UNMEASURED = (
    "Quality was not measured: not every prompt has an answer to check. Judged answers differ from the target's own; "
    "judge-only share says how much of what was accepted strict verification would have rejected."
)


def speculative_configs(path: Path) -> dict[str, str | None]:
    """--speculative-config of every mode; strict is the judge's without its judge.

    Raises:
        JudgeConfigError: the file is no speculative config, or has no judge.
    """
    strict, judge = read_speculative_config(path)
    if judge is None:
        raise JudgeConfigError(f"{path} has no section judge: strict and judged verification would be the same.")
    return {"plain": None, "strict": json.dumps(strict), "judge": str(path)}


def bench(server: Server, arguments: argparse.Namespace, prompts: Sequence[Prompt], concurrency: int) -> dict[str, Any]:
    """What `vllm bench serve` says of these prompts, every answer's text included."""
    with tempfile.TemporaryDirectory() as folder:
        asked, result = Path(folder, "prompts.jsonl"), Path(folder, "result.json")
        asked.write_text("".join(json.dumps({"prompt": prompt.text}) + "\n" for prompt in prompts), encoding="utf-8")
        command = vllm_command("bench", "serve", "--base-url", server.url, "--model", MODEL)
        command += ["--tokenizer", arguments.target or str(trio.TARGET)]
        command += ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
        command += ["--dataset-name", "custom", "--dataset-path", str(asked), "--skip-chat-template"]
        command += ["--disable-shuffle", "--num-prompts", str(len(prompts)), "--output-len", str(arguments.max_tokens)]
        command += ["--max-concurrency", str(concurrency), "--temperature", "0", "--disable-tqdm"]
        command += ["--percentile-metrics", "ttft,tpot", "--metric-percentiles", "50,99"]
        command += ["--goodput", *arguments.goodput] if arguments.goodput else []
        command += ["--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", result.name]
        environment = dict(os.environ) if arguments.target else engine_environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode or not result.exists():
            said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise ServerError(f"vllm bench serve failed:\n{said}\nThe server's log ends:\n{last_lines(server.log)}")
        found = json.loads(result.read_text(encoding="utf-8"))
    if found["completed"] != len(prompts):
        error = next((error for error in found["errors"] if error), "no error was given")
        raise ServerError(f"{len(prompts) - found['completed']} of {len(prompts)} requests failed: {error}")
    return found


def level(found: Mapping[str, Any], before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Any]:
    """The figures of one mode at one concurrency."""
    cycles, accepted, judge_only = (after[name] - before[name] for name in ("cycles", "accepted", "judge_only"))
    return {
        "n": found["completed"],
        "tokens_per_s": found["output_throughput"],
        "requests_per_s": found["request_throughput"],
        "goodput_per_s": found["request_goodput"],
        **{f"{name}_{at}": found[f"{at}_{name}"] for name in ("ttft_ms", "tpot_ms") for at in ("p50", "p99")},
        "accepted_per_cycle": accepted / cycles if cycles else 0.0,
        "judge_only_share": judge_only / accepted if accepted else 0.0,
    }


def measure(
    arguments: argparse.Namespace, configs: Mapping[str, str | None], prompts: Sequence[Prompt], console: Console
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """A line for every mode and concurrency; every mode's answers, in the order of the prompts after the first n."""
    options = shlex.split(arguments.serve_options)
    n, lines = arguments.n, []
    texts: dict[str, list[str]] = {}
    for mode in MODES:
        with Server(configs[mode], arguments.target, options) as server:
            bench(server, arguments, prompts[:n], max(arguments.concurrency))  # warms up
            for number, concurrency in enumerate(arguments.concurrency, 1):
                console.print(f"{mode}, {concurrency} at a time", highlight=False)
                before = server.counters()
                found = bench(server, arguments, prompts[number * n : (number + 1) * n], concurrency)
                figures = level(found, before, server.counters())
                lines.append({"mode": mode, "concurrency": concurrency} | figures)
                texts.setdefault(mode, []).extend(found["generated_texts"])
    return lines, texts


def ratios(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, float]]:
    """At every concurrency: the judge's figures by those of plain and strict, above 1 where the judge is faster."""
    for concurrency in dict.fromkeys(line["concurrency"] for line in lines):
        by_mode = {line["mode"]: line for line in lines if line["concurrency"] == concurrency}
        found: dict[str, float] = {"concurrency": concurrency}
        for other in ("plain", "strict"):
            judge, base = by_mode["judge"], by_mode[other]
            found[f"tokens/s, judge / {other}"] = judge["tokens_per_s"] / base["tokens_per_s"]
            found[f"requests/s, judge / {other}"] = judge["requests_per_s"] / base["requests_per_s"]
            found[f"time per output token, {other} / judge"] = base["tpot_ms_p50"] / judge["tpot_ms_p50"]
            found[f"time to first token, {other} / judge"] = base["ttft_ms_p50"] / judge["ttft_ms_p50"]
            if base["goodput_per_s"]:
                found[f"goodput, judge / {other}"] = judge["goodput_per_s"] / base["goodput_per_s"]
        yield found


def table(lines: Sequence[Mapping[str, Any]]) -> Table:
    headings = "", "at a\ntime", "tokens\n/s", "requests\n/s", "TTFT ms\np50", "\np99", "TPOT ms\np50", "\np99"
    shown = Table(*headings, "goodput\n/s", "accepted\n/cycle", "judge\nonly", box=None, header_style="bold")
    for line in lines:
        shown.add_row(
            line["mode"],
            str(line["concurrency"]),
            f"{line['tokens_per_s']:.0f}",
            f"{line['requests_per_s']:.2f}",
            *(f"{line[name]:.1f}" for name in ("ttft_ms_p50", "ttft_ms_p99", "tpot_ms_p50", "tpot_ms_p99")),
            "" if line["goodput_per_s"] is None else f"{line['goodput_per_s']:.2f}",
            f"{line['accepted_per_cycle']:.2f}",
            f"{line['judge_only_share']:.1%}",
        )
    return shown


def ratio_table(found: Sequence[Mapping[str, float]]) -> Table:
    headings = (f"{one['concurrency']:g} at a time" for one in found)
    shown = Table("above 1: the judge is faster", *headings, box=None, header_style="bold")
    for name in dict.fromkeys(name for one in found for name in one if name != "concurrency"):
        shown.add_row(name, *(f"{one[name]:.2f}" if name in one else "" for one in found))
    return shown


def show_quality(found: Mapping[str, Any] | None, console: Console) -> None:
    if found is None:
        console.print(UNMEASURED, highlight=False)
        return
    for mode, one in found.items():
        right, minus = Estimate(**one["accuracy"]), Estimate(**one["minus_plain"])
        console.print(
            f"{mode}: accuracy {right.value:.1%} [{right.low:.1%}, {right.high:.1%}], minus plain "
            f"{100 * minus.value:+.1f} [{100 * minus.low:+.1f}, {100 * minus.high:+.1f}], n = {one['n']}",
            highlight=False,
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="folder or Hub repository (default: the embedded target)")
    parser.add_argument("--speculative-config", type=Path, help="judge.json of that target")
    parser.add_argument("--questions", type=Path, help="for that target, as `vllm-judge court questions` writes them")
    parser.add_argument("--serve-options", default="", help="more options of `vllm serve`, in one string")
    parser.add_argument("-n", type=int, default=32, help="prompts at each concurrency (default: 32)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8], help="(default: 1 2 4 8)")
    parser.add_argument("--max-tokens", type=int, default=trio.MAX_NEW_TOKENS, help="longest answer")
    parser.add_argument("--goodput", nargs="+", help="objectives of `vllm bench serve`, in ms: ttft:200 tpot:20")
    parser.add_argument("--seed", type=int, default=0, help="which word problems (default: 0)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    given = [arguments.target, arguments.speculative_config, arguments.questions]
    if any(given) and not all(given):
        parser.error("give --target, --speculative-config and --questions together, or none of them.")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a server is stopped then, too
    count = arguments.n * (1 + len(arguments.concurrency))  # the first n warm up
    prompts = read_prompts(arguments.questions, count) if arguments.questions else demo_prompts(count, arguments.seed)
    configs = speculative_configs(arguments.speculative_config or trio.JUDGE_JSON)
    console = Console(width=WIDTH)
    lines, texts = measure(arguments, configs, prompts, console)
    checked = quality(prompts[arguments.n :], texts)
    found = list(ratios(lines))
    console.print(table(lines))
    console.print(ratio_table(found))
    show_quality(checked, console)
    if arguments.json:
        names = ("target", "n", "concurrency", "max_tokens", "goodput", "serve_options")
        settings = {name: getattr(arguments, name) for name in names}
        report = about(settings) | {"serving": lines, "ratios": found, "quality": checked}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except (JudgeError, JudgeConfigError, PromptError, ServerError) as error:
        sys.exit(f"bench_serve: {error}")
