"""Hydra's side of the configuration: the schema, the open-ended choices, readable errors."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvr.algorithm.compatibility import METHODS
from rlvr.choice import nearest, refused_choice
from rlvr.config import ClusterConfig, RunConfig
from rlvr.data.catalogue import CATALOGUE, with_files
from rlvr.errors import ConfigError

CONFIG_PATH = str(Path(__file__).parent / "conf")  # a link in the repository, files in the wheel

_NODES_BY_GPUS = re.compile(r"(\d+)x(\d+)")


def register() -> None:
    """Make known to Hydra the typed schema, under the name ``run``, and every method's node."""
    store = ConfigStore.instance()
    store.store(name="run", node=RunConfig)
    for group, registry in METHODS.items():
        for name in registry.names():
            store.store(group=group, name=name, node=registry.find(name, group).node(name))


def check_overrides(config_name: str, arguments: list[str]) -> list[DictConfig]:
    """Compose once before Hydra does, to turn its errors into ones that name the nearest key.

    Returns what was composed: the run, or of a sweep every combination of its groups' choices,
    each once. Also makes room for choices that no file can list: ``cluster=4x8`` for any numbers,
    and ``credit=my_package.my_method`` for a method outside of this package. Other arguments of
    Hydra's own (``--help``, ``--cfg``) are left to Hydra.
    """
    try:
        overrides = _parsed(arguments)
    except HydraException as error:
        raise ConfigError(f"command line: {str(error).splitlines()[0]}") from error
    for override in overrides:
        key = override.key_or_group
        for value in _values(override):
            _store_open_choice(key, value)
            if refusal := refused_choice(key, value):
                raise ConfigError(refusal)
            if (names := _names(key)) and value not in names:
                raise ConfigError(f"{key}={value}: no such choice. {nearest(value, names)}")
    if _hydras_own(arguments):
        return []
    nodes = []
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        for run in product(*map(_choices, overrides)):
            try:
                nodes.append(compose(config_name, overrides=list(run)))
            except Exception as error:  # it has no one kind of them for what it cannot do
                raise ConfigError(_explain(config_name, error, _parsed(list(run)))) from None
    return nodes


def sweep_name(arguments: list[str]) -> str:
    """``key=value`` of all that is swept, for the run that Hydra has begun; empty in no sweep."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return ""
    swept = {o.key_or_group for o in _parsed(arguments) if o.is_sweep_override()}
    told = [o.lstrip("+") for o in HydraConfig.get().overrides.task]
    return ",".join(o for o in told if o.split("=")[0] in swept).replace("/", "_")


def run_config(node: DictConfig, catalogue: Path = CATALOGUE) -> RunConfig:
    """The composed node as a typed object, with files for the names that ``catalogue`` has.

    Raises ConfigError for missing or ill-typed values.
    """
    try:
        whole = OmegaConf.merge(OmegaConf.structured(RunConfig), node)  # with what was deleted
        if missing := sorted(map(str, OmegaConf.missing_keys(whole))):
            raise ConfigError("\n".join(f"- {key}: must be set, e.g. {key}=..." for key in missing))
        config = OmegaConf.to_object(whole)
    except OmegaConfBaseException as error:
        raise ConfigError(f"- {error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, RunConfig)
    config.data = with_files(config.data, catalogue)
    return config


def as_in(
    run: Mapping[str, Any], node: DictConfig, overrides: Sequence[str], keys: Sequence[str]
) -> DictConfig:
    """``node`` with what the configuration of a ``run`` has under ``keys``.

    What ``overrides`` say goes before, and what the run's cluster decided is left out.
    """
    chosen = {word.split("=")[0] for word in overrides} & METHODS.keys()
    told = {key: dict(run[key]) for key in keys if key in run and key not in chosen}
    told["rollout"] |= {"workers": None, "tensor_parallel": 1}
    told["rollout"]["engine"] = {
        k: v for k, v in told["rollout"]["engine"].items() if k != "max_model_len"
    }
    values = [word for word in overrides if "." in word.split("=")[0]]
    merged = OmegaConf.merge(node, told, OmegaConf.from_dotlist(values))
    assert isinstance(merged, DictConfig)
    return merged


def _hydras_own(arguments: list[str]) -> bool:
    """Whether a flag asks something of Hydra other than a sweep."""
    return any(a.startswith("-") and a not in ("-m", "--multirun") for a in arguments)


def _parsed(arguments: list[str]) -> list[Override]:
    """The overrides among the arguments. Raises HydraException for one that is none."""
    words = [a for a in arguments if not a.startswith("-")]
    if _hydras_own(arguments):
        words = [w for w in words if "=" in w]  # without the ``job`` of ``--cfg job``
    return OverridesParser.create().parse_overrides(words)


def _choices(override: Override) -> list[str]:
    """The override for each choice that a sweep makes in a group; of other keys the first."""
    line = str(override.input_line)
    if not override.is_sweep_override():
        return [line]
    try:
        every = [f"{line.split('=')[0]}={choice}" for choice in override.sweep_string_iterator()]
    except Exception as error:
        raise ConfigError(f"{line}: a sweep lists its values: {error}") from error
    return every if _names(override.key_or_group) else every[:1]


def _names(group: str) -> list[str]:
    """What may be chosen of a group by name: its files, and what is stored without one."""
    files = {p.stem for p in Path(CONFIG_PATH, group).glob("*.yaml")}
    stored = ConfigStore.instance().repo.get(group, {})
    return sorted(files | {name.removesuffix(".yaml") for name in stored})


def _values(override: Override) -> list[str]:
    """What the override sets, or sweeps over, as far as it is words."""
    value = override.value()
    several = value.list if isinstance(value, ChoiceSweep) else [value]
    words = [v.text if isinstance(v, QuotedString) else v for v in several]
    return [word for word in words if isinstance(word, str)]


def _store_open_choice(group: str, value: str) -> None:
    if value in _names(group):
        return
    store = ConfigStore.instance()
    size = _NODES_BY_GPUS.fullmatch(value)
    if group == "cluster" and size:
        nodes, gpus = int(size[1]), int(size[2])
        node: Any = OmegaConf.structured(ClusterConfig(nodes=nodes, gpus_per_node=gpus))
        store.store(group="cluster", name=value, node=node)
    elif group in METHODS and "." in value:
        store.store(group=group, name=value, node=METHODS[group].find(value, group).node(value))


def _explain(config_name: str, error: Exception, overrides: list[Override]) -> str:
    """What is wrong in words: the unknown key with the nearest one, or Hydra's reason."""
    base, taken = compose(config_name), list[str]()
    for override in sorted(overrides, key=lambda o: not _names(o.key_or_group)):  # groups first
        key, line = override.key_or_group, str(override.input_line)
        try:
            base = compose(config_name, overrides=[*taken, line])
            taken.append(line)
        except Exception as own:
            told = f"{str(own).splitlines()[0]} {own.__cause__ or ''}".strip()
            return _unknown(base, override) or (told if key in told else f"{line}: {told}")
    return str(error).splitlines()[0]


def _unknown(base: DictConfig, override: Override) -> str | None:
    """That the key is none of ``base``, with the nearest that is."""
    node: Any = base
    for part in override.key_or_group.split("."):
        valid = [str(k) for k in node] if isinstance(node, DictConfig) else []
        if valid and part not in valid and not override.is_add():
            told = override.key_or_group or str(override.input_line)
            return f"{told}: no such key. {nearest(part, valid)}"
        node = (
            None
            if not valid or part not in valid or OmegaConf.is_missing(node, part)
            else node[part]
        )
    return None
