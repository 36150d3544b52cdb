"""Tiny random targets of many architectures, and what transformers makes of each.

Final norms are no identity, so that a state before the norm is another one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

PROJECTED = 32  # what the output layer of "opt_projected" reads
LLAMA_LIKE = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": tiny.EOS,
    "initializer_range": 0.35,
    "tie_word_embeddings": False,
}
# Without sliding windows: on V1 vLLM wants the drafter's layers and the target's in one group of its cache.
GEMMA = {"tie_word_embeddings": True, "query_pre_attn_scalar": 32, "layer_types": ["full_attention"] * 2}
# MiniCPM multiplies embeddings and branches, and divides the state before its output layer by hidden_size / 16.
MINICPM = {"scale_emb": 2.0, "scale_depth": 1.4, "dim_model_base": 16, "num_experts": 0}
TOKENS = {"bos_token_id": 2, "eos_token_id": tiny.EOS, "pad_token_id": 0, "vocab_size": tiny.VOCAB}
OPT = {
    **TOKENS,
    "hidden_size": tiny.HIDDEN,
    "ffn_dim": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "init_std": 0.35,
}
GPT2 = {**TOKENS, "n_embd": tiny.HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": 512, "initializer_range": 0.35}

# What transformers calls the model, its configuration, and how vLLM is told that it is another one.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", LLAMA_LIKE, {}),
    "mimo": ("Qwen2", LLAMA_LIKE, {"architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 0}),
    "minicpm": ("Llama", LLAMA_LIKE, {"architectures": ["MiniCPMForCausalLM"], **MINICPM}),
    "gemma2": ("Gemma2", {**LLAMA_LIKE, **GEMMA, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 50.0}, {}),
    "gemma3": ("Gemma3", {**LLAMA_LIKE, **GEMMA}, {}),
    "cohere": ("Cohere", {**LLAMA_LIKE, "logit_scale": 0.25, "tie_word_embeddings": True}, {}),
    "granite": (
        "Granite",
        {
            **LLAMA_LIKE,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 2.0,
            "attention_multiplier": 0.2,
        },
        {},
    ),
    "opt_projected": ("OPT", {**OPT, "word_embed_proj_dim": PROJECTED, "do_layer_norm_before": False}, {}),
    "gpt2": ("GPT2", GPT2, {}),
    "qwen3": ("Qwen3", LLAMA_LIKE, {}),
    "phi3": ("Phi3", {**LLAMA_LIKE, "original_max_position_embeddings": 512}, {}),
    "mixtral": ("Mixtral", {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2}, {}),
}


def _classes(family: str) -> tuple[Callable[..., Any], Any]:
    config = {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config")
    model = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    return getattr(transformers, config), getattr(transformers, model)


def make_architecture(name: str, folder: Path) -> Path:
    """A checkpoint of fp32 weights with the tokenizer of `tiny`."""
    family, options, change = ARCHITECTURES[name]
    make_config, make_model = _classes(family)
    torch.manual_seed(5)
    model = make_model(make_config(**options)).eval()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if "norm" in part or ".ln_" in part:
                parameter.add_(torch.rand_like(parameter))
    model.save_pretrained(folder)
    tiny.make_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    return folder


def in_transformers(name: str, folder: Path) -> Callable[[list[int]], tuple[torch.Tensor, torch.Tensor]]:
    """For T token ids the input of the output layer [T, H] and logits [T, V], by transformers."""
    divided_by = 1.0
    if name == "minicpm":
        # Granite has the same multipliers, but divides logits where MiniCPM divides states.
        divided_by = tiny.HIDDEN / MINICPM["dim_model_base"]
        config = transformers.GraniteConfig(
            **LLAMA_LIKE,
            embedding_multiplier=MINICPM["scale_emb"],
            residual_multiplier=MINICPM["scale_depth"] / LLAMA_LIKE["num_hidden_layers"] ** 0.5,
            attention_multiplier=LLAMA_LIKE["head_dim"] ** -0.5,
            logits_scaling=divided_by,
        )
        model = transformers.GraniteForCausalLM.from_pretrained(folder, config=config)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
    seen: list[torch.Tensor] = []
    model.eval().get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    @torch.inference_mode()
    def run(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(torch.tensor([ids])).logits[0]
        return seen.pop()[0] / divided_by, logits

    return run
