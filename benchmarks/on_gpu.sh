#!/usr/bin/env bash
# All that wants a GPU, the most important first, in ten minutes: facts, tests, compute-sanitizer, benchmark.
#
#     benchmarks/on_gpu.sh [OUT]        logs and JSON go to OUT, ./gpu-results by default
#
# PYTHON (python3) is the interpreter, BUDGET (570) the seconds for everything. No failure stops it. The exit status is 1 if
# anything failed. When a kernel breaks the CUDA context, the tests that had not run yet are run by another process.
set -u

out=${1:-gpu-results}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
budget=${BUDGET:-570}
lost=66 # of tests/support/gpu_tools.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
summary=$out/summary.txt
: >"$summary"
failed=0
last=0

# left LIMIT: so many seconds, or what is left of the budget
left() {
    local rest=$((budget - SECONDS))
    echo $((rest < $1 ? rest : $1))
}

# note NAME STATUS BEGUN LAST: a line of the summary
note() {
    local word=ok
    case $2 in
    0) ;;
    124 | 137) word="stopped, the time was up" ;;
    *) word="FAILED ($2)" ;;
    esac
    [ "$2" -eq 0 ] || failed=1
    printf '%-10s %4d s  %s: %s\n' "$1" $((SECONDS - $3)) "$word" "$4" | tee -a "$summary"
}

# part NAME LIMIT COMMAND...: all it says goes to OUT/NAME.log
part() {
    local name=$1 limit begun=$SECONDS status
    limit=$(left "$2")
    shift 2
    if [ "$limit" -lt 5 ]; then
        note "$name" 124 "$begun" "not begun"
        return
    fi
    timeout -s INT -k 10 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    last=$status
    note "$name" "$status" "$begun" "$(grep -v '^[[:space:]]*$' "$out/$name.log" | tail -n 1 | cut -c 1-160)"
}

# tests NAME LIMIT ARGUMENTS...: pytest, and again for what had not run when it broke down
tests() {
    local name=$1 end begun=$SECONDS limit status worst=0 before after verdicts
    end=$((SECONDS + $(left "$2")))
    shift 2
    : >"$out/$name.log"
    "$python" -m pytest --collect-only "$@" 2>>"$out/$name.log" | grep '^tests/.*::' >"$work/todo"
    while [ -s "$work/todo" ]; do
        limit=$((end - SECONDS))
        if [ "$limit" -lt 5 ]; then
            worst=124
            break
        fi
        timeout -s INT -k 10 "$limit" "$python" -m pytest -vv -rfEs --durations=15 $parallel "@$work/todo" >"$work/log" 2>&1
        status=$?
        cat "$work/log" >>"$out/$name.log"
        [ "$status" -eq 0 ] || worst=$status
        [ "$status" -eq $lost ] || [ "$status" -gt 128 ] || break
        before=$(wc -l <"$work/todo")
        awk 'NR == FNR { for (i = 1; i <= NF; i++) if ($i ~ /^tests\/.*::/) done[$i] = 1; next } !($0 in done)' \
            "$work/log" "$work/todo" >"$work/rest"
        mv "$work/rest" "$work/todo"
        after=$(wc -l <"$work/todo")
        echo "--- pytest ended with $status; $after tests have not run ---" >>"$out/$name.log"
        [ "$after" -lt "$before" ] || break
    done
    grep -q -E '[0-9]+ (passed|failed|skipped|errors?)' "$out/$name.log" || [ "$worst" -ne 0 ] || worst=5 # nothing was collected
    # a run without a device would skip everything, and be no run
    grep -q -E '(^|[ =])[0-9]+ passed' "$out/$name.log" || [ "$worst" -ne 0 ] || worst=5
    verdicts=$(grep -oE '[0-9]+ (passed|failed|skipped|errors?)' "$out/$name.log" | awk '{ n[$2] += $1 } END { for (k in n) printf "%d %s ", n[k], k }')
    note "$name" "$worst" "$begun" "${verdicts:-no test ran}"
}

several=""
"$python" -c 'import xdist' 2>/dev/null && several="-n 8"
files="tests/cuda/test_cuda_gpu.py tests/cuda/test_cuda_gpu_interop.py"
# these need no device of their own; run by several processes, they also compile the kernels that the others want
shared="aligned or written or in_numba_out or cupy_in or carried"

part facts 60 "$python" benchmarks/gpu_facts.py --json "$out/facts.json"
if [ "$last" -eq 2 ]; then # no device: nothing else could run, and tests that skip are no tests
    exit 1
fi
if [ "$last" -le 1 ] && [ -s "$out/facts.json" ]; then
    rm "$out/facts.log" # says the same
fi
parallel=$several tests shared 130 $files -k "$shared"
parallel="" tests gpu 120 $files -k "not sanitizer and not ($shared)"
if [ -e tests/cuda/test_cuda_table.py ]; then
    parallel=$several tests table 110 tests/cuda/test_cuda_table.py
fi
parallel="" tests sanitizer 70 tests/cuda/test_cuda_gpu.py -k sanitizer
rest=$(left 600)
quick=$([ "$rest" -lt 200 ] && echo --quick)
part benchmark 600 "$python" benchmarks/gpu.py --json "$out/benchmark.json" --seconds $((rest - 15)) $quick

echo "--- in $out, after $SECONDS s ---"
cat "$summary"
grep -h -E '^(FAILED|ERROR) ' "$out"/{shared,gpu,table,sanitizer}.log 2>/dev/null | cut -c 1-200 | sort -u | head -n 40
exit $failed
