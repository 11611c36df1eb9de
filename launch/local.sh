#!/usr/bin/env bash
# Runs a study on the GPUs of one machine: one process per GPU, each with a shard of the study.
#   launch/local.sh --config=configs/mnist.py --workdir=runs/mnist
# On some of the GPUs: CUDA_VISIBLE_DEVICES=0,2 launch/local.sh ...
#
# SIGTERM and Ctrl-C reach every process, which then saves a checkpoint and exits; the same command
# resumes from there. To split each batch over all GPUs instead, start `gankd study` itself.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${CUDA_VISIBLE_DEVICES:-}" ]; then
  CUDA_VISIBLE_DEVICES=$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)
fi
IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"

processes=()
trap 'kill -TERM "${processes[@]}" 2>/dev/null || true' TERM INT
for k in "${!gpus[@]}"; do
  # Students may start before the shard that trains their teacher: they wait up to 15 minutes.
  CUDA_VISIBLE_DEVICES=${gpus[k]} "${GANKD:-.venv/bin/gankd}" study "$@" \
    "--shard=$((k + 1))/${#gpus[@]}" --wait=900 &
  processes+=($!)
done

failed=0
for process in "${processes[@]}"; do
  status=0
  wait "$process" || status=$?
  while kill -0 "$process" 2>/dev/null; do  # a signal ends `wait` before the process exits
    status=0
    wait "$process" || status=$?
  done
  [ $status = 0 ] || failed=$status
done
exit $failed
