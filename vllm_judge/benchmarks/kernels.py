"""The section of a report on the kernels: scripts/bench_kernels.py --json."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vllm_judge.page.parts import Row, Section, Table, number, text


class Side(BaseModel):
    """One side of a case; times only where there was a GPU."""

    bytes: int
    microseconds: float | None = None
    roofline_share: float | None = None
    launches: list[str] | None = None


class KernelCase(BaseModel):
    """A verification step."""

    model_config = ConfigDict(populate_by_name=True)

    kind: str
    accepted_by: str
    batch: int
    num_drafts: int
    vocab_size: int
    hidden_size: int
    ours: Side
    vllm: Side
    ratio: float | None = Field(default=None, alias="ours by vllm")

    def cells(self) -> Row:
        sizes = (self.batch, self.num_drafts, self.vocab_size, self.hidden_size)
        cells = [text(self.kind), text(self.accepted_by), *(number(size, "d") for size in sizes)]
        cells += [number(side.bytes / 1e6) for side in (self.ours, self.vllm)]
        if self.ratio is not None:
            cells += [number(side.microseconds or 0.0, ".1f") for side in (self.ours, self.vllm)]
            cells += [number(self.ratio)]
            cells += [number(100 * (side.roofline_share or 0.0), ".0f") for side in (self.ours, self.vllm)]
            cells += [number(len(side.launches or []), "d") for side in (self.ours, self.vllm)]
        return Row(cells)


class Compiled(BaseModel):
    """A kernel as compiled for a target."""

    variant: str
    kernel: str
    target: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    wide_loads: int


class KernelsFile(BaseModel):
    """What scripts/bench_kernels.py --json writes."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    command: str | None = None
    copy_bytes_per_s: float | None = None
    compiled: list[Compiled] = []
    cases: list[KernelCase] = Field(min_length=1)

    def section(self) -> Section:
        timed = self.cases[0].ratio is not None
        columns = ["kind", "accepted by", "batch", "drafts", "vocabulary", "hidden size", "MB, ours", "MB, vLLM's"]
        if timed:
            columns += ["us, ours", "us, vLLM's", "ours by vLLM's", "roofline %, ours", "roofline %, vLLM's"]
            columns += ["launches, ours", "launches, vLLM's"]
        tables = [Table("Verification steps", columns, [case.cells() for case in self.cases])]
        if self.compiled:
            tables.append(self._compiled())
        return Section(
            title="Verification kernels",
            method="Our fused verification and vLLM's own rejection_sample on the same tensors. "
            + (
                f"A copy moved {(self.copy_bytes_per_s or 0.0) / 1e9:.0f} GB/s in the same run."
                if timed
                else "There was no GPU: bytes are counted, and no time was measured."
            ),
            tables=tables,
            definitions={
                "kind": "greedy: raw bf16 logits are the final ones; sampled: a temperature, fp32 final logits beside "
                "them, and draft logits; processed: as sampled, where more than temperature made the final logits. "
                "All with evidence",
                "accepted_by": "strict: all drafts pass the strict test; judge: all fail it and pass the judge, where "
                "vLLM stops at the first",
                "MB": "bytes read and written, each once in a launch, as far as they grow with vocabulary or hidden "
                "size",
                "us": "median microseconds over repetitions, L2 cache cleared, from a CUDA graph",
                "roofline": "bytes by time, as a share of what a copy moves",
                "wide_loads": "loads of 16 bytes in the code",
            },
            settings=self.settings,
            machine=self.machine,
            command=self.command,
        )

    def _compiled(self) -> Table:
        columns = ["variant", "kernel", "target", "registers", "spilled bytes", "shared bytes", "16-byte loads"]
        rows = [
            Row(
                [
                    *(text(word) for word in (one.variant, one.kernel, one.target)),
                    *(
                        number(count, "d")
                        for count in (one.registers, one.spilled_bytes, one.shared_bytes, one.wide_loads)
                    ),
                ]
            )
            for one in self.compiled
        ]
        return Table("Kernels as compiled for GPUs that were not there", columns, rows)
