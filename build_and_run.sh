#!/usr/bin/env bash
# One command from a clone to a CSV, in containers.
set -euo pipefail
start=$PWD
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./build_and_run.sh [OPTION…]

Builds the images, starts the farm, measures DenseNet-121, writes the CSV, and takes the farm down again where it was
not up before. What was built and measured is kept in the farm's volumes: interrupted, the same command goes on.

  --output-dir DIR          where benchmark_results.csv goes                  [./results]
  --gpu-enabled true|false  measure on NVIDIA GPUs                            [false]
  --optimizations R,…       recipes           [baseline,channels_last,amp,torchscript,compile,onnxruntime]
  --batch-size N,…          batch sizes                                       [1,8,32]
  --device D,…              cpu, cuda, cuda.MODEL                             [cuda with a GPU, else cpu]
  --protocol NAME           quick, standard or thorough                       [quick]
  --dataset NAME            digits, synthetic or image_folder:NAME            [digits]
  --iters N                 at least so many timed calls                      [the protocol's]
  --warmup N                at least so many calls before them                [the protocol's]
  --eval-batches N          accuracy on so many of the largest batches        [the protocol's]
  --num-workers N           workers; those of one host take turns on a device [1]
  --tensorboard-port PORT   TensorBoard on 127.0.0.1                          [6006]
  --build-only              build the images and end
  --detached                submit and end; the farm goes on
  --no-cache                build the images from scratch
  --cleanup                 afterwards remove containers, volumes and images; alone: do only that

examples:
  ./build_and_run.sh
  ./build_and_run.sh --optimizations baseline,channels_last+amp --batch-size 1,8 --output-dir /tmp/results
  ./build_and_run.sh --gpu-enabled true --num-workers 2 --detached
  ./build_and_run.sh --cleanup
TEXT
}

fail() { echo "error: $*" >&2; exit 2; }

whole() { [[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || fail "$1 $2: a whole number from 1 on, please."; }

output=results gpu=false device="" batch=1,8,32 workers=1 protocol=quick dataset=digits
optimizations=baseline,channels_last,amp,torchscript,compile,onnxruntime
eval_batches="" build_only=false detached=false cleanup=false only_cleanup=false
build=() set=() run=()
with_value="--output-dir --gpu-enabled --optimizations --batch-size --device --protocol --dataset --iters --warmup
--eval-batches --num-workers --tensorboard-port"
with_value=${with_value//$'\n'/ }

read_options() {
    [ "$*" != --cleanup ] || only_cleanup=true
    while [ $# -gt 0 ]; do
        case "$1" in
            -h | --help) usage; exit 0 ;;
            --build-only) build_only=true; shift; continue ;;
            --detached) detached=true; shift; continue ;;
            --no-cache) build+=(--no-cache); shift; continue ;;
            --cleanup) cleanup=true; shift; continue ;;
        esac
        local option=${1%%=*} value
        [[ " $with_value " == *" $option "* ]] || fail "There is no option $option. All options: ./build_and_run.sh --help"
        if [ "$1" != "$option" ]; then value=${1#*=}; shift; else value=${2-}; shift $(($# > 1 ? 2 : 1)); fi
        [ -n "$value" ] || fail "$option needs a value. All options: ./build_and_run.sh --help"
        case "$option" in
            --output-dir) output=$value ;;
            --gpu-enabled) gpu=$value ;;
            --optimizations) optimizations=$value ;;
            --batch-size) batch=$value ;;
            --device) device=$value ;;
            --protocol) protocol=$value ;;
            --dataset) dataset=$value ;;
            --iters) whole "$option" "$value"; set+=(--set "min_calls=$value") ;;
            --warmup) whole "$option" "$value"; set+=(--set "warmup_min_calls=$value") ;;
            --eval-batches) whole "$option" "$value"; eval_batches=$value ;;
            --num-workers) whole "$option" "$value"; workers=$value ;;
            --tensorboard-port) whole "$option" "$value"; export FARM_TENSORBOARD_PORT=$value ;;
        esac
    done
    [ "$gpu" = true ] || [ "$gpu" = false ] || fail "--gpu-enabled $gpu: true or false, please."
    [ -n "$device" ] || { [ "$gpu" = true ] && device=cuda || device=cpu; }
    [ "$gpu" = true ] || [[ ,$device != *,cuda* ]] || fail "--device $device needs --gpu-enabled true."
    local size largest=0
    for size in ${batch//,/ }; do
        whole --batch-size "$size"
        [ "$size" -le "$largest" ] || largest=$size
    done
    if [ -n "$eval_batches" ]; then
        set+=(--set "accuracy_samples=$((eval_batches * largest))")
    fi
}

