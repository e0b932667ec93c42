#!/usr/bin/env bash
# Does credit help? Chains of 22 dependent operations (tests/bench/slips.py) in 113 tokens: one slip
# spoils the rest, and 20 facts of 190, of which the base model is mistaken, are to be found out.
# Every method at the learning rate that is best for it on a seed of its own, on paired seeds, with
# equal tokens. By default one seed and few steps: this takes ten minutes on two cores, shows that it
# runs, and is not written down. The full form takes an hour and a quarter:
#   CREDITS=uniform,delta,thr SEEDS=0,1,2,3,4 RATES=35e-6,70e-6,140e-6,280e-6 STEPS=240 \
#       bash tests/bench/helps.sh
# and an hour more with vine, the upper reference, at two rates (CREDITS=vine RATES=70e-6,140e-6).
# As many runs at a time as there are cores (JOBS): a model this small keeps one busy. A call that
# was interrupted goes on when it is repeated. The table goes into RESULTS.md, the picture beside it.
# Overrides may follow, for all runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh
source tests/bench/side_by_side.sh

credits=${CREDITS:-uniform,delta}
seeds=${SEEDS:-0}
rates=${RATES:-7e-5}
steps=${STEPS:-50}
base=outputs/credit/chain
runs=outputs/helps/steps_$steps
[[ -f $base/model/config.json ]] || python tests/bench/slips.py chain "$base"

settings=(
    cluster=local_cpu cluster.torch_threads=1 "model.path=$base/model" model.dtype=float32
    "data.train=[$base/train.jsonl]" "data.eval=[$base/eval.jsonl]" data.max_prompt_tokens=120
    rollout.max_response_tokens=120 rollout.workers=1 rollout.group_size=4 objective=dapo
    learner.ranks=1 learner.gradient_checkpointing=false
    train.prompts_per_step=4 "train.steps=$steps"
    evaluation.at_end=true evaluation.greedy=false evaluation.samples=8
    train.resume=auto "train.checkpoint_every=$steps" train.keep_checkpoints=1
    telemetry.wandb=disabled telemetry.log_responses=false telemetry.progress=false
)

# What the upper reference needs besides its name: values by continuations, every other operation.
values="credit.samples=3 credit.equal_groups=false credit.segment=tokens credit.every=10"
declare -A own=([vine]="advantage=unit $values")

# Reads lines of CREDIT RATE SEED; what a run prints goes beside its folder below $runs/$1.
train() {
    while read -r credit rate seed; do
        folder=$runs/$1/${credit}_${rate}_$seed
        [[ -f $folder/summary.json ]] ||
            echo "${own[$credit]-}" "learner.lr=$rate" "train.seed=$seed" "credit=$credit" \
                "train.output_dir=$folder"
    done | side_by_side python -m rlvr.train "${settings[@]}" "${@:2}"
}

if [[ $rates == *,* ]]; then # on a seed that the comparison does not see
    for credit in ${credits//,/ }; do
        printf "$credit %s 100\n" ${rates//,/ }
    done | train tuned "$@" evaluation.at_end=false
    best=$(python tests/bench/helps.py rates "$runs")
else
    best=$(printf "%s $rates\n" ${credits//,/ })
fi
while read -r credit rate; do
    printf "$credit $rate %s\n" ${seeds//,/ }
done <<<"$best" | train compared "$@"
python tests/bench/helps.py table "$runs" tests/bench
