#!/usr/bin/env bash
# A command on every host of a TPU VM slice, whose chips then share each batch:
#   launch/tpu_pod.sh NAME ZONE data prepare mnist
#   launch/tpu_pod.sh NAME ZONE study --config=configs/mnist.py --workdir=runs/mnist
# The slice is made by, for example,
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-16 \
#     --version=v2-alpha-tpuv5-lite
#
# Host 0 alone writes the work directory and prints; name one on a mounted disk that outlives the
# slice.  Started again, it goes on where it was.
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
  launch/install
  .venv/bin/python -m pip install --quiet --constraint launch/constraints.txt 'jax[tpu]'
  exec .venv/bin/gankd$(printf ' %q' "$@")"
