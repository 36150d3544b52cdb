#!/usr/bin/env bash
# Makes the demo's judge heads anew, from questions to thresholds, by `vllm-judge` commands alone, and measures them
# beside the shipped ones on questions that the new heads were not fitted on.
#
#   scripts/reproduce_demo_head.sh FOLDER [easy|harder [TRIO]]
#
# TRIO: a folder with the target and the draft, by default the shipped ones. Started again with the same folder, it goes
# on where it stopped.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -d "$root/.venv" ]; then PATH="$root/.venv/bin:$PATH"; fi
world="${2:-easy}"
demo="$(realpath "${3:-$(vllm-judge demo --path --world "$world")}")"
mkdir -p "$1"
cd "$1"

ln -sfn "$demo/target" target
ln -sfn "$demo/draft" draft
export VLLM_LOGGING_LEVEL=WARNING VLLM_CPU_KVCACHE_SPACE=1
engine='"enforce_eager": true, "max_model_len": 512'
answers() {
  vllm-judge court answers questions.jsonl -o court.jsonl --max-tokens 192 --engine "{$engine, \"dtype\": \"float32\"}" "$@"
}

# Questions, and answers as judge decoding meets them: the draft's, and some of the target's.
vllm-judge court questions demo --config "$world" --limit 1500 -o questions.jsonl
answers --model draft --temperature 0
answers --model draft --temperature 1 --samples 3
answers --model target --temperature 1

# Labels by the exact checker, hidden states, heads.
vllm-judge label function court.jsonl vllm_judge.demo.court:label -o labelled.jsonl
vllm-judge train hidden-states labelled.jsonl --target target --dtype float32 --engine "{$engine}" -o states
vllm-judge train fit states -o new/judge --features both -o new/judge-paper --features hidden

# Thresholds, and what they are worth: the new heads beside copies of those that the trio has. In the harder world every
# rule costs answers, since its target goes astray in the draft's words: there is no promise worth the name to keep.
promise=(--max-accuracy-drop 4)
if [ "$world" = harder ]; then promise=(--max-accuracy-drop 50 --limit 60); fi
heads=(--head new/judge --head new/judge-paper)
for name in judge judge-paper; do
  if [ -d "$demo/$name" ] && [ ! -d "shipped/$name" ]; then mkdir -p shipped; cp -r "$demo/$name" shipped/; fi
  if [ -d "shipped/$name" ]; then heads+=(--head "shipped/$name"); fi
done
vllm-judge calibrate questions.jsonl --target target --draft draft -o calibration --max-new-tokens 192 "${heads[@]}" \
  --threshold 0.5 --threshold 0.9 "${promise[@]}" --engine "{$engine, \"dtype\": \"float32\"}"
