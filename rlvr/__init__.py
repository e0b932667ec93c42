"""rlvr: distributed RLVR training in which token credit assignment is a stage of its own."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """``rlvr.explain``, for notebooks; importing the package alone imports nothing else."""
    if name == "explain":
        return importlib.import_module("rlvr.explain")
    raise AttributeError(f"module 'rlvr' has no attribute '{name}'")
