#!/usr/bin/env bash
# A training step beside TRL's and beside what the engines alone would take, on a CPU; TRL gets an
# environment of its own. About ten minutes on two free cores; --steps 2 for a first look.
#   bash tests/bench/end_to_end.sh [--steps N] [--tiny] [--sides trl ...] [-- key=value ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh
source launch/indexes.sh
export HF_HUB_OFFLINE=1 WANDB_MODE=offline RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
export TOKENIZERS_PARALLELISM=false
unset RAY_ADDRESS

trl=outputs/end_to_end/trl
if ! "$trl/bin/python" -c 'import datasets, trl' 2>/dev/null; then
    echo "== TRL into $trl"
    torch=$(grep '^torch==' launch/lock/cpu.txt)
    transformers=$(grep '^transformers==' launch/lock/cpu.txt)
    (
        use_pip_indexes pip
        uv venv --quiet --clear --python "$(command -v python)" "$trl"
        uv pip install --quiet --python "$trl/bin/python" \
            $(torch_backend uv "$trl/bin/python" "$torch") trl==1.16.0 "$torch" "$transformers"
    )
fi
exec python tests/bench/end_to_end.py --trl-python "$trl/bin/python" "$@"
