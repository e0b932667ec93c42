"""``rlvr COMMAND ...``: one command for each thing that is done with a run.

Each is also ``python -m rlvr.COMMAND ...``. ``complete -C 'rlvr --complete' rlvr`` teaches bash the
commands, keys and choices.
"""

import runpy
import sys
from pathlib import Path

from rlvr.completion import completions

COMMANDS = {
    "train": "train a policy: rlvr train +recipe=delta_qwen3_8b cluster=1x8",
    "evaluate": "a model, or every checkpoint of a run, on held-out questions",
    "audit": "whether token credit lies where the outcome is decided",
    "prepare": "fetch the model and the data of a run",
    "plan": "memory and time of a run, before a GPU is asked for",
    "report": "runs at a glance, or side by side",
    "explain": "what credit methods make of given responses, token by token",
    "export": "the policy of a checkpoint as a Hugging Face folder",
    "doctor": "what is wrong with a machine or a cluster, and what mends it",
    "quickstart": "a small base model, and a task to train it on",
}


def main() -> None:
    """Run the command as ``python -m`` would."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in COMMANDS:
        sys.argv[1:] = arguments
        runpy.run_module(f"rlvr.{command}", run_name="__main__", alter_sys=True)
    elif command == "--complete":
        print("\n".join(completions(tuple(COMMANDS))))
    elif command in ("--help", "-h"):
        print(usage())
    else:
        sys.exit(f"rlvr: there is no command '{command}'.\n\n{usage()}")


def usage() -> str:
    """The commands and the recipes."""
    recipes = sorted(file.stem for file in Path(__file__).parent.glob("conf/recipe/*.yaml"))
    return "\n".join(
        [
            "usage: rlvr COMMAND ...",
            "",
            *(f"  {name:12}{told}" for name, told in COMMANDS.items()),
            "",
            "'rlvr COMMAND --help' says more; that of train lists groups, choices and keys.",
            "",
            "recipes, as in 'rlvr train +recipe=quickstart':",
            "",
            *(f"  {recipe}" for recipe in recipes),
        ]
    )


if __name__ == "__main__":
    main()
