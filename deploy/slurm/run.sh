#!/bin/bash
# One scenario on nodes that Slurm allocates: starts agents as a job array, waits for them, submits the scenario,
# watches it, makes the report, and drains the agents.
#
#   export REGATTA_COORDINATOR=https://bench.example:7600 REGATTA_CA=$HOME/regatta/ca.crt
#   export REGATTA_TOKEN_FILE=$HOME/regatta/token REGATTA_TOKENS=$HOME/regatta/tokens
#   deploy/slurm/run.sh 4 scenarios/tinyllama.toml --out report -- --gpus-per-node=8 --time=04:00:00
#
# First the number of nodes and the scenario; then options for 'regatta run'; behind '--' options for sbatch.
# Ends with the exit code of 'regatta run': 0 all cells ok, 4 some are not.
#
# REGATTA_TOKEN_FILE is your own token (submitter), REGATTA_TOKENS the folder of the nodes' tokens.
# REGATTA_WAIT says how many seconds to wait for the nodes [default: 3600].

set -eu

if [ $# -lt 2 ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
nodes=$1
scenario=$2
shift 2
run_options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    run_options+=("$1")
    shift
done
[ $# -eq 0 ] || shift

: "${REGATTA_COORDINATOR:?is not set: give the address of the coordinator}"
regatta=${REGATTA_BIN:-regatta}
here=$(cd "$(dirname "$0")" && pwd)

# The agents of our job that are connected and take trials.
ready() {
    "$regatta" agents --json | python3 -c '
import json, sys
agents = json.load(sys.stdin)
print(sum(a["state"] in ("ready", "busy") and a["labels"].get("slurm-job") == sys.argv[1] for a in agents))' "$job"
}

# The states of the tasks of our job that have not ended.
tasks() { squeue --noheader --array --jobs="$job" --format=%T || echo UNKNOWN; }

drain() {
    trap - EXIT INT TERM
    # Those that wait for a node have nothing to drain.
    scancel --state=PENDING "$job" || true
    # SIGTERM to the agents alone: each ends its repetition and delivers what it has. Slurm's own cancel would kill
    # them half a minute later.
    scancel --batch --signal=TERM "$job" || true
    for _ in $(seq 120); do
        [ -n "$(tasks)" ] || return 0
        sleep 1
    done
    echo "agents did not end within two minutes: cancelling job $job" >&2
    scancel "$job" || true
}

# Your own token stays here.
job=$(env -u REGATTA_TOKEN -u REGATTA_TOKEN_FILE \
    sbatch --parsable --array="0-$((nodes - 1))" "$@" "$here/regatta-agents.sbatch")
job=${job%%;*}
trap drain EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
echo "job $job: waiting for $nodes agents"

deadline=$((SECONDS + ${REGATTA_WAIT:-3600}))
until [ "$(ready)" -ge "$nodes" ]; do
    if [ -z "$(tasks)" ]; then
        echo "job $job has ended before its agents were connected: see regatta-agent-${job}_*.log" >&2
        exit 1
    fi
    if [ $SECONDS -ge $deadline ]; then
        echo "not all of the $nodes agents are connected in time: $(tasks | sort | uniq -c | tr '\n' ' ')" >&2
        exit 1
    fi
    sleep 1
done

code=0
"$regatta" run "$scenario" "${run_options[@]}" || code=$?
drain
exit $code
