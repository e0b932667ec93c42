#!/usr/bin/env bash
# Sets up and runs the tests, all of them or those that the arguments tell pytest:
#   bash launch/test.sh [tests/unit | -k NAME | ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh
source launch/environment.sh

# Nothing is asked of the network or of a cluster that runs already, and nothing is reported.
export HF_HUB_OFFLINE=1 WANDB_MODE=offline
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
export TOKENIZERS_PARALLELISM=false
unset RAY_ADDRESS

# All of them go through two processes: most wait for a program to start, on one core.
(($#)) || set -- -n 2 --no-loadscope-reorder
exec python -m pytest -ra --durations=15 "$@"
