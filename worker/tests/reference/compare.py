#!/usr/bin/env python3
"""Independent check of both engines against a reference implementation (transformers on torch's CPU).

For developers; no test runs it. It takes what `cargo run --release -p regatta-worker --example greedy` wrote for each
engine, runs the same prompt through transformers on the same f32 safetensors, and compares token ids and the logits of
the first step.

    compare.py SAFETENSORS_FOLDER PROMPT_FILE ENGINE_JSON...
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM


def reference(folder: str, prompt: str, count: int):
    """Token ids of the prompt, `count` greedy ids, logits of the first step, and the text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    out, first, past = [], None, None
    step = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(count):
            result = model(step, past_key_values=past, use_cache=True)
            past, logits = result.past_key_values, result.logits[0, -1]
            first = logits.clone() if first is None else first
            out.append(int(logits.argmax()))
            step = torch.tensor([[out[-1]]])
    return ids, out, first, tokenizer.decode(out)


def main() -> int:
    folder, prompt_file, *engines = sys.argv[1:]
    runs = [json.loads(Path(engine).read_text()) for engine in engines]
    prompt = Path(prompt_file).read_text()
    ids, out, logits, text = reference(folder, prompt, len(runs[0]["output"]))
    print(f"reference: {len(ids)} prompt tokens; text: {text!r}")
    failed = False
    for run in runs:
        theirs = torch.tensor(run["first_logits"])
        relative = float((theirs - logits).abs().max() / logits.abs().max())
        same_prompt, same_output = run["prompt"] == ids, run["output"] == out
        failed |= not (same_prompt and same_output and relative < 1e-3)
        print(
            f"{run['backend']}: prompt ids equal {same_prompt}, {len(out)} greedy ids equal {same_output}, "
            f"first-step logits differ by {relative:.2e} relative to the largest"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
