"""A tiny random chat model that knows every byte, and labelled answers for it."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_judge.tokencourt import records
from vllm_judge.tokencourt.court import Answer, Message, Span

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_chat_model(folder: Path, tied: bool = False, **config: Any) -> Path:
    """A random Llama of fp32 weights whose final norm is no identity, and a byte-level tokenizer with a template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", chat_template=TEMPLATE).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": 257, "eos_token_id": 256, "bos_token_id": None, "max_position_embeddings": 256}
    settings = {**shape, **tokens, "tie_word_embeddings": tied, "initializer_range": 0.2, **config}
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    torch.nn.init.uniform_(model.model.norm.weight, 0.5, 2.0)
    model.save_pretrained(folder)
    return folder


def write_court(path: Path, questions: int) -> list[Answer]:
    """A right and a wrong answer to each of so many questions."""
    answers = []
    for number in range(questions):
        asked = [Message(role="user", content=f"What is {number} + 1?")]
        common = {"messages": asked, "model": "someone", "labelled_by": "a person"}
        right = f"It is {number + 1}."
        wrong = f"It is {number + 7}. Surely."
        mistake = Span(start=6, end=wrong.index("."))
        answers.append(Answer(id=f"{number}/right", answer=right, verdict="right", **common))
        answers.append(Answer(id=f"{number}/wrong", answer=wrong, verdict="wrong", mistake=mistake, **common))
    records.write(path, answers)
    return answers
