"""How much has to be read at a time: files, and the parameters of functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numbanorm

PACKAGE = Path(numbanorm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LINES, PARAMETERS = 400, 8
# kernels and their parts take arrays and numbers one by one, and so do torch's operators
COMPILED = {"kernel", "device", "intrinsic", "custom_op", "register_fake"}


def public() -> set[str]:
    """Names of functions and classes whose parameters are those of PyTorch, and of what such classes are made from."""
    names = set[str]()
    for part in (".", "interop/torch"):
        for node in ast.parse((PACKAGE / part / "__init__.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= set(ast.literal_eval(node.value))
    classes = [n for file in FILES for n in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)]
    for c in reversed(classes):  # what a class is made from stands above it
        names |= {ast.unparse(base) for base in c.bases if c.name in names}
    return names


def written(node: ast.AST, fixed: set[str]) -> Iterator[ast.FunctionDef]:
    """Functions and methods, but for those of these names, and of classes of these names."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, (ast.ClassDef, ast.FunctionDef)) and isinstance(node, ast.Module) and child.name in fixed):
            if isinstance(child, ast.FunctionDef):
                yield child
            yield from written(child, fixed)


def compiled(function: ast.FunctionDef) -> bool:
    """Whether Numba compiles a function: its decorators say so, or it has no annotations, which mypy wants of all others."""
    names = {ast.unparse(d.func if isinstance(d, ast.Call) else d).split(".")[-1] for d in function.decorator_list}
    return not COMPILED.isdisjoint(names) or function.returns is None


def parameters(function: ast.FunctionDef) -> int:
    """How many there are, but for that of a method's object."""
    a = function.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_public_names_are_found() -> None:
    assert {"layer_norm", "BatchNorm2d", "convert"} <= public()


def test_files_are_short() -> None:
    lines = {str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8").count("\n") for file in FILES}
    assert max(lines.values()) <= LINES, {name: n for name, n in lines.items() if n > LINES}


def test_functions_have_few_parameters() -> None:
    fixed, many = public(), []
    for file in FILES:
        for function in written(ast.parse(file.read_text(encoding="utf-8")), fixed):
            if not compiled(function) and parameters(function) > PARAMETERS:
                many.append(f"{file.relative_to(PACKAGE)}:{function.lineno} {function.name}: {parameters(function)}")
    assert not many, "\n".join(many)
