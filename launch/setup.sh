#!/usr/bin/env bash
# Creates .venv with every version pinned; a second call finds nothing to do.
#   bash launch/setup.sh
# RLVR_PROFILE=cpu|gpu overrides the detection of a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/indexes.sh

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}

profile=${RLVR_PROFILE:-}
if [[ -z $profile ]]; then
    [[ $(nvidia-smi -L 2>/dev/null || true) == GPU* ]] && profile=gpu || profile=cpu
fi
case $profile in
    cpu) disk_gib=12 ;;
    gpu) disk_gib=30 ;;
    *) fail "RLVR_PROFILE=$profile is unknown. Set it to cpu or gpu." ;;
esac

lock=launch/lock/$profile.txt
stamp=.venv/rlvr-setup
log=.venv/setup.log
inputs=("$lock" pyproject.toml launch/setup.sh launch/environment.sh)
fingerprint="$profile $PWD $(cat "${inputs[@]}" | sha256sum)"
if [[ -x .venv/bin/python && -f $stamp && $(<"$stamp") == "$fingerprint" ]]; then
    exit 0
fi
begin=$SECONDS
[[ $(uname -sm) == "Linux x86_64" ]] ||
    fail "the lock files are for Linux on x86_64, and this is $(uname -sm)."

# step TITLE COMMAND...: runs COMMAND, its output in the log, and shows that time passes.
step() {
    local title=$1 from=$SECONDS shown=$SECONDS child
    shift
    set -m # a process group of its own, so that an interrupt reaches all of it
    "$@" >>"$log" 2>&1 &
    child=$!
    set +m
    trap 'kill -- "-$child"; exit 130' INT TERM
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.2
        if [[ -t 1 ]]; then
            printf '\r\033[Ksetup: %s, %d s' "$title" $((SECONDS - from))
        elif ((SECONDS - shown >= 10)); then
            shown=$SECONDS
            say "$title, $((SECONDS - from)) s"
        fi
    done
    trap - INT TERM
    [[ ! -t 1 ]] || printf '\r\033[K'
    if ! wait "$child"; then
        tail -n 20 "$log" >&2
        fail "$title failed. The whole output is in $log."
    fi
    say "$title: done in $((SECONDS - from)) s"
}

is_python_311() {
    [[ $("$1" -c 'import sys; print(sys.version_info[:2] == (3, 11))' 2>/dev/null) == True ]]
}

find_python() {
    local candidate
    for candidate in python3.11 python3; do
        is_python_311 "$candidate" && command -v "$candidate" && return
    done
    fail "Python 3.11 is needed, and python3 is $(python3 --version 2>&1 || true)." \
        "Install it (Debian, Ubuntu: python3.11, python3.11-venv and python3.11-dev)."
}

# Prints the Debian packages that this machine lacks.
missing_packages() {
    command -v c++ >/dev/null && command -v gcc >/dev/null || echo g++ gcc
    "$python" -c 'import ensurepip' 2>/dev/null || echo python3.11-venv
    "$python" -c 'import os, sysconfig as s
exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || echo python3.11-dev
    command -v git >/dev/null || echo git
    command -v bwrap >/dev/null || echo bubblewrap
    "$python" -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null || echo libseccomp2
}

# Prints those that tests alone need, which are skipped without them; Ubuntu has no such packages.
missing_for_tests() {
    [[ $profile == cpu ]] && grep -qs '^ID=debian' /etc/os-release || return 0
    command -v chromium >/dev/null || echo chromium
    command -v chromedriver >/dev/null || echo chromium-driver
}

install_system_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" ||
        { apt-get update && apt-get install -y --no-install-recommends "$@"; }
}

install_packages() {
    local backend=""
    use_pip_indexes .venv/bin/pip
    .venv/bin/pip install --no-deps "$(grep '^uv==' "$lock")"
    [[ $profile == gpu ]] ||
        backend=$(torch_backend .venv/bin/uv .venv/bin/python "$(grep '^torch==' "$lock")")
    .venv/bin/uv pip install --python .venv/bin/python --no-deps $backend --requirement "$lock"
    .venv/bin/pip install --no-deps --no-build-isolation --editable .
}

# Compiles what the first run would wait for, once in each of its processes.
first_start() {
    source launch/environment.sh
    # A build that was killed leaves a lock file behind that every later one waits for.
    rm -f "$TORCH_EXTENSIONS_DIR/deepspeed_shm_comm/lock"
    DS_ACCELERATOR=cpu python -c \
        'from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load()' &
    python -c 'import deepspeed, hydra, math_verify, ray, transformers, wandb
import vllm.v1.engine.async_llm, vllm.v1.worker.cpu_worker, vllm.model_executor.models.qwen3'
    wait $!
}

python=$(find_python)
say "$profile profile, $("$python" --version), into .venv"
if [[ -f $stamp && $(<"$stamp") != "$profile $PWD "* ]] ||
    { [[ -e .venv/bin ]] && ! is_python_311 .venv/bin/python; }; then
    say "the old .venv is of another profile, folder or Python, and is replaced"
    rm -rf .venv
fi
if [[ ! -e .venv/bin ]]; then
    free_gib=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
    ((free_gib >= disk_gib)) ||
        fail "the $profile profile needs $disk_gib GiB of disk, and $PWD has $free_gib GiB free."
fi
mkdir -p .venv
: >"$log"

if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    for list in missing_packages missing_for_tests; do
        missing=$($list | xargs)
        [[ -z $missing ]] || (step "system packages ($missing)" install_system_packages $missing) || true
    done
fi
for package in $(missing_packages); do
    case $package in
        git) say "warning: there is no git; the run's record will lack the commit." ;;
        bubblewrap | libseccomp2)
            say "warning: there is no $package; verifying code will be refused." ;;
        *) fail "$package is missing: DeepSpeed compiles an op, and .venv needs pip. As root:" \
            "apt-get install $(missing_packages | xargs) (or your system's packages of them)." ;;
    esac
done

[[ -x .venv/bin/pip ]] || step "virtual environment" "$python" -m venv .venv
step "$(grep -c '==' "$lock") packages" install_packages
[[ $profile == gpu ]] || step "first start of the engines" first_start
echo "$fingerprint" >"$stamp"
say "ready in $((SECONDS - begin)) s. Try: bash launch/quickstart.sh"
