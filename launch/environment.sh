# Sourced by the other scripts, in the root of the repository: the environment of our processes.

export PATH="$PWD/.venv/bin:$PATH" # DeepSpeed looks for ninja there

# What DeepSpeed compiles knows the paths of this .venv; another one would compile it anew.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}"

unset PYTHONDONTWRITEBYTECODE # without bytecode every worker process starts twice as slowly
