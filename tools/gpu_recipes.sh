#!/usr/bin/env bash
# Train published recipes in full, in pieces that go on from their checkpoints; for a GPU that is lent for some minutes.
#
#   tools/gpu_recipes.sh MINUTES [OVERRIDE ...]
#
# Goes through RECIPES (experiments, or model/data, in this order) until MINUTES are over. A run that is cut off goes on
# the next time, bit for bit; one that is finished is scored again. Runs lie below RUNS (runs/gpu), data where BNN_DATA
# says. The overrides are for all of them, such as precision=bf16 task.compile=true.
set -euo pipefail
set -m  # a run is a process group of its own, which Ctrl-C reaches through this script alone

[ $# -ge 1 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
minutes=$1
shift
recipes=${RECIPES:-mnist_mlp_skd resnet20/cifar10 vgg_small/cifar10 resnet18/cifar10 bnext18/cifar10}
runs=${RUNS:-runs/gpu}
bnn=${BNN:-bnn}
end=$((SECONDS + minutes * 60))

for recipe in $recipes; do
  left=$((end - SECONDS))
  [ "$left" -gt 0 ] || { echo "time is over before $recipe"; break; }
  folder=$runs/${recipe/\//_}
  words=("experiment=$recipe")
  if [[ $recipe == */* ]]; then words=("model=${recipe%/*}" "data=${recipe#*/}"); fi
  place="hydra.run.dir=$folder"
  if [ -e "$folder/checkpoints/last.ckpt" ]; then place="ckpt_path=$folder"; fi
  echo "== $recipe: $place, at most $left s"
  # Ctrl-C when the time is over: the run writes last.ckpt and ends. One of ours is passed on. Exactly one signal must
  # arrive, as a second stops a run without a checkpoint: `timeout` without --foreground sends two.
  timeout --foreground --signal=INT --kill-after=120 "$left" "$bnn" train "${words[@]}" "$place" "$@" &
  job=$!
  trap 'kill -INT "$job"' INT TERM
  while status=0; wait "$job" || status=$?; kill -0 "$job" 2> /dev/null; do :; done
  trap - INT TERM
  if [ "$status" -eq 124 ]; then echo "time is over within $recipe"; break; fi
  if [ "$status" -ne 0 ]; then exit "$status"; fi
done
