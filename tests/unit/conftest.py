"""Every shape and type that a function of these packages names is checked when it is called."""

from __future__ import annotations

import jaxtyping

jaxtyping.install_import_hook(["rlvr.types", "rlvr.algorithm", "rlvr.learner"], "beartype.beartype")
