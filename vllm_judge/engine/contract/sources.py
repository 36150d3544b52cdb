"""vLLM's sources, read without running them: what they define, with which parameters, in which words."""

import ast
import functools
import hashlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Sources:
    """A folder that holds the package `vllm`: an installation's site-packages or an unpacked wheel.

    A target is "module", "module:function", "module:Class" or "module:Class.method".
    """

    def __init__(self, root: Path):
        self.root = root
        self._module = functools.cache(self._read)

    def parameters(self, target: str) -> list[str] | None:
        """A function's parameters in order, `*args` and `**kwargs` among them; None where it is gone."""
        node = self._find(target)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return None
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
        return [argument.arg for argument in every if argument is not None]

    def names(self, target: str) -> set[str] | None:
        """What a module defines, imports or holds, or a class defines or assigns to `self`; None where it is gone."""
        node = self._find(target)
        if isinstance(node, ast.Module):
            path = self._path(target)
            submodules = path.parent.iterdir() if path.name == "__init__.py" else ()
            return {*_bound(node), *(submodule.stem for submodule in submodules)}
        if isinstance(node, ast.ClassDef):
            return set(_bound(node)) | {
                found.attr
                for found in ast.walk(node)
                if isinstance(found, ast.Attribute)
                and isinstance(found.ctx, ast.Store)
                and isinstance(found.value, ast.Name)
                and found.value.id == "self"
            }
        return None

    def digest(self, target: str) -> str | None:
        """Sixteen digits of the SHA-256 of a definition's text, its indentation apart; None where it is gone."""
        node = self._find(target)
        if not isinstance(node, Definition):
            return None
        lines = self._path(target).read_text(encoding="utf-8").splitlines()[node.lineno - 1 : node.end_lineno]
        return hashlib.sha256(textwrap.dedent("\n".join(lines)).encode()).hexdigest()[:16]

    def _path(self, target: str) -> Path:
        path = self.root.joinpath(*target.partition(":")[0].split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def _read(self, path: Path) -> ast.Module | None:
        return ast.parse(path.read_text(encoding="utf-8")) if path.exists() else None

    def _find(self, target: str) -> ast.Module | Definition | None:
        found: ast.Module | Definition | None = self._module(self._path(target))
        for name in filter(None, target.partition(":")[2].split(".")):
            # The last one counts, as it does for Python.
            nodes = () if found is None else _statements(found)
            found = {n.name: n for n in nodes if isinstance(n, Definition)}.get(name)
        return found


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a module or class, those inside its `if`, `try` and `with` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler) and not isinstance(child, Definition):
            yield from _statements(child)


def _bound(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """The names that a module's or class's statements bind."""
    for statement in _statements(node):
        if isinstance(statement, Definition):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            yield from (n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
