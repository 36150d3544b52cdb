"""Tiny random checkpoints for tests: a Llama target, a draft that is a noisy copy of it, judge heads."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vllm_judge import JudgeHead

VOCAB = 131  # not a power of two, not a multiple of anything
HIDDEN = 64
EOS = 1
SPECIAL = 2


def make_tokenizer(folder: Path, zero_is_ordinary: bool = False) -> None:
    """One token a word: w3 ... w130, beside <pad> (or w0), </s> and one special token."""
    words = ["w0" if zero_is_ordinary else "<pad>", "</s>", "<special>", *(f"w{i}" for i in range(3, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=None if zero_is_ordinary else "<pad>",
        eos_token="</s>",
        additional_special_tokens=["<special>"],
        model_max_length=512,
    ).save_pretrained(folder)


def make_target(folder: Path, seed: int = 0) -> Path:
    """A random Llama whose logits are spread enough that fp32 noise does not decide an argmax."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=EOS,
        initializer_range=0.35,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_draft(target: Path, folder: Path, noise: float = 0.012, seed: int = 1) -> Path:
    """The target with noise on its weights: strict verification accepts some of its tokens, not all."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(target)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_head(folder: Path, bias: float, *, use_evidence: bool = False, scale: float = 0.0, seed: int = 2) -> Path:
    """A head: scale 0 is constant (bias +100 accepts all, -100 rejects all), otherwise random weights."""
    torch.manual_seed(seed)
    head = JudgeHead(HIDDEN, use_evidence=use_evidence)
    with torch.no_grad():
        head.bias.fill_(bias)
        head.weight.copy_(torch.randn(HIDDEN) * scale)
        if use_evidence:
            head.evidence.copy_(torch.tensor([0.3, -0.2, -0.3, 1.0]))
    head.save_pretrained(folder)
    return folder


def prompts(count: int, length: int = 8, seed: int = 3) -> list[list[int]]:
    """Random token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (count, length), generator=generator).tolist()


def make_eager_draft(draft: Path, folder: Path, tokens: list[int]) -> Path:
    """A draft that proposes the given tokens often: their output rows follow the most common direction."""
    model = LlamaForCausalLM.from_pretrained(draft)
    with torch.no_grad():
        rows = model.lm_head.weight
        rows[tokens] = (
            rows.norm(dim=1).max() * 3 * torch.nn.functional.normalize(torch.randn(len(tokens), HIDDEN), dim=1)
        )
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder
