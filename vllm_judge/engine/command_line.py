"""Hook of vLLM's command line: `--speculative-config` takes a file, a folder or a Hub repository."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from vllm_judge.config import read_speculative_config
from vllm_judge.errors import JudgeConfigError


def add_cli_args(original: Callable[..., Any], parser: Any) -> Any:
    """Symptom: `--speculative-config judge.json` fails in the parser. Why: vLLM reads JSON text only.
    How: the argument's type also takes whatever names a judge.json. Until: vLLM takes paths (no issue upstream)."""
    parser = original(parser)
    for action in parser._actions:
        if action.dest == "speculative_config":
            action.type = functools.partial(_json_or_path, action.type)
            action.__class__ = _OnceIfPath
    return parser


def _json_or_path(parse_json: Callable[[str], Any], text: str) -> Any:
    if text.lstrip().startswith("{") or text == "None":
        return parse_json(text)
    try:
        read_speculative_config(text)
    except JudgeConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


class _OnceIfPath(argparse._StoreAction):
    """Symptom: `--speculative-config judge.json --speculative-config.model x` drops judge.json in silence. Why: vLLM
    turns dotted arguments into a second --speculative-config, which replaces the first. How: refused. Until: vLLM
    merges the two (no issue upstream)."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if isinstance(getattr(namespace, self.dest, None), str) and isinstance(values, dict):
            parser.error(
                f"argument {option_string}: {getattr(namespace, self.dest)} cannot be combined with "
                "--speculative-config.KEY: write the key into the file."
            )
        super().__call__(parser, namespace, values, option_string)
