"""Which optimizer, learning rate, regularizer, schedule and architecture for my CNN, and is the difference real?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnbench.training.prediction import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imports torch: only when somebody asks
        from cnnbench.training.prediction import load

        return load
    raise AttributeError(f"module 'cnnbench' has no attribute {name!r}")
