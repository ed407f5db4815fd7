#!/bin/bash
# The Slurm scripts against a real Slurm: a controller and two virtual nodes on this machine, a real coordinator, real
# agents, a run over both of them, and agents that leave before their time limit with the run going on elsewhere.
#
#   deploy/slurm/test.sh [FOLDER]      FOLDER holds regatta and regatta-worker [default: target/release]
#
# Needs slurmctld, slurmd and munged (Debian: apt-get install slurm-wlm munge) and root; without them it says so and
# ends with 0. Everything it starts it stops by process id; nothing outside its own temporary folder is touched.

set -eu

skip() {
    echo "skipped: $1"
    exit 0
}

for program in slurmctld slurmd munged sbatch squeue scancel python3; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || skip "$program is missing (apt-get install slurm-wlm munge)"
done
[ "$(id -u)" = 0 ] || skip "slurmd starts jobs only as root"
PATH=$PATH:/usr/sbin

here=$(cd "$(dirname "$0")" && pwd)
bin=$(cd "${1:-$here/../../target/release}" && pwd)
for program in regatta regatta-worker; do
    [ -x "$bin/$program" ] || {
        echo "$bin/$program is missing: cargo build -p regatta -p regatta-worker --no-default-features --bins" >&2
        exit 1
    }
done

dir=$(mktemp -d /tmp/regatta-slurm.XXXXXX)
pids=()
# Everything within ten minutes, whatever hangs.
(exec >/dev/null 2>&1; sleep 600 && kill -TERM $$) &
watchdog=$!

