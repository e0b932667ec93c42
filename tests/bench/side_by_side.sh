# Sourced by benches: side_by_side COMMAND... runs COMMAND with the words of each line that it reads,
# as many at a time as there are cores (JOBS). The last word names a folder, beside which what the
# command prints goes; one that fails is told, and the others come to their end first.

side_by_side() {
    xargs -r -P "${JOBS:-$(nproc)}" -L 1 bash -c '
        folder=${*: -1} && log=${folder#*=}.log && mkdir -p "${log%/*}" && echo "$log"
        "$@" >"$log" 2>&1 || {
            printf "%s: failed. It ends with:\n%s\n" "$log" "$(tail -n 3 "$log")" >&2 && exit 1
        }
    ' run "$@"
}
