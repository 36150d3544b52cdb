"""Acceptance rules, one a file; a new file with a `RULE` is a new rule."""

import importlib
import pkgutil

from vllm_judge.decoding.rules.base import Acceptance, Rule, Setting, Step, grid

__all__ = ["Acceptance", "Rule", "Setting", "Step", "all_rules", "grid"]


def all_rules() -> dict[str, Rule]:
    """The rules that need nothing but the two models, by name. A judge needs a head: see `judge.judge_rule`."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__, f"{__name__}."))
    modules = [importlib.import_module(name) for name in names]
    rules = [module.RULE for module in modules if hasattr(module, "RULE")]
    return {rule.name: rule for rule in rules}
