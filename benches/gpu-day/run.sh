#!/usr/bin/env bash
# Measures and proves, in one command, what only a GPU can tell:
#
#     export OUT=FOLDER LC_ALL=C; bash .gpu/run.sh [SECONDS]
#
# on the machine with the GPU, in the root of a copy of the project's tree in which prepare.sh has made `.gpu`. It ends
# by itself within SECONDS (480 by default). Each step has a limit of its own, and one that fails stops nothing.
# What is measured lies in $OUT as soon as it is measured, so that little is lost if the command is cut off. Nothing
# here changes a setting of the GPU. Exits with 1 if a step has failed or bits differ.
#
# DRY=1 makes every step small, for a machine that has a fake driver (tests/fake_cuda/) in its LD_LIBRARY_PATH.
set -uo pipefail
total=$((${1:-480} - 5)) # the summary has the rest
dry=${DRY:-}
started=$SECONDS
out=${OUT:?names the folder for the results}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
top=$(pwd -P)
log="$out/log.txt"
export PYTHONUNBUFFERED=1 RUST_BACKTRACE=1
for name in $(env | sed -n 's/^\(LOGITD_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done
export LOGITD_REQUIRE_GPU=1
[ -z "$dry" ] || export LOGITD_TEST_FAKE_GPU=1

# By Python, since not every machine has xz.
python3 -m tarfile -e "$top/.gpu/bin.txz" "$work" || { echo "no .gpu/bin.txz in $top: was .gpu copied?"; exit 1; }
PATH="$work:$PATH"
# The tests look for their files where they were compiled, and for recorded rows beside that.
compiled_at=$(cat "$work/compiled-at")
if [ ! -e "$compiled_at" ]; then mkdir -p "$(dirname "$compiled_at")" && ln -s "$top" "$compiled_at"; fi
rows=()
if [ -f "$top/.gpu/rows.npy.gz" ]; then
    gzip -dc "$top/.gpu/rows.npy.gz" > "$work/rows.npy"
    rows=(--logits "$work/rows.npy")
    beside="$(dirname "$top")/shared/logits/gemma3_270m_64x262144.f16.npy"
    if [ -z "$dry" ] && [ ! -e "$beside" ]; then mkdir -p "$(dirname "$beside")" && ln -sf "$work/rows.npy" "$beside"; fi
fi

add_folder() { export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$1"; }
# Where the loader does not know the driver.
for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
    if [ -e "$folder/libcuda.so.1" ] && [[ "$(ldconfig -p 2>/dev/null)" != *libcuda.so.1* ]]; then add_folder "$folder"; fi
done
# Where the driver is older than the code in the binary, NVRTC compiles the kernels. PyTorch brings one that fits.
nvrtc=$(python3 -c 'import importlib.util as u, pathlib as p
print(next(str(f.parent) for root in u.find_spec("nvidia").submodule_search_locations for f in p.Path(root).glob("*/lib/libnvrtc.so.*")))' 2>/dev/null)
[ -z "$nvrtc" ] || add_folder "$nvrtc"

left() { echo $((total - (SECONDS - started))); }
record() { echo "{\"step\":\"$1\",\"rc\":$2,\"seconds\":$3}" >> "$work/steps.jsonl"; }
# leave_out NAME REASON: a step that this machine cannot take.
leave_out() {
    echo "$1: left out: $2"
    record "$1" "\"left out: $2\"" 0
}
# step NAME LIMIT COMMAND...: what it prints goes to the log, or with `into=FILE` before it to a file in $OUT.
into=""
step() {
    local name=$1 limit=$2 begun=$SECONDS rc now file=$into
    shift 2
    into=""
    now=$(left)
    [ "$limit" -le "$now" ] || limit=$now
    if [ "$limit" -lt 3 ]; then
        record "$name" '"no time"' 0
        return 1
    fi
    printf '\n=== %s (%s s left)\n$ %s\n' "$name" "$now" "$*" >> "$log"
    if [ -n "$file" ]; then
        timeout -k 5 "$limit" "$@" >> "$out/$file" 2>> "$log"
    else
        timeout -k 5 "$limit" "$@" >> "$log" 2>&1
    fi
    rc=$?
    printf '=== %s: exit %s after %s s\n' "$name" "$rc" "$((SECONDS - begun))" >> "$log"
    record "$name" "$rc" "$((SECONDS - begun))"
    echo "$name: exit $rc, $((SECONDS - begun)) s"
    return $rc
}
has() { command -v "$1" > /dev/null; }

facts() {
    nvidia-smi
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,mig.mode.current,compute_mode,ecc.mode.current --format=csv
    nvcc --version | tail -2
    python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
    lscpu | grep -E 'Model name|^CPU\(s\)|L3'
    ldd --version | head -1
    uname -r
    cat .gpu/commit
}
export -f facts
# Clocks and load beside what is timed.
watch_clocks() { exec nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active --format=csv,noheader -lms 1000; }

if [ -n "$dry" ]; then
    bench_args=(--vocab-size 5000 --batch "1,2" --passes 2)
    export SWEEP_VOCAB=3000 SWEEP_ROWS_MAX=2 SWEEP_PASSES=1 SWEEP_SECONDS=4
    parity_limit=400 verify_rows=20 load_length=(--requests 8) load_rows=2 load_vocab=3000
else
    bench_args=(--vocab-size 128256 --batch "1,8,32,64,128,256,512" --passes 21)
    export SWEEP_SECONDS=60
    parity_limit=150 verify_rows=2000 load_length=(--duration 2s) load_rows="1 64 256" load_vocab=128256
fi

[ ${#rows[@]} -gt 0 ] || leave_out recorded-rows "they were not carried: prepare.sh says why"

# 1. What it is, and whether it works at all: the device proves itself when it is opened.
step facts 20 bash -c facts
step info 20 logitd info
watch_clocks >> "$work/clocks.csv" 2>/dev/null &
watcher=$!

# 2. The figures that the targets speak of.
into=bench.jsonl step bench 80 logitd bench --device cuda --json "${bench_args[@]}"

# 3. Every variant of the kernels against the oracle.
step parity "$parity_limit" gpu --test-threads=8

# 4. The same tensors, by others; and one read of them.
if [ ! -f "$work/libpeers.so" ]; then
    leave_out peers "prepared with PEERS=0"
elif [ ${#rows[@]} -eq 0 ]; then
    leave_out peers "without the recorded rows they would sample others than logitd"
elif ! python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>> "$log"; then
    leave_out peers "no PyTorch with a GPU"
else
    into=peers.jsonl step peers 75 python3 "$work/peers.py" --library "$work/libpeers.so" --logitd "$work/logitd" "${rows[@]}"
fi

# 5. Every shape of a launch: which of them is the fastest where.
into=sweep.jsonl step sweep 66 gpu_sweep

# 6. Bad accesses, races, barriers, reads of what nobody wrote: all at once, since nothing is timed. Launches are slow
#    beside these tools, beside racecheck by thousands of times.
sanitize() {
    compute-sanitizer --tool "$1" --error-exitcode 9 "${@:3}" logitd verify --a cuda:0 --b cpu --threads 4 --rows "$2" \
        --vocab-size-max 9000 --cuda-hang-timeout 75s --dump "$work"
}
export -f sanitize
export work
pids=()
for tool in "memcheck 400 --leak-check no" "racecheck 100" "synccheck 400" "initcheck 400"; do
    if has compute-sanitizer; then
        (step "sanitizer-${tool%% *}" 80 bash -c "sanitize $tool") &
        pids+=($!)
    else
        leave_out "sanitizer-${tool%% *}" "no compute-sanitizer"
    fi
done
[ ${#pids[@]} -eq 0 ] || wait "${pids[@]}"

# 7. Inside the kernel: what it waits for.
profile() {
    local stalls="" reason
    for reason in no_instruction long_scoreboard barrier membar lg_throttle short_scoreboard; do
        stalls+=",smsp__average_warps_issue_stalled_${reason}_per_issue_active.ratio"
    done
    set -- gpu_sweep once "$1" "$2"
    set -- --clock-control none --target-processes all -k regex:logitd_sample --launch-skip 4 --launch-count 1 \
        --section SpeedOfLight --section LaunchStats --section Occupancy --section WarpStateStats --section SchedulerStats \
        --section MemoryWorkloadAnalysis --section InstructionStats --page details "$@"
    # A name that this version does not know is an error of the whole: then without the extra ones.
    ncu --metrics "gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,dram__bytes_read.sum$stalls" "$@" \
        || ncu "$@"
}
export -f profile
profile_all() {
    local what
    for what in "$@"; do
        if has ncu; then
            into=ncu.txt step "ncu-${what// /-}" 25 bash -c "profile $what"
        else
            leave_out "ncu-${what// /-}" "no ncu"
        fi
    done
}
profile_all "k50_p95 256" "k50_p95 1" "k50_p95 64"
# And where: samples of the program counter by instruction, the caches as the launch before has left them.
sources() {
    ncu --clock-control none --cache-control none --target-processes all -k regex:logitd_sample --launch-skip 4 \
        --launch-count 1 --section SourceCounters --warp-sampling-interval 0 --page source --csv \
        --print-source sass gpu_sweep once "$1" "$2" | gzip
}
export -f sources
sources_all() {
    local what
    for what in "$@"; do
        if has ncu; then
            into=sources.csv.gz step "source-${what// /-}" 60 bash -c "sources $what"
        else
            leave_out "source-${what// /-}" "no ncu"
        fi
    done
}
# 8. The way to it: requests over every plane.
# `exec`, so that what is ended below is the server and not a shell around it.
daemon() {
    exec logitd serve --device cuda --listen 127.0.0.1:50151 --listen "unix:$work/s.sock" --shm "unix:$work/m.sock" \
        --cuda-region-bytes-max 2GiB --message-bytes-max 256MiB --queue-bytes-max 4GiB >> "$log" 2>&1
}
daemon &
server=$!
for _ in $(seq 100); do
    if logitd info --target "unix:$work/s.sock" > /dev/null 2>&1 || ! kill -0 "$server" 2>/dev/null; then break; fi
    sleep 0.2
done
ways=("http://127.0.0.1:50151 inline unary" "unix:$work/s.sock inline unary" "unix:$work/s.sock chunked unary"
    "unix:$work/s.sock shm unary" "unix:$work/s.sock shm direct" "unix:$work/s.sock device unary"
    "unix:$work/s.sock device direct")
for count in $load_rows; do
    for way in "${ways[@]}"; do
        read -r target plane rpc <<< "$way"
        into=load.jsonl step "load-$count-${target%%:*}-$plane-$rpc" 20 logitd load --json --quiet --target "$target" --plane "$plane" \
            --rpc "$rpc" --rows "$count" --vocab-size "$load_vocab" --pool-rows 256 --concurrency 4 \
            "${load_length[@]}" --check 1 --check-rows-max 256 --check-with cpu
    done
done
kill "$server" 2>> "$log"
for _ in $(seq 50); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
kill -9 "$server" 2>/dev/null

profile_all "p95 256" "t08 256" "greedy 256"
sources_all "k50_p95 64"

# 9. As many rows as there is time for.
n=0
while [ "$(left)" -gt 25 ]; do
    pids=()
    for worker in 1 2 3; do
        (step "verify-$worker-$n" $(($(left) - 15)) logitd verify --a cuda:0 --b cpu --threads 4 --rows "$verify_rows" \
            --seed "$worker" --first-row $((n * verify_rows)) --dump "$work") &
        pids+=($!)
    done
    wait "${pids[@]}"
    n=$((n + 1))
    [ -z "$dry" ] || break
done
[ "$n" -gt 0 ] || record verify '"no time"' 0

kill "$watcher" 2>/dev/null

# What came of it.
{
    echo "=== clocks"
    sort -u "$work/clocks.csv" 2>/dev/null
    cat "$work"/logitd-difference*.txt 2>/dev/null
} >> "$log"
differences=$(cd "$work" && find . -maxdepth 1 -name 'logitd-difference*')
# shellcheck disable=SC2086 # several names without spaces
[ -z "$differences" ] || tar czf "$out/difference.tgz" -C "$work" $differences
python3 "$work/summary.py" "$out" "$work/steps.jsonl" | tee -a "$log"
