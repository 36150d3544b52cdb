"""The model card of a judge head."""

from vllm_judge.head import JudgeHead

CARD = """---
library_name: vllm-judge-decoding
tags: [judge-decoding, speculative-decoding, vllm]
---

# Judge head for {target}

One linear layer for [Judge Decoding](https://arxiv.org/abs/2501.19309) in vLLM. It reads {inputs}, and
scores whether a draft token is right where it stands, however the target itself would have worded it. A draft token is
accepted when vLLM's own verification accepts it or when the score's probability is above the threshold ({threshold}
unless set).

Use it with the target that it was fitted on, and with no other:

    {{"method": "draft_model", "model": "<draft>", "num_speculative_tokens": 16, "judge": {{"model": "<this folder>"}}}}

Judge Decoding does not keep the target's distribution: an accepted token is one that the judge takes for right.

## How it was trained

{method}

Fitted on {fit_right:,} right tokens and {fit_wrong:,} mistakes; measured on {held_out_right:,} right tokens and
{held_out_wrong:,} mistakes of other problems. AUC {auc:.4f}{auc_mismatch}.

| threshold | right tokens accepted | mistakes accepted |
|---|---|---|
{rates}
"""


def head_card(head: JudgeHead) -> str:
    """A README.md from what the head's provenance says."""
    provenance = head.provenance
    inputs = "the target's last hidden state at the token's own row"
    if head.evidence is not None:
        inputs += " and what the target's own distribution said of the token"
    mismatch = provenance["auc_mismatch"]
    rows = (f"| {r['threshold']} | {r['accepts']:.2%} | {r['false_accepts']:.2%} |" for r in provenance["rates"])
    return CARD.format(
        target=head.target_model,
        inputs=inputs,
        threshold=head.threshold,
        method=provenance["method"],
        fit_right=provenance["fit_tokens"]["right"],
        fit_wrong=provenance["fit_tokens"]["wrong"],
        held_out_right=provenance["held_out_tokens"]["right"],
        held_out_wrong=provenance["held_out_tokens"]["wrong"],
        auc=provenance["auc"],
        auc_mismatch=""
        if mismatch is None
        else f"; among tokens that the target would not have chosen itself\n{mismatch:.4f}",
        rates="\n".join(rows),
    )
