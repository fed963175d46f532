#!/usr/bin/env bash
# Train, harden, gate, export and score; nothing is exported that does not hold what is required.
#   pipeline.sh LABELS.csv OUT [ARCH]
# More options of a step come from TRAIN, HARDEN and EVALUATE, as in HARDEN="--recipe strong".
set -euo pipefail
labels=$1 out=$2 arch=${3:-resnet18}
mkdir -p "$out"
data=(--data "csv:$labels")

iqa-armor data check "csv:$labels" --json > "$out/data.json"
iqa-armor train "$arch" "${data[@]}" ${TRAIN:-} --overwrite -o "$out/base.safetensors" --json > "$out/train.json"
iqa-armor harden "$out/base.safetensors" "${data[@]}" ${HARDEN:-} --overwrite -o "$out/hardened.safetensors" \
    --json > "$out/harden.json"
# Ends here, with exit code 10, where a requirement does not hold.
iqa-armor evaluate "$out/hardened.safetensors" --baseline "$out/base.safetensors" "${data[@]}" ${EVALUATE:-} \
    --require "srocc_drop <= ${MOST_SROCC_DROP:-0.03}" \
    --require "ratio_to_baseline.attacks.pgd8.abs_gain_auc <= ${MOST_GAIN_RATIO:-0.8}" \
    --overwrite --report "$out/report.html" --json > "$out/results.json"
iqa-armor card "$out/hardened.safetensors" --results "$out/results.json" --overwrite -o "$out/hardened.md"
iqa-armor export "$out/hardened.safetensors" --overwrite -o "$out/hardened.pt2"
iqa-armor score "$out/hardened.safetensors" "$(dirname "$labels")/images" --json > "$out/scores.json"
