#!/usr/bin/env bash
# Does credit help? Chains of 22 dependent operations (tests/bench/slips.py) in 113 tokens: one slip
# spoils the rest, and 20 facts of 190, of which the base model is mistaken, are to be found out.
# Every method at the learning rate that is best for it on a seed of its own, on paired seeds, with
# equal tokens. By default one seed and few steps: this takes ten minutes on two cores, shows that it
# runs, and is not written down. What can tell methods apart takes two hours:
#   CREDITS=uniform,delta,thr SEEDS=0,1,2,3,4 RATES=35e-6,70e-6,140e-6 STEPS=240 \
#       bash tests/bench/helps.sh
# A call that was interrupted goes on when it is repeated. The table goes into RESULTS.md, the
# picture beside it. Overrides may follow, for all runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh

credits=${CREDITS:-uniform,delta}
seeds=${SEEDS:-0}
rates=${RATES:-7e-5}
steps=${STEPS:-50}
base=outputs/credit/chain
runs=outputs/helps/steps_$steps
[[ -f $base/model/config.json ]] || python tests/bench/slips.py chain "$base"

settings=(
    cluster=local_cpu "model.path=$base/model" model.dtype=float32 objective=dapo
    "data.train=[$base/train.jsonl]" "data.eval=[$base/eval.jsonl]" data.max_prompt_tokens=120
    rollout.max_response_tokens=120 rollout.workers=1 rollout.group_size=4
    learner.ranks=2 learner.zero_stage=2 learner.gradient_checkpointing=false
    train.prompts_per_step=4 "train.steps=$steps"
    evaluation.at_end=true evaluation.greedy=false evaluation.samples=8
    train.resume=auto "train.checkpoint_every=$steps" train.keep_checkpoints=1
    telemetry.wandb=disabled telemetry.log_responses=false telemetry.progress=false
)
if [[ $rates == *,* ]]; then # on a seed that the comparison does not see
    python -m rlvr.train --multirun "${settings[@]}" "$@" evaluation.at_end=false \
        "credit=$credits" "learner.lr=$rates" train.seed=100 "train.output_dir=$runs/tuned"
    best=$(python tests/bench/helps.py rates "$runs")
else
    best=$(printf "%s $rates\n" ${credits//,/ })
fi
while read -r credit rate; do
    python -m rlvr.train --multirun "${settings[@]}" "$@" \
        "credit=$credit" "learner.lr=$rate" "train.seed=$seeds" \
        "train.output_dir=$runs/compared/$credit" \
        </dev/null
done <<<"$best"
python tests/bench/helps.py table "$runs" tests/bench
