"""Where hidden states and evidence come from: vLLM, or transformers on machines without it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from transformers import AutoModelForCausalLM

from vllm_judge import output_layer
from vllm_judge.errors import JudgeConfigError, JudgeError
from vllm_judge.head import EVIDENCE
from vllm_judge.kernels.reference import evidence
from vllm_judge.threads import set_threads
from vllm_judge.training.choices import Dtype, SourceName

OURS = {"model", "dtype", "runner", "enable_prefix_caching", "worker_extension_cls"}
ROWS = 512  # tokens whose logits exist at a time, in transformers


class Text(Protocol):
    """T token ids, of which those at `rows` are wanted: N ascending indices, each at least 1.

    Attributes:
        id: another one for each of the texts that are read together.
    """

    @property
    def id(self) -> str: ...

    @property
    def ids(self) -> list[int]: ...

    @property
    def rows(self) -> list[int]: ...


class Rows(NamedTuple):
    """What a target makes of N tokens.

    Attributes:
        hidden: [N, H] what the output layer reads in their own rows, in any float dtype.
        evidence: [N, 4] fp32, of the rows before, see `kernels.reference.evidence`.
        preferred: [N] int64, the target's argmax in these.
    """

    hidden: torch.Tensor
    evidence: torch.Tensor
    preferred: torch.Tensor


class Source(Protocol):
    """A target that gives its hidden states, and what its own distribution says of tokens."""

    @property
    def longest(self) -> int | None:
        """Tokens that a text may have; None: nothing bounds them."""

    def read(self, texts: Sequence[Text]) -> Rows:
        """The wanted rows of all texts in order.

        Raises:
            JudgeError: the target does not give them.
        """


class VllmSource:
    """The target in an engine of vLLM that reads prompt and answer as one prompt, and answers with one token.

    Its tensor and pipeline parallelism are options of the engine, so a target of any size will do.
    """

    def __init__(self, target: str, dtype: Dtype, engine: dict[str, Any]):
        """`engine`: more options of vLLM's `LLM`.

        Raises:
            JudgeError: vLLM is not installed or not the expected one, an option is given that is set here, or the
                target's logits are not those of one output layer.
        """
        try:
            from vllm import SamplingParams

            from vllm_judge.engine import fit, offline, prompt_states
        except ImportError:
            raise JudgeError("vLLM is not installed: install it, or use --source transformers.") from None
        if ours := sorted(OURS & engine.keys()):
            raise JudgeError(f"--engine must leave out {', '.join(ours)}: the command sets that itself.")
        try:
            fit.check_prompt_states()
        except JudgeConfigError as error:
            raise JudgeError(str(error)) from None
        self._params, self._wanted = SamplingParams, prompt_states.WANTED
        self._llm = offline.start(
            model=target,
            dtype=dtype.value,
            runner="generate",
            enable_prefix_caching=False,  # every row is to be computed
            worker_extension_cls=prompt_states.EXTENSION,
            **engine,
        )
        # The last token of a full context has no row of its own in an engine: nothing can follow it.
        self.longest = self._llm.model_config.max_model_len - 1
        for problem in self._llm.collective_rpc("watch_prompts"):
            if problem is not None:
                raise JudgeError(problem)

    def read(self, texts: Sequence[Text]) -> Rows:
        prompts: Any = [{"prompt_token_ids": one.ids} for one in texts]
        params = [self._one_token(one) for one in texts]
        self._llm.generate(prompts, params, use_tqdm=False)
        of_ranks = self._llm.collective_rpc("take_prompt_states", args=([one.id for one in texts],))
        taken = [one for one in of_ranks if one is not None]
        if len(taken) != 1:
            raise JudgeError("vLLM did not compute every token itself: leave out of --engine what caches prompts.")
        [(dtype, hidden, said, preferred)] = taken
        rows = sum(len(one.rows) for one in texts)
        return Rows(
            torch.frombuffer(bytearray(hidden), dtype=getattr(torch, dtype)).view(rows, -1),
            torch.frombuffer(bytearray(said), dtype=torch.float32).view(rows, len(EVIDENCE)),
            torch.frombuffer(bytearray(preferred), dtype=torch.long),
        )

    def _one_token(self, one: Text) -> Any:
        wanted = {"name": one.id, "rows": one.rows, "tokens": [one.ids[row] for row in one.rows]}
        return self._params(temperature=0.0, max_tokens=1, detokenize=False, extra_args={self._wanted: wanted})


class TransformersSource:
    """The target in transformers, one text at a time, on a GPU where there is one."""

    def __init__(self, target: str, dtype: Dtype):
        # Faster attentions leave out what some models do to its logits, such as Gemma 2's soft cap.
        options = {"dtype": dtype.value, "use_safetensors": True, "attn_implementation": "eager"}
        self._model = AutoModelForCausalLM.from_pretrained(target, **options).eval()
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        set_threads(self._model)

    @torch.inference_mode()
    def read(self, texts: Sequence[Text]) -> Rows:
        return Rows(*(torch.cat(column) for column in zip(*map(self._one, texts), strict=True)))

    def _one(self, one: Text) -> Rows:
        ids = torch.tensor([one.ids], device=self._model.device)
        cache = None
        states, said, preferred = [], [], []
        # What each row says of the next token; the last row's next token is no matter.
        for block, following in zip(ids.split(ROWS, dim=1), ids.roll(-1, dims=1).split(ROWS, dim=1), strict=True):
            with output_layer.inputs(self._model) as seen:
                output = self._model(input_ids=block, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            [layer_input] = seen
            states.append(layer_input[0].cpu())
            said.append(evidence(output.logits[0], following[0]).cpu())
            preferred.append(output.logits[0].argmax(dim=-1).cpu())
        rows = torch.tensor(one.rows)
        return Rows(torch.cat(states)[rows], torch.cat(said)[rows - 1], torch.cat(preferred)[rows - 1])


def open_source(name: SourceName, target: str, dtype: Dtype, engine: dict[str, Any], url: str | None = None) -> Source:
    """Loads the target, or finds it at the server that `url` names.

    Raises:
        JudgeError: vLLM is asked for and not installed, or the target cannot be loaded or found.
    """
    if url is not None:
        from vllm_judge.training.served import PoolingSource

        return PoolingSource(url, target, dtype)
    if name == SourceName.vllm:
        return VllmSource(target, dtype, engine)
    try:
        return TransformersSource(target, dtype)
    except (OSError, ValueError) as error:
        raise JudgeError(f"the target {target} cannot be loaded: {str(error).splitlines()[0]}") from None
