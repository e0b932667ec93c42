# Sourced by setup.sh and lock.sh: lets uv see the package indexes that pip is configured with.

# adopt NAME VARIABLE: exports pip's setting NAME as uv's VARIABLE, unless that is set already.
adopt() {
    local section value=""
    [[ -z ${!2:-} ]] || return 0
    for section in :env: install global; do
        value=$(sed -n "s/^$section\.$1=['\"]\(.*\)['\"]\$/\1/p" <<<"$pip_settings")
        [[ -z $value ]] || break
    done
    value=$(printf '%b' "$value" | xargs) # several values may stand on lines of their own
    [[ $2 != UV_FIND_LINKS ]] || value=${value// /,}
    [[ -z $value ]] || export "$2=$value"
}

# use_pip_indexes PIP: PIP is the pip command whose configuration uv is to follow.
use_pip_indexes() {
    local pip_settings
    pip_settings=$("$1" config list)
    adopt index-url UV_DEFAULT_INDEX
    adopt extra-index-url UV_INDEX
    adopt find-links UV_FIND_LINKS
    adopt trusted-host UV_INSECURE_HOST
    adopt cert SSL_CERT_FILE
    # As pip does: the best version of all indexes, not the first index that knows the name.
    export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
}

# torch_backend UV PYTHON REQUIREMENT: prints the option that makes uv look into PyTorch's own CPU
# index, if the configured indexes lack REQUIREMENT, a pinned CPU build of torch.
torch_backend() {
    "$1" pip install --quiet --dry-run --no-deps --reinstall --python "$2" "$3" 2>/dev/null ||
        echo "--torch-backend=cpu"
}
