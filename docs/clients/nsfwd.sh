#!/usr/bin/env bash
# nsfwd from bash with nc (netcat-openbsd) and jq: one file, to be copied.
#
#     source nsfwd.sh
#     reply=$(nsfwd_bytes upload.jpg)
#     # Everything else is held: what has no score, an alarm, and a tier in between such as review.
#     if nsfwd_may_publish "$reply"; then publish
#     else hold_for_review "$(jq -r '.error.code // .verdict' <<<"$reply")"; fi
#
# A reply is always one JSON object with "status": "ok" (then also verdict, alarm, scores, ...), "skipped", "error" or
# "refused" (then error.code and error.message). A daemon that cannot be reached or does not answer in time is the status
# "error" with the code "unreachable" or "silent". Codes: protocol.md.

# tcp:HOST:PORT or unix:/path; seconds for one picture, waiting for a busy daemon included.
NSFWD_ADDRESS=${NSFWD_ADDRESS:-tcp:127.0.0.1:1235}
NSFWD_DEADLINE=${NSFWD_DEADLINE:-10}

# Succeed if nobody has to look at the picture first; $1 is its reply, the rest the verdicts to publish. Without them only
# "safe", the lowest tier, is published, and then never an alarm.
nsfwd_may_publish() {
    [[ $(jq '.status == "ok" and (.verdict as $verdict | if $ARGS.positional == [] then $verdict == "safe" and .alarm == false
        else any($ARGS.positional[]; . == $verdict) end)' --args -- "${@:2}" <<<"$1" 2>/dev/null) == true ]]
}

# Scan a file of the machine that the daemon runs on; $1 is absolute. base64 carries names that are not UTF-8 as well.
nsfwd_path() {
    _nsfwd_ask "\"path_bytes\": \"$(printf %s "$1" | base64 -w0)\""
}

# Scan a picture that the daemon cannot read: its bytes are sent.
nsfwd_bytes() {
    local size
    if ! size=$(stat -Lc %s -- "$1" 2>/dev/null); then
        echo '{"status":"error","error":{"code":"unreadable","message":"no such file here"}}'
        return
    fi
    _nsfwd_ask "\"bytes\": $size" "$1"
}

_nsfwd_ask() {
    local until=$((SECONDS + NSFWD_DEADLINE)) left reply pause
    while true; do
        left=$((until - SECONDS > 0 ? until - SECONDS : 1))
        read -r pause reply <<<"$(_nsfwd_once "{\"id\": 1, \"deadline\": $left, $1}" "$left" "${2:-}")"
        if [[ $pause == - ]] || ((SECONDS + ${pause%.*} + 1 > until)); then
            printf '%s\n' "$reply"
            return
        fi
        sleep "$pause"
    done
}

# Print how long to wait before asking again, or -, and the reply.
_nsfwd_once() {
    local place rest lines code
    if [[ $NSFWD_ADDRESS == unix:* ]]; then
        place=(-U "${NSFWD_ADDRESS#unix:}")
    else
        rest=${NSFWD_ADDRESS#tcp:}
        place=("${rest%:*}" "${rest##*:}")
    fi
    # 2 seconds more: the daemon's own reply to a deadline has to come.
    lines=$({ printf '%s\n' "$1" && { [[ -z $3 ]] || cat -- "$3"; }; } 2>/dev/null |
        timeout "$(($2 + 2))" nc -N "${place[@]}" 2>/dev/null | grep -a -m1 '^{'; exit "${PIPESTATUS[1]}")
    code=$?
    if [[ -n $lines ]]; then
        # A directory is answered with many lines; here one picture is asked for.
        jq -r --argjson asked "$1" 'if .status == "done" or ($asked.path_bytes and .path and
            (.path_bytes // (.path | @base64)) != $asked.path_bytes)
            then {status: "error", error: {code: "is_directory", message: "a directory, not a picture"}} else . end |
            "\(if .status == "refused" then .retry_after // "-" else "-" end) \(tojson)"' <<<"$lines" 2>/dev/null ||
            echo '- {"status":"error","error":{"code":"unreachable","message":"what answered is no nsfwd"}}'
    elif ((code == 124)); then
        echo '- {"status":"error","error":{"code":"silent","message":"the daemon did not answer in time"}}'
    else
        jq -rn --arg at "$NSFWD_ADDRESS" \
            '"- \({status: "error", error: {code: "unreachable", message: "no daemon at \($at)"}} | tojson)"'
    fi
}

# Example: bash nsfwd.sh ADDRESS DEADLINE path|bytes FILE [TIER...] says what an upload form should do with the picture:
# publish (exit code 0), hold for its verdict (1), hold because it has no score (2). TIER: a verdict to publish.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    (($# >= 4)) || { echo "usage: bash nsfwd.sh ADDRESS DEADLINE path|bytes FILE [TIER...]" >&2; exit 64; }
    NSFWD_ADDRESS=$1 NSFWD_DEADLINE=$2
    reply=$("nsfwd_$3" "$4")
    nsfwd_may_publish "$reply" "${@:5}" && echo "publish $(jq -r .verdict <<<"$reply")" && exit
    echo "hold $(jq -r '.error.code // .verdict' <<<"$reply")"
    exit "$(jq 'if .status == "ok" then 1 else 2 end' <<<"$reply")"
fi
