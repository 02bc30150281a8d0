"""The config that an old checkpoint of mmdet3d carries as text: values alone are read, nothing of it is run."""

import ast
from collections.abc import Mapping
from typing import Any


def read_config_text(text: str) -> dict[str, Any]:
    """Names -> values of a config's text, as ``Config.pretty_text`` writes it; others than literals are left out.

    >>> read_config_text("model = dict(type='A', sizes=[1.0, 2.0])\\nwhere = open('file')")
    {'model': {'type': 'A', 'sizes': [1.0, 2.0]}}
    """
    try:
        lines = ast.parse(text).body
    except (SyntaxError, ValueError):
        return {}
    found = {}
    for line in lines:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            try:
                found[line.targets[0].id] = ast.literal_eval(_LiteralDicts().visit(line.value))
            except (ValueError, TypeError):
                continue
    return found


def old_model(meta: Mapping[str, Any]) -> dict[str, Any]:
    """``model`` of the config in a checkpoint's ``meta``; empty where there is none that can be read."""
    model = read_config_text(str(meta.get("config") or "")).get("model")
    return model if isinstance(model, dict) else {}


def old_classes(meta: Mapping[str, Any]) -> list[str]:
    """Classes in the order of a checkpoint's labels; empty where it does not say them."""
    names = meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes")
    return list(names or read_config_text(str(meta.get("config") or "")).get("class_names") or ())


class _LiteralDicts(ast.NodeTransformer):
    """``dict(a=1)`` as ``{'a': 1}``, which is a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        names = [keyword.arg for keyword in node.keywords]
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args or None in names:
            return node
        return ast.Dict([ast.Constant(name) for name in names], [keyword.value for keyword in node.keywords])
