#!/usr/bin/env bash
# From a fresh clone to a trained model, nothing to download; Hydra overrides may follow:
#   bash launch/quickstart.sh [train.steps=5 ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
begin=$SECONDS
since=$SECONDS

finished() {
    printf '== %s: %d s\n' "$1" $((SECONDS - since))
    since=$SECONDS
}

echo "== 1/3 set-up"
bash launch/setup.sh
source launch/environment.sh
finished "set-up"

echo "== 2/3 a small base model, warmed up on worked arithmetic"
base=outputs/quickstart
if [[ -f $base/warmup.json && -z $(find rlvr/quickstart -name '*.py' -newer "$base/warmup.json") ]]; then
    echo "$base/model is there from an earlier call"
else
    python -m rlvr.quickstart --output "$base"
fi
finished "base model"

echo "== 3/3 RLVR"
code=0
python -m rlvr.train +recipe=quickstart "$@" || code=$?
finished "RLVR"

if ((code == 0)); then
    echo "== done in $((SECONDS - begin)) s"
else
    echo "== failed in stage 3 with exit code $code, after $((SECONDS - begin)) s"
fi
exit "$code"
