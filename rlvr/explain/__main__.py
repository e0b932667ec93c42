"""``python -m rlvr.explain model.path=... responses=FILE credit=delta,thr``: without training.

Writes the coefficients as JSON and as a page. Other keys are those of a run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlvr.config import RunConfig
from rlvr.data.rows import RowError
from rlvr.data.template import prompt_template
from rlvr.errors import ConfigError, for_people
from rlvr.explain.explanation import Explanation
from rlvr.explain.methods import explained
from rlvr.explain.rows import file_rows, groups_of
from rlvr.hydra_config import check_overrides, register, run_config
from rlvr.learner.policy import load_policy
from rlvr.loop.tokenizer import load_tokenizer
from rlvr.telemetry.progress import phase

_OWN = ("responses", "output")
# What a run must have and an explanation has no use for, and prompts as they are.
_DEFAULTS = ("data.train=[]", "train.steps=1", "data.template=none")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.explain",
        description="Token coefficients of given responses, without training. responses=FILE is a "
        '.jsonl or .parquet file of rows {"prompt": text, "response": text, "reward": number}; '
        "output=NAME says what NAME.json and NAME.html are called. Other keys are a run's: "
        "model.path, credit (several, with commas), rollout.temperature, advantage, ...",
    )
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE")
    words = parser.parse_args(arguments).overrides
    with for_people():
        own = dict(w.split("=", 1) for w in words if w.split("=", 1)[0] in _OWN and "=" in w)
        if "responses" not in own:
            raise ConfigError("- responses: must be set, e.g. responses=rows.jsonl")
        file = Path(own["responses"]).expanduser()
        output = own.get("output", f"{file.stem}.credit")
        found = _explained(file, [w for w in words if w.split("=", 1)[0] not in _OWN])
        print(_told(found))
        for suffix in ("json", "html"):
            found.save(f"{output}.{suffix}")
            print(f"{output}.{suffix}")


def _explained(file: Path, overrides: Sequence[str]) -> Explanation:
    set_here = {word.split("=", 1)[0].lstrip("+") for word in overrides}
    defaults = [word for word in _DEFAULTS if word.split("=", 1)[0] not in set_here]
    register()
    configs = [run_config(node) for node in check_overrides("train", [*defaults, *overrides])]
    methods = {str(config.credit["name"]): config.credit for config in configs}
    config = configs[0]
    tokenizer = load_tokenizer(config)
    template = prompt_template(config.data, tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def prompt_ids(text: str) -> list[int]:
        try:
            return template.encode([template.render([{"role": "user", "content": text}])])[0]
        except RowError as error:
            raise ValueError(str(error)) from error

    def response_ids(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    with phase(f"loading {config.model.path}"):
        policy = _policy(config, device)
    vocabulary = policy.model.get_input_embeddings().num_embeddings
    groups = groups_of(file_rows(file), prompt_ids, response_ids, vocabulary)
    return explained(config, methods, policy, tokenizer, groups)


def _policy(config: RunConfig, device: torch.device) -> Any:
    try:
        return load_policy(config.model, config.learner, config.rollout.temperature, device)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: cannot load '{config.model.path}': {error}") from error


def _told(found: Explanation) -> str:
    tokens = len(found.tokens.flatten())
    lines = [
        f"{len(found.advantages):,} responses to {len(found.groups):,} prompts, {tokens:,} tokens"
    ]
    for name, coefficients in found.coefficients.items():
        low = min(float(c.min()) for c in coefficients)
        high = max(float(c.max()) for c in coefficients)
        lines.append(f"  {name}: c from {low:.4g} to {high:.4g}{_agreement(found, name)}")
    return "\n".join(lines)


def _agreement(found: Explanation, name: str) -> str:
    """How the method agrees with the first one, as far as that is defined."""
    told = []
    for measure in ("correlation", "gradient_cosine"):
        if (value := found.metrics.get(f"shadow/{name}/{measure}")) is not None:
            told.append(f"{measure.replace('_', ' ')} {value:.3f}")
    return f"; with {next(iter(found.coefficients))}: {', '.join(told)}" if told else ""


if __name__ == "__main__":
    main()
