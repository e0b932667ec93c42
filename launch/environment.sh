# Sourced by the other scripts, in the root of the repository: the environment of our processes.

export PATH="$PWD/.venv/bin:$PATH" # DeepSpeed looks for ninja there

# What DeepSpeed compiles knows the paths of this .venv; another one would compile it anew.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}"

unset PYTHONDONTWRITEBYTECODE # without bytecode every worker process starts twice as slowly

# Of a head: Ray gives up a machine that has been silent for about 30 seconds, not 65. A cut of ten
# seconds takes up to twenty to heal, so half of this would be too little.
export RAY_health_check_timeout_ms="${RAY_health_check_timeout_ms:-5000}"
export RAY_health_check_failure_threshold="${RAY_health_check_failure_threshold:-4}"
