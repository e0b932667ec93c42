"""What verifier processes load by name: a built-in, an installed package's, or a module's own.

A name is a built-in one, one that an installed package registers in the kind's entry-point group,
or the dotted path of a module that sets the kind's attribute.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import signature
from typing import Any

from rlvr.choice import nearest
from rlvr.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """A kind of plug-in."""

    word: str  # and the name of its entry-point group, after "rlvr."
    built_in: Mapping[str, str]  # modules by name
    method: str  # that every one must have, with its arguments
    _loaded: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)

    @property
    def attribute(self) -> str:
        """What a module sets."""
        return self.word.upper()

    def module_of(self, name: str) -> str:
        """The module that defines what is called ``name``; it is not imported.

        Raises ConfigError with the nearest name if there is none.
        """
        if name in self.built_in:
            return self.built_in[name]
        points = entry_points(group=f"rlvr.{self.word}")
        registered = {point.name: point.module for point in points}
        if name in registered:
            return registered[name]
        if "." not in name:
            near = nearest(name, [*self.built_in, *registered])
            raise ConfigError(f"{self.word} '{name}': no such {self.word}. {near}")
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(
                f"{self.word} '{name}': no such module. A name with a dot is a Python module; is "
                f"it installed or on PYTHONPATH?"
            )
        return name

    def load(self, name: str, *configs: Any) -> Any:
        """What is called ``name``; a process makes one and keeps it. Imports its module.

        A class is called with as many of ``configs`` as its constructor takes.
        """
        key = (name, repr(configs))
        if key not in self._loaded:
            module = importlib.import_module(self.module_of(name))
            found: Any = getattr(module, self.attribute, None)
            if isinstance(found, type):
                found = found(*configs[: len(signature(found).parameters)])
            if not callable(getattr(found, self.method.partition("(")[0], None)):
                raise ConfigError(
                    f"{self.word} '{name}': module '{module.__name__}' does not set "
                    f"{self.attribute} to a class (or an object) that has {self.method}."
                )
            self._loaded[key] = found
        return self._loaded[key]
