"""What a credit method makes of given responses, without training.

On the command line ``python -m rlvr.explain``; in a notebook, with neither Ray nor DeepSpeed::

    import rlvr

    rows = [{"prompt": "1 + 1 =", "response": " 2", "reward": 1}, ...]
    rlvr.explain(model, tokenizer, rows, credit="delta")
"""

import sys
from types import ModuleType
from typing import Any

from rlvr.explain.explanation import Explanation
from rlvr.explain.notebook import explain


class _Callable(ModuleType):
    """So that ``rlvr.explain`` is the module that ``python -m`` runs and a function too."""

    __wrapped__ = staticmethod(explain)  # its signature and its help

    def __call__(self, *arguments: Any, **options: Any) -> Explanation:
        return explain(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
