#!/usr/bin/env bash
# Is credit right? Every method on tasks where the first slip of a response is known, and against
# what single tokens do to the outcome: for each task and seed an audit of an imperfect base model.
# One seed of two tasks by default, 20 minutes on two cores; TASKS="worked chain programs"
# SEEDS="0 1 2 3 4" is the full form, an hour. As many audits at a time as there are cores (JOBS): a
# model this small keeps one busy. A call that was interrupted goes on when it is repeated. The
# table goes into RESULTS.md, the picture beside it. Overrides may follow, for all audits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh
source tests/bench/side_by_side.sh

tasks=${TASKS:-worked chain}
seeds=${SEEDS:-0}
credits=${CREDITS:-thr,nthr,oar_g,oar_p,otb,entropy_top,random,uniform}
bases=outputs/credit
declare -A prompt=([worked]=16 [chain]=120 [programs]=80)
declare -A longest=([worked]=40 [chain]=120 [programs]=48)

for task in $tasks; do
    [[ -f $bases/$task/model/config.json ]] || python tests/bench/slips.py "$task" "$bases/$task"
done

settings=(
    cluster=local_cpu cluster.torch_threads=1 model.dtype=float32
    rollout.workers=1 rollout.group_size=8 train.prompts_per_step=32
    learner.ranks=1 learner.gradient_checkpointing=false
    audit.continuations=20000 credit=delta "shadow.credits=[$credits]"
)
for seed in $seeds; do
    for task in $tasks; do
        audit=$bases/$task/seed_$seed
        [[ -f $audit/result.json ]] ||
            echo "model.path=$bases/$task/model" "data.train=[$bases/$task/train.jsonl]" \
                "data.max_prompt_tokens=${prompt[$task]}" \
                "rollout.max_response_tokens=${longest[$task]}" "train.seed=$seed" \
                --output "$audit"
    done
done | side_by_side python -m rlvr.audit "${settings[@]}" "$@"
python tests/bench/credit_quality.py "$bases" tests/bench
