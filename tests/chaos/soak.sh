#!/usr/bin/env bash
# The quickstart task trained under a fault every 20 to 40 s; a table at the end says what holds.
#   bash tests/chaos/soak.sh [MINUTES|each] [SEED] [key=value ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh
export HF_HUB_OFFLINE=1 WANDB_MODE=offline RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
unset RAY_ADDRESS

base=outputs/quickstart
[[ -f $base/warmup.json ]] || python -m rlvr.quickstart --output "$base"
exec python -m tests.chaos.soak "$@"
