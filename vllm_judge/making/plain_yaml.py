"""YAML that strangers may have written: text, numbers, lists and keys only, bounded, and without two meanings."""

from typing import Any

import yaml

MAX_VALUES, MAX_DEPTH = 10_000, 20  # of a recipe, with every alias (*name) written out
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):
    """Stops where a recipe is too much, instead of reading on."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        line = f"line {self.peek_event().start_mark.line + 1}"
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"{line}: lists and keys are nested more than {MAX_DEPTH} deep")
        if self.values > MAX_VALUES:
            raise ValueError(f"{line}: more than {MAX_VALUES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load(text: str) -> Any:
    """What YAML says, of plain values only.

    Raises:
        yaml.YAMLError, ValueError, LookupError: it is none, or more than plain.
    """
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _check(node, {}, ())
    return loader.construct_document(node)


def _check(node: yaml.Node, sizes: dict[yaml.Node, int], within: tuple[yaml.Node, ...]) -> int:
    """The number of values in a node, each alias written out: a file of a page can hold more than a memory."""
    if node in sizes:
        return sizes[node]
    line = f"line {node.start_mark.line + 1}"
    if node.tag not in PLAIN:
        name = node.tag.removeprefix("tag:yaml.org,2002:")
        raise ValueError(f"{line}: a value of type {name}, where only text, numbers, lists and keys may be")
    if node in within:
        raise ValueError(f"{line}: a list or keys that hold themselves")
    inside = []
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # half a surrogate pair is no text
    if isinstance(node, yaml.MappingNode):
        names = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{line}: a key must be one word")
            _check(key, sizes, (*within, node))
            if key.value in names:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
            names.add(key.value)
            inside.append(value)
    elif isinstance(node, yaml.SequenceNode):
        inside = node.value
    sizes[node] = 1 + sum(_check(one, sizes, (*within, node)) for one in inside)
    if sizes[node] > MAX_VALUES:
        raise ValueError(f"{line}: more than {MAX_VALUES} values")
    return sizes[node]
