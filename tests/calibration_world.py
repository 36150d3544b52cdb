"""A tiny chat model, a noisy copy of it as its draft, a head, and questions that can be checked."""

from pathlib import Path

import torch
from chat_model import make_chat_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllm_judge.head import JudgeHead
from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.choices import Check, Split
from vllm_judge.tokencourt.court import Message
from vllm_judge.tokencourt.questions import Question


def make_world(folder: Path, questions: int = 10) -> Path:
    """target, draft, a head that is even at every token, and questions.jsonl, of which every second is held out."""
    target = make_chat_model(folder / "target")
    draft = AutoModelForCausalLM.from_pretrained(target)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    draft.save_pretrained(folder / "draft")
    AutoTokenizer.from_pretrained(target).save_pretrained(folder / "draft")
    head = JudgeHead(64, target_model="target", provenance={"method": "none"})
    head.requires_grad_(False).save_pretrained(folder / "head")
    asked = [
        Question(
            id=str(number),
            messages=[Message(role="user", content=f"What is {number} + 1?")],
            split=Split.held_out if number % 2 else Split.train,
            reference=str(number + 1),
            check=Check.number,
        )
        for number in range(questions)
    ]
    records.write(folder / "questions.jsonl", asked)
    return folder
