"""Our fused verification against vLLM's own `rejection_sample`, on the GPU of this machine, both in one run.

For every case: time (median over repetitions of Triton's do_bench, L2 cache cleared, launches replayed from a CUDA
graph, so that the host's speed is not in it), bytes moved, their share of what a copy moves in that time (the memory
roofline), and kernel launches. Shapes vary one at a time around a middle one; the corners come last.

The JSON file holds, at any time, what has been found so far.

Without a GPU it prints what can be known: registers, spills and shared memory of the kernels as compiled for GPUs that
are not here (compile_kernels.py), and the bytes that every case moves.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from kernel_cases import JUDGE, OURS_ONLY, SWEEPS, Case, cases
from rich.console import Console
from rich.table import Table

from vllm_judge.measuring.provenance import about

COMPILE = Path(__file__).with_name("compile_kernels.py")
COPIED_BYTES = 2**31
ROOM = 0.8  # of the free memory; larger cases are left out, and said so
# What is kept of the reports of compile_kernels.py.
COMPILED = ("variant", "kernel", "target", "registers", "spilled_bytes", "shared_bytes", "wide_loads")
WARM_UP_MS, TIMED_MS = 10, 50


def both_sides(case: Case, device: str) -> dict[str, Callable[[], tuple[torch.Tensor, ...]]]:
    """The two calls to compare, on the same tensors.

    Raises:
        RuntimeError: ours does not accept what the case says.
    """
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    from vllm_judge.kernels.verdicts import num_judge_only
    from vllm_judge.kernels.verify import judged_rejection_sample

    inputs = case.inputs(device)
    strict = {name: value for name, value in inputs.items() if name not in OURS_ONLY}
    sides = {"ours": lambda: judged_rejection_sample(**inputs), "vllm": lambda: rejection_sample(**strict)}
    _, num_sampled, verdicts = sides["ours"]()
    judge_only = num_judge_only(verdicts)
    expected = case.num_drafts if case.accepted_by == JUDGE else 0
    if not (bool((num_sampled == case.num_drafts + 1).all()) and bool((judge_only == expected).all())):
        raise RuntimeError(f"{case}: {num_sampled.tolist()} sampled, {judge_only.tolist()} by the judge only.")
    return sides


def measure(case: Case, repetitions: int, bandwidth: float) -> dict[str, Any]:
    """The figures of a case; both sides are timed in turn in every repetition."""
    sides = both_sides(case, "cuda")
    graphs = {side: graph_of(call) for side, call in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repetitions):
        for side, graph in graphs.items():
            times[side].append(time_of(graph.replay))
    figures: dict[str, Any] = {}
    for side, call in sides.items():
        seconds, moved = statistics.median(times[side]), case.bytes_moved(side == "ours")
        figures[side] = {
            "microseconds": 1e6 * seconds,
            "bytes": moved,
            "roofline_share": moved / seconds / bandwidth,
            "launches": launches(call),
        }
    return (
        asdict(case) | figures | {"ours by vllm": statistics.median(times["ours"]) / statistics.median(times["vllm"])}
    )


def graph_of(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """The call's launches, without the host's part; the call has been made before."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def time_of(call: Callable[[], Any]) -> float:
    """Median seconds."""
    from triton.testing import do_bench

    return do_bench(call, warmup=WARM_UP_MS, rep=TIMED_MS, return_mode="median") / 1000


def launches(call: Callable[[], Any]) -> list[str]:
    """Names of what a call runs on the GPU, in order."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return [event.name for event in sorted(events, key=lambda event: event.time_range.start)]


def copy_bandwidth() -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    sink = torch.empty_like(source)
    return 2 * COPIED_BYTES / time_of(lambda: sink.copy_(source))


def compile_table() -> list[dict[str, Any]]:
    """What compile_kernels.py reports of every kernel and target."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "reports.json")
        subprocess.run([sys.executable, str(COMPILE), str(out)], check=True)
        reports = json.loads(out.read_text(encoding="utf-8"))
    return [{column: report[column] for column in COMPILED} for report in reports]


def show_compiled(reports: list[dict[str, Any]], console: Console) -> None:
    shown = Table(*(column.replace("_", " ") for column in COMPILED), box=None, header_style="bold")
    for report in reports:
        shown.add_row(*map(str, report.values()))
    console.print(shown)


def show_cases(rows: list[dict[str, Any]], console: Console) -> None:
    headings = ("kind", "accepted\nby", "batch", "M", "V", "H", "MB\nours", "MB\nvLLM")
    timed = (
        "us\nours",
        "us\nvLLM",
        "ours\n/vLLM",
        "roofline\nours",
        "roofline\nvLLM",
        "launches\nours",
        "launches\nvLLM",
    )
    with_times = "ours by vllm" in rows[0]
    shown = Table(*headings, *(timed if with_times else ()), box=None, header_style="bold")
    for row in rows:
        ours, vllm = row["ours"], row["vllm"]
        cells = [str(row[name]) for name in ("kind", "accepted_by", *SWEEPS)]
        cells += [f"{side['bytes'] / 1e6:.2f}" for side in (ours, vllm)]
        if with_times:
            cells += [f"{ours['microseconds']:.1f}", f"{vllm['microseconds']:.1f}", f"{row['ours by vllm']:.2f}"]
            cells += [f"{side['roofline_share']:.0%}" for side in (ours, vllm)]
            cells += [str(len(side["launches"])) for side in (ours, vllm)]
        shown.add_row(*cells)
    console.print(shown)


def on_gpu(repetitions: int, console: Console, save: Callable[[dict[str, Any]], None]) -> None:
    bandwidth = copy_bandwidth()
    console.print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e9:.0f} GB/s", highlight=False)
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for case in cases():
        if case.bytes_held > ROOM * torch.cuda.mem_get_info()[0]:
            left_out.append(asdict(case))
            continue
        rows.append(measure(case, repetitions, bandwidth))
        save({"copy_bytes_per_s": bandwidth, "cases": rows, "left_out": left_out})
        torch.cuda.empty_cache()
    show_cases(rows, console)
    unequal = [row for row in rows if len(row["ours"]["launches"]) != len(row["vllm"]["launches"])]
    console.print(f"{len(unequal)} of {len(rows)} cases launch another number of kernels than vLLM does.")
    console.print(f"{len(left_out)} cases were left out: this GPU's memory does not hold them.")
    save({"copy_bytes_per_s": bandwidth, "cases": rows, "left_out": left_out})


def without_gpu(console: Console, save: Callable[[dict[str, Any]], None]) -> None:
    console.print("No GPU: kernels as compiled for others, and bytes. No time was measured.")
    reports = compile_table()
    show_compiled(reports, console)
    sides = {"ours": True, "vllm": False}
    rows = [
        asdict(case) | {side: {"bytes": case.bytes_moved(judged)} for side, judged in sides.items()} for case in cases()
    ]
    show_cases(rows, console)
    save({"compiled": reports, "cases": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="(default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    console = Console(width=160)
    settings = about({"repetitions": arguments.repetitions})

    def save(found: dict[str, Any]) -> None:
        if arguments.json:
            # Replaced as a whole: whoever stops the run while it writes still finds the cases before.
            unfinished = arguments.json.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(settings | found, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(arguments.json)

    if torch.cuda.is_available():
        on_gpu(arguments.repetitions, console, save)
    else:
        without_gpu(console, save)


if __name__ == "__main__":
    main()
