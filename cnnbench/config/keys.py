"""The names that can be typed: groups, keys, and where the groups' options lie."""

from dataclasses import fields, is_dataclass
from pathlib import Path

from cnnbench.config.schema import Config

_PACKAGE = Path(__file__).parent.parent
CONF = next(f for f in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (f / "config.yaml").exists()).resolve()
"""The configs: inside an installed package, or beside it in a checkout."""

GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "space"))
KEYS = tuple(field.name for field in fields(Config) if field.name not in GROUPS)


def keys_beside(key: str) -> list[str]:
    """The keys that may stand where `key` does, by the schema."""
    head, inner, _ = key.partition(".")
    group = {field.name: field.type for field in fields(Config)}.get(head)
    if not inner:
        return [*GROUPS, *KEYS]
    return [f"{head}.{field.name}" for field in fields(group)] if is_dataclass(group) else [head]
