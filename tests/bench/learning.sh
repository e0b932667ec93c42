#!/usr/bin/env bash
# Does it learn? Every credit method under dapo, and every objective with uniform credit, on the
# quickstart task: three seeds each, equal tokens. 45 runs, about an hour on two cores; a call
# that was interrupted goes on when it is repeated. The table goes into RESULTS.md, the picture
# beside it. More overrides may follow, for all runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh

base=outputs/quickstart
[[ -f $base/warmup.json ]] || python -m rlvr.quickstart --output "$base"

credits=$(python -c 'from rlvr.algorithm.credit import CREDITS as known
print(*(name for name in known.names() if name != "product"), sep=",")')
objectives=$(python -c 'from rlvr.algorithm.objectives import OBJECTIVES as known
print(*(name for name in known.names() if name != "dapo"), sep=",")')

# Four updates a batch, as in the published runs: with a single one no ratio ever leaves 1, and
# most objectives are one and the same.
settings=(
    +recipe=quickstart train.output_dir=outputs/learning train.seed=0,1,2
    train.steps=24 train.prompts_per_mini_batch=8 learner.lr=7e-5
    evaluation.every=4 evaluation.greedy=false evaluation.samples=4 evaluation.limit=128
    train.resume=auto train.checkpoint_every=24 train.keep_checkpoints=1
    telemetry.wandb=disabled telemetry.log_responses=false
)
python -m rlvr.train --multirun \
    "credit=$credits" objective=dapo "${settings[@]}" "$@"
python -m rlvr.train --multirun \
    credit=uniform "objective=$objectives" "${settings[@]}" "$@"
python tests/bench/learning.py outputs/learning tests/bench
