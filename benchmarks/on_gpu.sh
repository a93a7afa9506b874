#!/usr/bin/env bash
# The first minutes on a GPU, the most valuable first, in 480 s: does it load and launch, the bits of the whole table, ratios to
# a copy, torch's times, facts, tests of streams and graphs, compute-sanitizer, hardware counters.
#
#     benchmarks/on_gpu.sh prepare [ARGUMENTS]   on a machine without a GPU but with the compiler: what the stages need goes to
#                                                gpu-carried, which travels with the source, and nothing is compiled on the GPU's
#     benchmarks/on_gpu.sh [OUT]                 on the GPU's machine, prepared or not; results go to OUT, ./gpu-results
#
# PYTHON (python3) is the interpreter, a path without spaces, BUDGET (480) the seconds for everything, CARRIED (gpu-carried) the folder, ONLY a
# regular expression of cases, DRY=1 launches nothing. Answers are appended as they come: results.jsonl (load, bits, ratios), speed.json, facts.json; summary.txt has a line
# for each stage, log.txt all that was said. A failure stops nothing but that without a device nothing follows. The exit status
# is 1 if anything failed.
set -u

python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
carried=${CARRIED:-$root/gpu-carried}
if [ "${1:-}" = prepare ]; then
    shift
    cd "$root" && PYTHONPATH=$PWD:$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH} exec "$python" tests/support/gpu_first.py prepare --folder "$carried" "$@"
fi
out=${1:-gpu-results}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
cd "$root" || exit 1
budget=${BUDGET:-480}
dry=${DRY:+--dry}
lost=66 # of tests/support/gpu_first.py
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD:$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH}" CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
if [ -e "$carried/source" ] && [ -z "${NUMBA_CACHE_DIR:-}" ]; then # what was carried is for this run
    NUMBA_CACHE_DIR=$(mktemp -d)
    export NUMBA_CACHE_DIR
    trap 'rm -rf "$NUMBA_CACHE_DIR"' EXIT
fi
rm -f "$out"/{summary.txt,log.txt,results.jsonl,speed.json,facts.json}
log=$out/log.txt summary=$out/summary.txt failed=0

# note NAME SECONDS WORD LAST: a line of the summary
note() { printf '%-9s %4d s  %s: %s\n' "$@" | tee -a "$summary"; }

# stage NAME LIMIT COMMAND...: in its time, or in what is left; what loses the context is begun again, and goes on behind that
stage() {
    local name=$1 begun=$SECONDS end=$((SECONDS + $2)) left status word
    shift 2
    [ "$end" -lt "$budget" ] || end=$budget
    while :; do
        left=$((end - SECONDS))
        if [ "$left" -lt 5 ]; then
            status=124
            break
        fi
        echo "=== $name" >>"$log"
        timeout -s INT -k 5 "$left" "$@" >>"$log" 2>&1
        status=$?
        [ "$status" -eq $lost ] || break
        failed=1
    done
    case $status in
    0) word=ok ;;
    124 | 137) word="stopped, the time was up" ;;
    *) word="FAILED ($status)" failed=1 ;;
    esac
    note "$name" $((SECONDS - begun)) "$word" "$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c 1-160)"
    return "$status"
}

# have PROGRAM, module NAME: whether a stage can run
have() { command -v "$1" >/dev/null; }
module() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }

first="$python tests/support/gpu_first.py --folder $carried $dry"
only=${ONLY:-}

stage load 45 $first load --results "$out/results.jsonl" || {
    tail -n 30 "$log"
    exit 1
}
stage bits 110 $first bits --only "$only" --results "$out/results.jsonl"
stage ratios 60 $first ratios --only "$only" --results "$out/results.jsonl"
if [ -n "$dry" ]; then
    note speed 0 "dry run" "nothing was timed"
elif module torch; then
    stage speed 90 "$python" benchmarks/gpu.py --contenders copy,numbanorm,torch --rounds 9 --seconds 85 --json "$out/speed.json"
else
    note speed 0 absent "torch is not installed"
fi
stage facts 40 "$python" benchmarks/gpu_facts.py $dry --json "$out/facts.json"
if [ -n "$dry" ]; then
    note tests 0 "dry run" "nothing was run"
elif module torch && module pytest; then
    several=$(module xdist && echo "-n 8")
    stage tests 50 "$python" -m pytest -q -p no:cacheprovider --maxfail 20 $several tests/cuda/test_cuda_gpu.py \
        -k "stream or graph or threads or thread or default"
else
    note tests 0 absent "torch or pytest is not installed"
fi
if have compute-sanitizer; then
    stage sanitizer 50 compute-sanitizer --tool memcheck --error-exitcode 1 $first bits --few
else
    note sanitizer 0 absent "compute-sanitizer is not installed"
fi
if [ -z "$dry" ] && have ncu; then
    counters="gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed"
    counters+=",sm__inst_issued.avg.pct_of_peak_sustained_active,sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active"
    counters+=",sm__inst_executed_pipe_fp64.avg.pct_of_peak_sustained_active,sm__warps_active.avg.pct_of_peak_sustained_active"
    stage counters 45 ncu --clock-control none --metrics "$counters" $first counted
fi

echo "--- in $out, after $SECONDS s ---"
cat "$summary"
exit $failed
