"""The arguments of a class or function, read from its source: to import torch takes too long while somebody types."""

import ast
from importlib.machinery import PathFinder
from pathlib import Path


def arguments(target: str) -> dict[str, list[str]]:
    """The arguments of what `target` names, with the values of those that have a list of them.

    Args:
        target: full name of a class or function, such as `torch.optim.Adam`.

    Returns:
        For each argument `true` and `false`, the values of a `Literal`, or nothing; empty if there is no source.
    """
    module, _, name = target.rpartition(".")
    found = _definition(module, name) if module else None
    if found is None:
        return {}
    home, definition, tree = found
    if isinstance(definition, ast.ClassDef):
        own = next((e for e in definition.body if isinstance(e, ast.FunctionDef) and e.name == "__init__"), None)
        if own is None:
            bases = (base.id for base in definition.bases if isinstance(base, ast.Name))
            return next(filter(None, (arguments(f"{home}.{base}") for base in bases)), {})
        given = [*own.args.posonlyargs, *own.args.args][1:] + own.args.kwonlyargs
    else:
        given = [*definition.args.posonlyargs, *definition.args.args, *definition.args.kwonlyargs]
    return {argument.arg: _values(argument.annotation, tree) for argument in given}


def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef, ast.Module] | None:
    """The definition of a name, in the module where it stands, which may be another one that this one imports from."""
    source = _source(module)
    if source is None:
        return None
    tree = ast.parse(source.read_bytes())
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return module, statement, tree
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parents = package.split(".")
                    start = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
                    return _definition(".".join(filter(None, (start, node.module))), alias.name)
    return None


def _source(module: str) -> Path | None:
    """The file of a module. Python's own search would import the packages around it."""
    top, *inner = module.split(".")
    spec = PathFinder.find_spec(top)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    if not inner:
        return Path(spec.origin)
    path = Path(spec.origin).parent.joinpath(*inner)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def _values(annotation: ast.expr | None, tree: ast.Module) -> list[str]:
    """The values that an annotation allows, where it lists them."""
    if annotation is None:
        return []
    found = []
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and node.id == "bool":
            found += ["true", "false"]
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            found += [str(each.value) for each in ast.walk(node.slice) if isinstance(each, ast.Constant)]
        elif isinstance(node, ast.Name):
            aliases = (e for e in tree.body if isinstance(e, ast.Assign) and ast.unparse(e.targets[0]) == node.id)
            found += [value for alias in aliases for value in _values(alias.value, tree)]
    return found
