"""Tiny random checkpoints of every kind of drafter, and how each is named in a speculative config.

A drafter takes over what it can of its target (embeddings, output layer), so that some of what it proposes is right.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import torch
from environments import NUM_DRAFTS
from safetensors.torch import load_file, save_file
from tiny import HIDDEN, VOCAB
from transformers import (
    AutoModelForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

INTERMEDIATE = 128
# eagle3 and dflash read the target's hidden states at three depths, and so want a target that has them.
DEEP = 8
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": HIDDEN // 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": tiny.EOS,
    "torch_dtype": "float32",
}
MTP_TARGET = {
    **{key: value for key, value in LLAMA.items() if key not in ("architectures", "model_type", "torch_dtype")},
    "initializer_range": 0.35,
}
Tensors = dict[str, torch.Tensor]

LENGTH = 16  # tokens of an answer
# Of four requests in a batch, each its own.
DIALS: dict[str, list[dict[str, Any]]] = {
    "default": [{}] * 4,
    "accept all": [{"judge_threshold": 0.0}] * 4,
    "mixed": [{}, {"judge_threshold": 0.0}, {"judge": False}, {"judge_threshold": 0.9}],
}


def prompts() -> list[list[int]]:
    """Four, each with a repetition, for drafters that look tokens up."""
    return [[*prompt, *prompt[:3]] for prompt in tiny.prompts(4, length=7)]


def random(*shape: int, scale: float = 0.3) -> torch.Tensor:
    return torch.randn(*shape) * scale


def layer(prefix: str, scale: float = 0.3, attention_input: int = HIDDEN) -> Tensors:
    """A decoder layer's weights, Llama's names."""
    shapes = {
        **{f"self_attn.{name}_proj": (HIDDEN, attention_input) for name in "qkv"},
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    weights = {f"{prefix}.{name}.weight": random(*shape, scale=scale) for name, shape in shapes.items()}
    return weights | ones(f"{prefix}.input_layernorm", f"{prefix}.post_attention_layernorm")


def ones(*names: str, size: int = HIDDEN) -> Tensors:
    return {f"{name}.weight": torch.ones(size) for name in names}


def first_plus_some_of_second() -> torch.Tensor:
    """[H, 2H]: of two states side by side, the first and a little of the second."""
    return torch.cat([torch.eye(HIDDEN), random(HIDDEN, HIDDEN, scale=0.02)], dim=1)


def write(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    tiny.make_tokenizer(folder)
    return folder


def words_of(target: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's embeddings and output layer, [V, H] each."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    return model.get_input_embeddings().weight.detach().clone(), model.get_output_embeddings().weight.detach().clone()


def make_deep_target(folder: Path) -> None:
    torch.manual_seed(0)
    options = {**MTP_TARGET, "num_hidden_layers": DEEP, "initializer_range": 0.2}
    LlamaForCausalLM(LlamaConfig(**options)).eval().save_pretrained(folder)
    tiny.make_tokenizer(folder)


def make_eagle(folder: Path, target: Path) -> None:
    torch.manual_seed(11)
    embeddings, _ = words_of(target)
    weights = layer("layers.0", scale=0.03)
    del weights["layers.0.input_layernorm.weight"]
    fc = first_plus_some_of_second().roll(HIDDEN, dims=1)  # embeddings first, then the target's state
    write(folder, LLAMA, {"embed_tokens.weight": embeddings, "fc.weight": fc, **weights})


def make_eagle3(folder: Path, target: Path, few_words: bool = False, parallel: bool = False) -> None:
    torch.manual_seed(12)
    embeddings, output = words_of(target)
    weights = {"embed_tokens.weight": embeddings, "fc.weight": random(HIDDEN, 3 * HIDDEN, scale=0.1), **ones("norm")}
    weights |= layer("midlayer", attention_input=2 * HIDDEN) | ones("midlayer.hidden_norm")
    words = torch.arange(3, VOCAB, 2) if few_words else torch.arange(VOCAB)
    if few_words:
        known = torch.zeros(VOCAB, dtype=torch.bool)
        known[words] = True
        weights |= {"d2t": words - torch.arange(len(words)), "t2d": known}
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": len(words)}
    if parallel:
        weights["mask_hidden"] = random(1, 3 * HIDDEN)
        config["mask_token_id"] = tiny.SPECIAL
    write(folder, config, {**weights, "lm_head.weight": output[words]})


def make_dflash(folder: Path, target: Path) -> None:
    torch.manual_seed(15)
    embeddings, output = words_of(target)
    weights = layer("layers.0", scale=0.1) | ones("norm", "hidden_norm")
    weights |= ones("layers.0.self_attn.q_norm", "layers.0.self_attn.k_norm", size=HIDDEN // 2)
    weights |= {"embed_tokens.weight": embeddings, "lm_head.weight": output}
    weights["fc.weight"] = random(HIDDEN, 3 * HIDDEN, scale=0.1)
    read = {"mask_token_id": tiny.SPECIAL, "target_layer_ids": [1, DEEP // 2, DEEP - 2], "causal": True}
    config = {**LLAMA, "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "dflash_config": read}
    write(folder, config, weights)


def make_medusa(folder: Path, target: Path) -> None:
    torch.manual_seed(13)
    _, output = words_of(target)
    weights: Tensors = {}
    for i in range(NUM_DRAFTS):
        weights[f"blocks.{i}.layers.0.weight"] = random(HIDDEN, HIDDEN, scale=0.05)
        weights[f"blocks.{i}.layers.0.bias"] = torch.zeros(HIDDEN)
        weights[f"lm_heads.{i}.weight"] = output + random(VOCAB, HIDDEN, scale=0.2)
    sizes = {"hidden_size": HIDDEN, "vocab_size": VOCAB, "num_heads": NUM_DRAFTS, "num_hidden_layers": 1}
    config = {"architectures": ["MedusaModel"], "model_type": "medusa", "torch_dtype": "float32", **sizes}
    write(folder, config, weights)


def make_mimo(folder: Path) -> None:
    """A Qwen2 that vLLM is told is a MiMo, whose compute_logits norms, with one layer to predict a token more."""
    torch.manual_seed(14)
    config = Qwen2Config(**{**MTP_TARGET, "num_hidden_layers": 2})
    Qwen2ForCausalLM(config).eval().save_pretrained(folder)
    tiny.make_tokenizer(folder)
    prefix = "model.mtp_layers.0"
    weights = layer(prefix, scale=0.1)
    weights |= {f"{prefix}.self_attn.{name}_proj.bias": torch.zeros(HIDDEN) for name in "qkv"}
    weights |= ones(*(f"{prefix}.{name}_layernorm" for name in ("token", "hidden", "final")))
    weights[f"{prefix}.input_proj.weight"] = first_plus_some_of_second()
    _add(folder, weights, {"architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 1})


def make_glm(folder: Path) -> None:
    """The third layer of a random GLM-4-MoE becomes its layer to predict a token more."""
    torch.manual_seed(9)
    experts = {"moe_intermediate_size": 64, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
    groups = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    config = Glm4MoeConfig(**{**MTP_TARGET, "num_hidden_layers": 3, **experts, **groups})
    Glm4MoeForCausalLM(config).eval().save_pretrained(folder)
    tiny.make_tokenizer(folder)
    own, prefix = load_file(folder / "model.safetensors"), "model.layers.2"
    weights = ones(*(f"{prefix}.{name}" for name in ("enorm", "hnorm", "shared_head.norm")))
    weights[f"{prefix}.eh_proj.weight"] = first_plus_some_of_second()
    weights[f"{prefix}.shared_head.head.weight"] = own["lm_head.weight"].clone()
    weights[f"{prefix}.embed_tokens.weight"] = own["model.embed_tokens.weight"].clone()
    _add(folder, weights, {"num_hidden_layers": 2, "num_nextn_predict_layers": 1})


def _add(folder: Path, weights: Tensors, change: dict[str, Any]) -> None:
    """Adds weights and changes the configuration of a saved model."""
    save_file({**load_file(folder / "model.safetensors"), **weights}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | change
    for kinds in ("layer_types", "mlp_layer_types"):
        if kinds in config:
            config[kinds] = config[kinds][: config["num_hidden_layers"]]
    (folder / "config.json").write_text(json.dumps(config))


class Repeating:
    """A proposer of one's own (method custom_class): 0 to NUM_DRAFTS tokens, made of the last one alone."""

    def __init__(self, vllm_config: Any):
        self.most = vllm_config.speculative_config.num_speculative_tokens

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        pass

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        return [self.drafts(sampled[-1]) if sampled else [] for sampled in sampled_token_ids]

    def drafts(self, last: int) -> list[int]:
        return [(last * 7 + i) % (VOCAB - 3) + 3 for i in range(last % (self.most + 1))]


