#!/usr/bin/env bash
# Runs a command on every host of a TPU VM slice; each batch is split over all chips.
#   launch/tpu_pod.sh NAME ZONE data prepare mnist
#   launch/tpu_pod.sh NAME ZONE study --config=configs/mnist.py --workdir=runs/mnist
# To create the slice, for example:
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-16 \
#     --version=v2-alpha-tpuv5-lite
#
# Only host 0 writes the work directory and prints. Put the work directory on a mounted disk that
# outlives the slice. The same command resumes an interrupted study.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1 zone=$2
shift 2
case ${1:-} in study | train | evaluate) set -- "$@" --processes=auto ;; esac

everywhere() { gcloud compute tpus tpu-vm "$@" --zone="$zone" --worker=all; }

archive=$(mktemp --suffix=.tgz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
everywhere scp "$archive" "$name:gankd-jax.tgz"
everywhere ssh "$name" --command="
  set -e
  mkdir -p gankd-jax && cd gankd-jax && tar xzf ../gankd-jax.tgz
  launch/install tpu
  exec .venv/bin/gankd$(printf ' %q' "$@")"