require_nvidia() {
    docker info --format '{{json .}}' | grep -qi nvidia || fail "Docker has no NVIDIA runtime here, so no container" \
        "can have a GPU. Install the NVIDIA Container Toolkit and restart Docker, or leave --gpu-enabled out."
}

clean_up() {
    docker compose --profile '*' down --volumes --remove-orphans
    local project
    project=$(docker compose config --format json | sed -n 's/^  "name": "\(.*\)",$/\1/p')
    docker image rm "$project:cpu" "$project:gpu" 2>/dev/null || true
}

submit() {  # further arguments of submit-matrix
    docker compose run --rm -T "${run[@]}" producer submit-matrix --models densenet121 --optimizations "$optimizations" \
        --batch-sizes "$batch" --devices "$device" --dataset "$dataset" --protocol "$protocol" "${set[@]}" \
        "$@"
}

read_options "$@"
if $only_cleanup; then
    export FARM_SECRETS=${FARM_SECRETS:-./compose/secrets}
    clean_up
    exit
fi
[[ $output = /* ]] || output=$start/$output
[[ $output != *:* ]] || fail "--output-dir $output: Docker cannot mount a path with a colon. Name another directory."
compose/setup >/dev/null
if [ ! -d "$output" ]; then
    mkdir -p "$output" 2>/dev/null || fail "--output-dir $output cannot be made. Name another directory."
    # Who measures in a container is no root, and is to write there.
    [ "$(id -u)" != 0 ] || chown "$(sed -n 's/^FARM_UID=//p' .env)" "$output"
fi
services=(cpu-worker) scale=(--scale "cpu-worker=$workers")
if [ "$gpu" = true ]; then
    require_nvidia
    export FARM_GPU_IMAGE=gpu
    services+=(gpu-worker)
    scale=(--scale "cpu-worker=$([[ ,$device, == *,cpu,* ]] && echo "$workers" || echo 0)" --scale "gpu-worker=$workers")
fi
FARM_COMMIT=$(git describe --always --abbrev=12 --exclude='*' --dirty=+ 2>/dev/null || true)
export FARM_COMMIT
docker compose build "${build[@]}" "${services[@]}"
if $build_only; then exit; fi

run=(--no-deps)
submit --dry-run
run=()
was_up=$(docker compose ps --quiet cpu-worker gpu-worker)
take_down() {
    if $cleanup; then clean_up; return; fi
    [ -z "$was_up" ] || return 0
    echo "Taking the farm down; a job in hand has up to 90 s to end."
    docker compose --profile '*' down
}
if ! $detached; then
    trap take_down EXIT
    trap 'echo "Interrupted. What was measured is kept: the same command goes on from there."; exit 130' INT TERM
fi
docker compose up --detach --no-build "${scale[@]}"
if $detached; then
    submit
    echo "The farm goes on and writes results/RUN when it is done. Follow it: docker compose logs --follow; stop it:"
    echo "docker compose --profile '*' down"
    exit
fi
run=(--volume "$output:/results")
submit --wait --output-dir /results
echo "On this host: $output/benchmark_results.csv"