NGRAM = {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 3}


def looked_up(text: Sequence[int]) -> list[int]:
    """What V2's n-gram speculator proposes: what followed the latest earlier place of the longest known ending."""
    for n in range(NGRAM["prompt_lookup_max"], 0, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[len(text) - n :]:
                return list(text[start + n :][:NUM_DRAFTS])
    return []


@dataclass(frozen=True)
class Drafter:
    """How a drafter is run.

    Attributes:
        config: vLLM's speculative config, where "{models}" stands for the folder of checkpoints.
        target: the checkpoint that it drafts for.
        make: makes its checkpoint: make(folder, target's folder); name: the folder's.
        limits: by runner, what vLLM says where it cannot run this drafter there.
        asynchronous: whether vLLM schedules this drafter asynchronously.
    """

    config: dict[str, Any]
    target: str = "target"
    make: Callable[[Path, Path], Any] | None = None
    name: str = ""
    limits: dict[str, str] = field(default_factory=dict)
    asynchronous: bool = False


def _v2_lacks(what: str) -> dict[str, str]:
    return {"v2": f"Model Runner V2 does not yet support: {what}"}


def _file(method: str, name: str, **options: Any) -> dict[str, Any]:
    return {"method": method, "model": f"{{models}}/{name}", **options}


DRAFTERS = {
    "draft_model": Drafter(_file("draft_model", "draft"), asynchronous=True),
    "ngram": Drafter(NGRAM),
    "suffix": Drafter({"method": "suffix"}, limits=_v2_lacks("speculative method 'suffix'")),
    "custom_class": Drafter(
        {"method": "custom_class", "model": "drafters.Repeating"},
        limits=_v2_lacks("speculative method 'custom_class'"),
    ),
    "medusa": Drafter(
        _file("medusa", "medusa"), make=make_medusa, name="medusa", limits=_v2_lacks("speculative method 'medusa'")
    ),
    "eagle": Drafter(_file("eagle", "eagle"), make=make_eagle, name="eagle", asynchronous=True),
    "eagle3": Drafter(_file("eagle3", "eagle3"), "deep", make_eagle3, "eagle3", asynchronous=True),
    "eagle3, half the vocabulary": Drafter(
        _file("eagle3", "eagle3_half"),
        "deep",
        lambda folder, target: make_eagle3(folder, target, few_words=True),
        "eagle3_half",
        asynchronous=True,
    ),
    "p-eagle": Drafter(
        _file("eagle3", "p_eagle", parallel_drafting=True),
        "deep",
        lambda folder, target: make_eagle3(folder, target, parallel=True),
        "p_eagle",
        limits=_v2_lacks("parallel drafting for EAGLE speculative decoding"),
        asynchronous=True,
    ),
    "dflash": Drafter(_file("dflash", "dflash"), "deep", make_dflash, "dflash", asynchronous=True),
    "mtp (GLM-4-MoE)": Drafter({"method": "mtp"}, "glm", asynchronous=True),
    "mtp (MiMo)": Drafter({"method": "mtp"}, "mimo", asynchronous=True),
}


def make_models(root: Path, names: Sequence[str]) -> Path:
    """The checkpoints that some drafters need, and the judge head `random`, which reads evidence too."""
    tiny.make_head(root / "random", 4.0, scale=0.3, use_evidence=True)  # accepts about half of what is unlikely
    makers = {"target": tiny.make_target, "deep": make_deep_target, "glm": make_glm, "mimo": make_mimo}
    for target in {DRAFTERS[name].target for name in names}:
        makers[target](root / target)
    for name in names:
        drafter = DRAFTERS[name]
        if drafter.make is not None:
            drafter.make(root / drafter.name, root / drafter.target)
    if "draft_model" in names:
        tiny.make_draft(root / "target", root / "draft")
    return root


def speculative_config(models: Path, name: str) -> dict[str, Any]:
    config = {**DRAFTERS[name].config, "num_speculative_tokens": NUM_DRAFTS}
    return {key: v.replace("{models}", str(models)) if isinstance(v, str) else v for key, v in config.items()}
