#!/usr/bin/env bash
# Is credit right? Every method on tasks where the first slip of a response is known, and against
# what single tokens do to the outcome: for each task and seed an audit of an imperfect base model.
# One seed of two tasks by default, 20 minutes on two cores; TASKS="worked chain programs"
# SEEDS="0 1 2 3 4" is the full form, an hour and a half. A call that was interrupted goes on when
# it is repeated. The table goes into RESULTS.md. Overrides may follow, for all audits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash launch/setup.sh
source launch/environment.sh

credits=${CREDITS:-thr,nthr,oar_g,oar_p,otb,entropy_top,random,uniform}
declare -A prompt=([worked]=16 [chain]=120 [programs]=80)
declare -A longest=([worked]=40 [chain]=120 [programs]=48)
for task in ${TASKS:-worked chain}; do
    base=outputs/credit/$task
    [[ -f $base/model/config.json ]] || python tests/bench/slips.py "$task" "$base"
    for seed in ${SEEDS:-0}; do
        audit=$base/seed_$seed
        [[ -f $audit/result.json ]] || python -m rlvr.audit --output "$audit" \
            cluster=local_cpu "model.path=$base/model" model.dtype=float32 \
            "data.train=[$base/train.jsonl]" "data.max_prompt_tokens=${prompt[$task]}" \
            "rollout.max_response_tokens=${longest[$task]}" rollout.workers=1 \
            rollout.group_size=8 train.prompts_per_step=32 "train.seed=$seed" \
            learner.ranks=2 learner.zero_stage=2 learner.gradient_checkpointing=false \
            audit.continuations=20000 \
            credit=delta "shadow.credits=[$credits]" "$@"
    done
done
python tests/bench/credit_quality.py outputs/credit tests/bench
