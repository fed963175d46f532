#!/usr/bin/env bash
# Refuse to commit a model that ranks worse, or is easier to fool, than the one it replaces.
#   cp examples/pre-commit.sh .git/hooks/pre-commit && git config iqa-armor.data csv:tests/images/labels.csv
# What is asked: git config --add iqa-armor.require 'srocc_drop <= 0.02'; more options: git config iqa-armor.options '…'
set -euo pipefail
data=$(git config iqa-armor.data) || { echo "pre-commit: git config iqa-armor.data is not set" >&2; exit 1; }
mapfile -t required < <(git config --get-all iqa-armor.require || printf '%s\n' "srocc_drop <= 0.02" \
    "ratio_to_baseline.attacks.pgd8.abs_gain_auc <= 1.1")
read -ra options <<< "$(git config iqa-armor.options || true)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
while IFS= read -r -d '' file; do
    # A new model has nothing to be compared with, so it passes.
    git cat-file blob "HEAD:$file" > "$work/before.safetensors" 2> /dev/null || continue
    git cat-file blob ":$file" > "$work/after.safetensors"
    echo "pre-commit: $file against the one it replaces" >&2
    iqa-armor evaluate "$work/after.safetensors" --baseline "$work/before.safetensors" --data "$data" \
        "${required[@]/#/--require=}" "${options[@]}" --quiet > "$work/shown.txt" < /dev/null ||
        { cat "$work/shown.txt" >&2; exit 1; }
done < <(git diff --cached --name-only -z --diff-filter=AM -- '*.safetensors')
