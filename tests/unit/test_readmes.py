"""Every link, command and configuration key of the guides works, with nothing started."""

from __future__ import annotations

import argparse
import pkgutil
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlvr.algorithm.compatibility import METHODS
from rlvr.config import RunConfig
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config
from rlvr.loop.validate import validated

ROOT = Path(__file__).parents[2]
GUIDES = sorted(
    path
    for folder in ("", ".github/**", "conf/**", "docker/**", "launch/**", "rlvr/**", "tests/**")
    for path in ROOT.glob(f"{folder}/*.md".lstrip("/"))
)
# What this repository does not bring; any other first word must be one of its own programs.
FOREIGN = {
    "export",
    "cd",
    "docker",
    "kubectl",
    "git",
    "lint-imports",
    "mypy",
    "pip",
    "pre-commit",
    "ray",
    "sbatch",
    "ruff",
}
ENTRY_POINTS = {f"rlvr.{kind}" for kind in (*METHODS, "verifier", "environment", "weights", "sink")}
OMITTED = {"OVERRIDES", "...", "…"}  # what a guide writes for more words of the reader's own
NEEDED = {"model.path": "model", "data.train": "[rows.jsonl]", "train.steps": "2"}
ROWS = str(ROOT / "tests" / "data" / "math.jsonl")  # in place of files that only a reader has
FILES = {".parquet", ".jsonl", ".json", ".py", ".yaml", ".md", ".png", ".sh"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(guide: Path) -> str:
    """Without its code blocks."""
    return re.sub(r"^```.*?^```$", "", guide.read_text(), flags=re.S | re.M)


def spans(guide: Path) -> list[str]:
    """What the text sets as code."""
    return re.findall(r"`([^`\n]+)`", prose(guide))


# Links


def anchors(guide: Path) -> set[str]:
    """What GitHub calls the headings: letters, digits and hyphens."""
    headings = re.findall(r"^#+ (.*)$", prose(guide), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_links_lead_somewhere(guide):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(guide)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (guide.parent / path).resolve() if path else guide
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_files_and_modules_in_the_text_exist(guide):
    for span in spans(guide):
        if re.match(r"(rlvr|conf|launch|tests|docker)/[\w./]*$", span):
            assert any((folder / span).exists() for folder in (ROOT, guide.parent)), span
        for path in set(re.findall(r"\brlvr(?:\.\w+)+", span)) - ENTRY_POINTS:
            file = ROOT / path.replace(".", "/")
            if file.is_dir() or file.with_name(f"{file.name}.py").exists():
                continue
            try:
                pkgutil.resolve_name(path)
            except (ImportError, AttributeError):
                pytest.fail(f"`{span}`: there is no {path}")


# Commands


def commands(guide: Path) -> Iterator[list[str]]:
    """The words of every command, in bash blocks and in the text, without variables before it."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", guide.read_text(), re.S | re.M)
    inline = [s for s in spans(guide) if re.match(r"([A-Z_]+=\S+ )*(bash|python|ray) ", s)]
    for block in blocks + inline:
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r" && | \|\|? ", line):
                words = shlex.split(command, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield words


@pytest.fixture
def examples(tmp_path, monkeypatch, own_registry) -> None:
    """The modules that guides show in whole, under the names that they give them.

    What they register is forgotten afterwards, and they are.
    """
    for registry in METHODS.values():
        own_registry(registry)
    for guide in GUIDES:
        for code in re.findall(r"^```python\n(# .*?)^```$", guide.read_text(), re.S | re.M):
            if found := re.match(r"# (\w+/\w+\.py)\n", code):
                path = tmp_path / found[1]
                path.parent.mkdir(exist_ok=True)
                path.write_text(code)
                monkeypatch.delitem(sys.modules, f"{path.parent.name}.{path.stem}", raising=False)
                monkeypatch.delitem(sys.modules, path.parent.name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("examples")
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # by runpy, of what runs once more
@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_commands_can_be_given(guide, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(guide):
        program, *rest = words
        if program in ("bash", "python"):
            assert rest, words
            (shell_script if program == "bash" else python)(rest)
        elif program == "rlvr":
            python(["-m", f"rlvr.{rest[0]}", *rest[1:]])
        elif program == "source":
            assert rest == [".venv/bin/activate"] or Path(*rest).is_file(), words
        else:
            assert program in FOREIGN, f"{words}: no program that this test knows"


def shell_script(words: list[str]) -> None:
    script, *arguments = words
    text = Path(script).read_text()
    if script == "launch/quickstart.sh":
        train(["+recipe=quickstart", *arguments])
    elif script == "launch/test.sh":
        pytest_arguments(arguments)
    elif script == "tests/bench/learning.sh":
        assert all("=" in a for a in arguments), words
    else:
        flags = [a for a in arguments if a.startswith("-")]
        assert all(flag in text for flag in flags), words


def python(words: list[str]) -> None:
    if words[:2] == ["-m", "rlvr.train"]:
        train(words[2:])
    elif words[:2] == ["-m", "pytest"]:
        pytest_arguments(words[2:])
    elif words[0] == "-m":
        parses(words[:2], words[2:])
    elif words[0].endswith(".py"):
        parses(words[:1], words[1:])
        if words[0] == "launch/submit.py" and "--" in words:
            train(words[words.index("--") + 1 :])


def pytest_arguments(words: list[str]) -> None:
    for word in words:
        path, _, test = word.partition("::")
        if "/" in path:
            assert Path(path).exists(), word
            assert not test or f"def {test}(" in Path(path).read_text(), word


class Parsed(Exception):
    pass


def parses(program: list[str], arguments: list[str]) -> None:
    """Run the program as far as its command line, which must take the arguments."""
    original = argparse.ArgumentParser.parse_intermixed_args

    def parse(self, *given):
        original(self, *given)  # exits if they make no sense
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, parse)
        patch.setattr(sys, "argv", [program[-1], *arguments])
        patch.syspath_prepend(Path(program[-1]).parent)  # as Python does for a script
        with pytest.raises(Parsed):
            if program[0] == "-m":
                runpy.run_module(program[1], run_name="__main__")
            else:
                runpy.run_path(program[0], run_name="__main__")


# Configuration


def train(words: list[str]) -> None:
    """Compose and resolve every run of the command, with values in place of the reader's own."""
    words = [word for word in words if word not in OMITTED]
    given = {w.split("=")[0] for w in words}
    if not given & {"--cfg", "--help", "+recipe"}:
        words += [f"{key}={value}" for key, value in NEEDED.items() if key not in given]
    register()
    for node in check_overrides("train", words):
        config = run_config(node)
        config.model.path = str(ROOT)
        config.data.train, config.data.eval = [ROWS], [ROWS] if config.data.eval else []
        validated(config)


def keys(node: dict, before: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield before + key
        if isinstance(value, dict):
            yield from keys(value, f"{before}{key}.")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every key there is; those of all choices, where a group is open."""
    register()
    found = set(keys(asdict(RunConfig())))
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        for group in METHODS:
            for choice in choices(group):
                node = compose("train", overrides=[f"{group}={choice}"])[group]
                found |= set(keys(OmegaConf.to_container(node), f"{group}."))
    return found


def choices(group: str) -> set[str]:
    if group not in METHODS:
        return {file.stem for file in Path(CONFIG_PATH, group).glob("*.yaml")}
    found = {choice: METHODS[group].find(choice, group) for choice in METHODS[group].names()}
    return {c for c, entry in found.items() if entry.method.__module__.startswith("rlvr.")}


@pytest.mark.parametrize("guide", GUIDES, ids=name)
def test_keys_and_choices_in_the_text_exist(guide, known):
    groups = {key for key in known if "." not in key}
    for span in spans(guide):
        for word in span.split():
            key, equals, value = word.lstrip("+~").rstrip(",").partition("=")
            key = key.removesuffix(".*")
            if key.split(".")[0] not in groups or Path(key).suffix in FILES:
                continue
            if "." in key and re.fullmatch(r"[a-z_.]+", key):
                assert key in known, f"{word}: no such key"
            elif equals and re.fullmatch(r"[a-z_,]+", value):
                assert set(value.split(",")) <= choices(key), f"{word}: no such choice"
