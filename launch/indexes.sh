# Sourced by setup.sh and lock.sh: lets uv see the package indexes that pip is configured with.

# pip_setting NAME: pip's effective value of NAME, from its environment or its files, as words.
pip_setting() {
    local section value
    for section in :env: install global; do
        value=$(sed -n "s/^$section\.$1=['\"]\(.*\)['\"]$/\1/p" <<<"$PIP_SETTINGS")
        [[ -n $value ]] && break
    done
    printf '%b' "$value" | xargs
}

# use_pip_indexes PIP...: exports uv's settings from those of the given pip command. A setting of
# uv's own, already in the environment, wins.
use_pip_indexes() {
    local value
    PIP_SETTINGS=$("$@" config list)
    value=$(pip_setting index-url) && [[ -n $value ]] && export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$value}"
    value=$(pip_setting extra-index-url) && [[ -n $value ]] && export UV_INDEX="${UV_INDEX:-$value}"
    value=$(pip_setting find-links) && [[ -n $value ]] && export UV_FIND_LINKS="${UV_FIND_LINKS:-${value// /,}}"
    value=$(pip_setting trusted-host) && [[ -n $value ]] && export UV_INSECURE_HOST="${UV_INSECURE_HOST:-$value}"
    value=$(pip_setting cert) && [[ -n $value ]] && export SSL_CERT_FILE="${SSL_CERT_FILE:-$value}"
    export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"  # as pip: the best of all indexes
}

# torch_backend UV PYTHON REQUIREMENT: prints uv's option that adds PyTorch's own CPU index, and
# nothing if the configured indexes have REQUIREMENT (a pinned CPU build of torch).
torch_backend() {
    "$1" pip install --quiet --dry-run --no-deps --python "$2" "$3" 2>/dev/null ||
        echo "--torch-backend=cpu"
}
