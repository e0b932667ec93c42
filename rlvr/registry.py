"""Things found by name: how a config node becomes an advantage, objective, credit, ...

A method and its options are one dataclass::

    @CREDITS.register("mine")
    @dataclass
    class Mine:
        strength: float = 1.0

        def assign(self, batch, features, ranks): ...

The options may also be a dataclass of their own, ``@CREDITS.register("mine", MineConfig)``, which
the method's constructor is given. Files beside the built-in methods are found by themselves,
those of other packages through the entry-point group ``rlvr.<kind>`` (``rlvr.credit``) or by
module path: ``credit=my_package.my_method``.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig, OmegaConf

from rlvr.choice import nearest
from rlvr.errors import ConfigError

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Entry:
    """A registered method: the class and the dataclass of its options, often one and the same."""

    method: type
    options: type

    def node(self, name: str) -> dict[str, Any]:
        """The config node of the method under ``name``, with every option at its default."""
        options: Any = OmegaConf.to_container(OmegaConf.structured(self.options))
        return {**options, "name": name}


class Registry(Generic[T]):
    """The methods of one ``kind``; the package or module ``home`` holds the built-in ones."""

    def __init__(self, kind: str, home: str) -> None:
        self.kind = kind
        self.home = home
        self._entries: dict[str, Entry] = {}
        self._at_home = False

    def register(self, name: str, options: type | None = None) -> Callable[[C], C]:
        """Class decorator, of a dataclass; with ``options`` of a ``cls(options(...))``."""

        def add(method: C) -> C:
            known = self._entries.get(name)
            if known and _origin(known.method) != _origin(method):
                raise ConfigError(
                    f"{self.kind} '{name}' is registered twice: by {_origin(known.method)} and "
                    f"by {_origin(method)}. Rename one of them."
                )
            self._entries[name] = Entry(method, options or method)
            return method

        return add

    def names(self) -> list[str]:
        """Every method that can be named without a module path."""
        return sorted({*self._known(), *(point.name for point in self._entry_points())})

    def find(self, name: str, where: str) -> Entry:
        """The method called ``name``. Raises ConfigError with the nearest name."""
        if known := self._known().get(name):
            return known
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

        ConfigError, at ``where``, for an unknown method or option or an impossible value.
        """
        if node.get("name") is None:
            raise ConfigError(f"{where}.name: missing. Valid: {', '.join(self.names())}.")
        entry = self.find(str(node["name"]), where)
        named = {f.name for f in fields(entry.options)}
        options = {str(k): v for k, v in node.items() if k != "name" or k in named}
        built = typed(entry.options, options, where)
        method: T = built if entry.options is entry.method else entry.method(built)
        return method

    def _from_module(self, path: str, where: str) -> Entry:
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{where}.name: cannot import '{path}' ({error}). A name with a dot is a Python "
                f"module; is it installed or on PYTHONPATH?"
            ) from error
        found = [e for e in self._entries.values() if e.method.__module__ == module.__name__]
        if chosen := getattr(module, "METHOD", None):
            found = [e for e in self._entries.values() if e.method is chosen]
        if len(found) != 1:
            raise ConfigError(
                f"{where}.name: module '{path}' registers {len(found)} {self.kind} methods "
                f"instead of one. Register exactly one, or set METHOD to the class to use."
            )
        return found[0]

    def _entry_points(self) -> Any:
        return entry_points(group=f"rlvr.{self.kind}")

    def _known(self) -> dict[str, Entry]:
        """What is registered, once the modules at home have been."""
        if not self._at_home:
            home = importlib.import_module(self.home)
            for info in pkgutil.iter_modules(getattr(home, "__path__", [])):
                importlib.import_module(f"{self.home}.{info.name}")
            self._at_home = True
        return self._entries


def labelled(method: object, where: str) -> tuple[str, dict[str, Any]]:
    """The label and the node of a method that is given by name or as {name: ..., option: value}.

    The label is the name, with the options if there are some: ``thr(p=0.2)``.
    """
    if isinstance(method, str):
        return method, {"name": method}
    if not isinstance(method, Mapping):
        raise ConfigError(f"{where}: '{method}' is neither a name nor {{name: ...}}.")
    options = ", ".join(f"{key}={value}" for key, value in method.items() if key != "name")
    name = str(method.get("name"))
    return f"{name}({options})" if options else name, {str(k): v for k, v in method.items()}


def require(condition: bool, message: str) -> None:
    """For ``__post_init__``: ``message`` says which option must be what."""
    if not condition:
        raise ValueError(message)


def require_one_of(key: str, value: str, valid: tuple[str, ...]) -> None:
    """ValueError that names ``key`` unless ``value`` is one of ``valid``."""
    require(value in valid, f"{key} must be one of {', '.join(valid)}, not '{value}'")


def _origin(method: type) -> str:
    return f"{method.__module__}.{method.__qualname__}"


def typed(config_class: type, node: DictConfig | dict[str, Any], where: str) -> Any:
    """Merge ``node`` into the structured form of ``config_class`` and return an instance.

    Raises ConfigError naming the key under ``where`` and the nearest valid one.
    """
    valid = [f.name for f in fields(config_class)]
    for key in map(str, node):
        if key not in valid:
            raise ConfigError(f"{where}.{key}: no such key. {nearest(key, valid)}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config_class), node))
    except Exception as error:
        at = getattr(error, "full_key", None)
        told = f"{where}.{at}" if at else where
        raise ConfigError(f"{told}: {str(error).splitlines()[0]}") from error
