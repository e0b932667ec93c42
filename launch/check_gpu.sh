#!/usr/bin/env bash
# For a GPU machine that is new: what works, what does not and what to do, in at most 15 minutes
# after the set-up. Where nothing can be installed it tries what an existing torch allows.
#   bash launch/check_gpu.sh
# Exit code: 0 all that could be tried works, 1 something does not, 2 nothing could be tried.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh || echo "check: the set-up failed; going on with what this machine has"
source launch/environment.sh
export PYTHONPATH="$PWD" HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=false
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
unset RAY_ADDRESS

for python in python python3; do
    "$python" -c 'import pytest, torch' 2>/dev/null && exec "$python" tests/gpu/check.py "$@"
done
echo "check: no Python here has torch and pytest: nothing could be tried"
exit 2