stop() {
    code=$?
    trap - EXIT INT TERM
    kill "$watchdog" 2>/dev/null || true
    # Jobs first, while there is somebody who can end them.
    scancel --user=root >/dev/null 2>&1 || true
    for _ in $(seq 20); do
        [ -n "$(squeue --noheader 2>/dev/null)" ] || break
        sleep 0.5
    done
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill -TERM "${pids[i]}" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        for _ in $(seq 50); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    if [ $code -ne 0 ]; then
        echo "failed with $code; the logs:" >&2
        tail -n 15 "$dir"/*.log >&2 || true
    fi
    rm -rf "$dir"
    exit $code
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until a command succeeds, for at most as many seconds.
within() {
    local seconds=$1
    shift
    local end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "not within $seconds s: $*" >&2
            return 1
        fi
        sleep 0.3
    done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# A service of this test, with its own log.
serve() {
    local name=$1
    shift
    "$@" >"$dir/$name.log" 2>&1 &
    pids+=($!)
}

### A cluster of two virtual nodes, each with one virtual GPU.

host=$(hostname -s)
mkdir -p "$dir/state" "$dir/munge"
chmod 700 "$dir/munge"
dd if=/dev/urandom of="$dir/munge/key" bs=128 count=1 2>/dev/null
chmod 600 "$dir/munge/key"
export SLURM_CONF=$dir/slurm.conf
cat >"$SLURM_CONF" <<END
ClusterName=regatta-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,batch_sched_delay=1
MpiDefault=none
ReturnToService=2
KillWait=30
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1 RealMemory=1000 Gres=gpu:1
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=1 RealMemory=1000 Gres=gpu:1
PartitionName=test Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP OverTimeLimit=0
END
echo "NodeName=node[1-2] Name=gpu File=/dev/null" >"$dir/gres.conf"
echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf"

serve munged munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
    --pid-file="$dir/munge/pid" --log-file="$dir/munged-own.log" --seed-file="$dir/munge/seed"
within 10 test -S "$dir/munge/socket"
serve slurmctld slurmctld -D -c
serve slurmd-node1 slurmd -D -N node1
serve slurmd-node2 slurmd -D -N node2
idle() { [ "$(sinfo --noheader --Node --format='%T' | grep -c '^idle$')" = 2 ]; }
within 60 idle
echo "cluster: $(slurmctld -V), $(sinfo --noheader --format='%D nodes %G %T')"

### A coordinator.

export REGATTA_AGENT_CANARY=off REGATTA_HOME=$dir/home REGATTA_BIN=$bin/regatta REGATTA_SPOOL=$dir/agents
unset REGATTA_DB REGATTA_MODELS REGATTA_WORKER_DIR REGATTA_TOKEN_FILE REGATTA_TOKEN REGATTA_TOKENS REGATTA_CA
serve coordinator "$bin/regatta" coordinator --listen 127.0.0.1:0 --db "$dir/fleet.sqlite"
within 20 grep -q "listening on" "$dir/coordinator.log"
REGATTA_COORDINATOR=http://$(sed -n 's/^listening on //p' "$dir/coordinator.log")
export REGATTA_COORDINATOR

# A scenario of the fake engine, in which a token takes a millisecond: so many workloads, repetitions and tokens.
scenario() {
    local workloads=$1 repetitions=$2 tokens=$3 n
    cat <<END
schema = 1
name = "slurm"
models = ["regatta-15m"]
weights = "synthetic"
backends = ["fake"]
precisions = ["f32", "q8_0"]
[policy]
repetitions = $repetitions
timeout = "5m"
[policy.warmup]
min_repetitions = 0
max_repetitions = 0
min_time = "0s"
END
    for n in $(seq "$workloads"); do
        printf '[[workload]]\nname = "w%s"\nprompt_tokens = 8\ngenerate = %s\n' "$n" $((tokens + n))
    done
}

# cells, cells that are ok, samples that count, superseded and repeated ones, agents: of the newest run.
facts() {
    "$bin/regatta" runs --limit 1 --json >"$dir/runs.json"
    "$bin/regatta" show "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["run"])' "$dir/runs.json")" --json |
        python3 -c '
import json, sys
cells = json.load(sys.stdin)["cells"]
print(len(cells), sum(c["state"] == "ok" for c in cells), sum(c["samples"] for c in cells),
      sum(c["superseded"] for c in cells), len({c["agent"] for c in cells if c["samples"]}))'
}

cd "$dir"

### One run over both nodes, by run.sh from start to end.

scenario 3 5 20 >short.toml
began=$SECONDS
"$here/run.sh" 2 short.toml --out report -- --time=5 >run.log 2>&1
read -r cells ok samples superseded agents < <(facts)
echo "run over two nodes: $ok of $cells cells ok, $samples samples from $agents agents, $((SECONDS - began)) s"
[ "$cells $ok $samples $agents" = "12 12 60 2" ]
[ -s report/report.html ] && [ -s report/run.sqlite ]
[ -z "$(squeue --noheader)" ]
for task in 0 1; do
    id=$(ls regatta-agent-*_$task.log | head -n 1)
    grep -q "stops in good order" "$id" || { echo "$id: not stopped in good order" >&2; exit 1; }
done

### Agents whose time is up in the midst of a run. The next job goes on where they stopped.

# 48 s at least for each agent, however fast the machine is.
scenario 4 20 300 >long.toml
sbatch --parsable --array=0-1 --time=1 --signal=B:TERM@30 "$here/regatta-agents.sbatch" >first.job
agents_ready() {
    [ "$("$bin/regatta" agents --json | python3 -c '
import json, sys
print(sum(a["state"] in ("ready", "busy") for a in json.load(sys.stdin)))')" = "$1" ]
}
within 60 agents_ready 2
began=$SECONDS
run=$("$bin/regatta" submit long.toml 2>/dev/null)
gone() { [ -z "$(squeue --noheader --jobs="$(cat first.job)" 2>/dev/null)" ]; }
within 150 gone
read -r cells ok samples superseded agents < <(facts)
echo "time limit after $((SECONDS - began)) s: $ok of $cells cells ok, $samples samples delivered before the agents left"
[ "$ok" -lt "$cells" ] && [ "$samples" -gt 0 ]
before=$((samples + superseded))
grep -L "stops in good order" regatta-agent-"$(cat first.job)"_*.log | { ! grep . ; }
! grep -il "killed\|DUE TO TIME LIMIT" regatta-agent-"$(cat first.job)"_*.log | grep .

sbatch --parsable --array=0-1 --time=10 "$here/regatta-agents.sbatch" >second.job
timeout 300 "$bin/regatta" watch "$run" >watch.log 2>&1
read -r cells ok samples superseded agents < <(facts)
scancel --batch --signal=TERM "$(cat second.job)"
echo "the next job: $ok of $cells cells ok, $samples samples that count, $superseded of earlier leases, $((SECONDS - began)) s in all"
[ "$cells $ok $samples $agents" = "16 16 320 2" ]
[ $((samples + superseded)) -ge "$before" ]
empty() { [ -z "$(squeue --noheader 2>/dev/null)" ]; }
within 60 empty
echo "passed"
