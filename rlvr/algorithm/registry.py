"""Methods found by name: how a config node becomes an advantage, objective, credit or correction.

A method is one class in one file::

    @dataclass
    class MineConfig:
        name: str = "mine"
        strength: float = 1.0

    @CREDITS.register("mine", MineConfig)
    class Mine:
        def __init__(self, config: MineConfig) -> None: ...

Files beside the built-in methods are found by themselves. Methods of other packages are found
through the entry-point groups ``rlvr.advantage``, ``rlvr.objective``, ``rlvr.credit`` and
``rlvr.correction``, or by module path: ``credit=my_package.my_method``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from rlvr.config import ConfigError, nearest, typed

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Entry:
    """A registered method: the class and the dataclass of its options."""

    method: type
    config_class: type


class Registry(Generic[T]):
    """The methods of one kind.

    Args:
        kind: ``advantage``, ``objective``, ``credit`` or ``correction``: names the entry-point
            group and appears in error messages.
        home: package whose modules, or module that itself, holds the built-in methods.
    """

    def __init__(self, kind: str, home: str) -> None:
        self.kind = kind
        self.home = home
        self._entries: dict[str, Entry] = {}
        self._loaded = False

    def register(self, name: str, config_class: type | None = None) -> Callable[[C], C]:
        """Class decorator; the class is constructed as ``cls(config_class(...))``."""

        def add(method: C) -> C:
            known = self._entries.get(name)
            if known and _origin(known.method) != _origin(method):
                raise ConfigError(
                    f"{self.kind} '{name}' is registered twice: by {_origin(known.method)} and "
                    f"by {_origin(method)}. Rename one of them."
                )
            self._entries[name] = Entry(method, config_class or method)
            return method

        return add

    def names(self) -> list[str]:
        """Every method that can be named without a module path."""
        self._load_built_in()
        return sorted({*self._entries, *(point.name for point in self._entry_points())})

    def find(self, name: str, where: str) -> Entry:
        """The method called ``name``. Raises ConfigError with the nearest name."""
        self._load_built_in()
        if name in self._entries:
            return self._entries[name]
        for point in self._entry_points():
            if point.name == name:
                return self._from_module(point.module, where)
        if "." in name:
            return self._from_module(name, where)
        raise ConfigError(
            f"{where}.name: no {self.kind} method is called '{name}'. {nearest(name, self.names())}"
        )

    def build(self, node: Mapping[str, Any] | DictConfig, where: str) -> T:
        """The method that ``node.name`` names, with the rest of ``node`` as its options.

        ``where`` is the config path of ``node``, for error messages. Raises ConfigError for an
        unknown method, an unknown option or an impossible value.
        """
        if node.get("name") is None:
            raise ConfigError(f"{where}.name: missing. Valid: {', '.join(self.names())}.")
        entry = self.find(str(node["name"]), where)
        config = typed(entry.config_class, node, where)  # type: ignore[arg-type]
        method: T = entry.method(config)
        return method

    def _from_module(self, path: str, where: str) -> Entry:
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{where}.name: cannot import '{path}' ({error}). A name with a dot is a Python "
                f"module; is it installed or on PYTHONPATH?"
            ) from error
        found = self._defined_in(module)
        if len(found) != 1:
            raise ConfigError(
                f"{where}.name: module '{path}' registers {len(found)} {self.kind} methods "
                f"instead of one. Register exactly one, or set METHOD to the class to use."
            )
        return found[0]

    def _defined_in(self, module: ModuleType) -> list[Entry]:
        chosen = getattr(module, "METHOD", None)
        if chosen is not None:
            return [e for e in self._entries.values() if e.method is chosen]
        here = module.__name__
        return [e for e in self._entries.values() if e.method.__module__ == here]

    def _entry_points(self) -> Any:
        return entry_points(group=f"rlvr.{self.kind}")

    def _load_built_in(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        home = importlib.import_module(self.home)
        for info in pkgutil.iter_modules(getattr(home, "__path__", [])):
            importlib.import_module(f"{self.home}.{info.name}")


def require(condition: bool, message: str) -> None:
    """For ``__post_init__`` of a config: ``message`` says which key must be what."""
    if not condition:
        raise ValueError(message)


def require_one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    """ValueError that names ``key`` unless ``value`` is one of ``valid``."""
    if value not in valid:
        raise ValueError(f"{key} must be one of {', '.join(valid)}, not '{value}'")


def _origin(method: type) -> str:
    return f"{method.__module__}.{method.__qualname__}"
