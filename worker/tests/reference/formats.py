#!/usr/bin/env python3
"""Independent check of the files that Regatta writes: the formats' own Python packages read them and see the same tensors.

`cargo xtask test` runs it with the packages numpy, gguf and safetensors. It makes, converts and quantises a
small synthetic model with the worker program, into a folder of its own.

    formats.py WORKER
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import load_file

MODEL = "regatta-15m"
LAYERS, HEADS, KV_HEADS = 14, 8, 4
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name: str) -> str:
    """The safetensors name of a GGUF tensor."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
    return f"{OUTER[parts[0]]}.weight"


def unpermuted(name: str, rows: np.ndarray) -> np.ndarray:
    """The inverse of what llama.cpp's converter does to the rows of queries and keys."""
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return rows
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def read_gguf(folder: Path) -> dict:
    """All tensors as f32, by safetensors name and in that order of rows, dequantised by the package."""
    tensors = {}
    for tensor in GGUFReader(folder / "model.gguf").tensors:
        numbers = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        tensors[hf_name(tensor.name)] = unpermuted(tensor.name, numbers.reshape(tuple(reversed(tensor.shape.tolist()))))
    return tensors


def read_safetensors(folder: Path) -> dict:
    return {name: tensor.astype(np.float32) for name, tensor in load_file(folder / "model.safetensors").items()}


def compare(what: str, found: dict, expected: dict, tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys(), f"{what}: {found.keys() ^ expected.keys()}"
    worst = 0.0
    for name, numbers in expected.items():
        assert found[name].shape == numbers.shape, f"{what}: {name}: {found[name].shape}, expected {numbers.shape}"
        spread = float(np.sqrt(np.mean(numbers**2)))
        worst = max(worst, float(np.sqrt(np.mean((found[name] - numbers) ** 2))) / spread)
    assert worst <= tolerance, f"{what}: off by {worst:.4f} of the spread, at most {tolerance} is right"
    print(f"{what}: {len(found)} tensors, off by {worst:.5f} of their spread")


def main() -> int:
    worker = sys.argv[1]
    with tempfile.TemporaryDirectory() as root:

        def run(verb: str, library: str, *arguments: str) -> Path:
            command = [worker, verb, "--root", f"{root}/{library}", "--model", MODEL, *arguments]
            made = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            return Path(json.loads(made.stdout)["folder"])

        def make(form: str, precision: str) -> Path:
            return run("make", "made", "--format", form, "--precision", precision)

        plain = make("safetensors", "f32")
        numbers = read_safetensors(plain)
        assert len(numbers) == 9 * LAYERS + 3
        compare("safetensors f16", read_safetensors(make("safetensors", "f16")), numbers, 0.001)
        compare("gguf f32", read_gguf(make("gguf", "f32")), numbers)
        for precision, tolerance in [("f16", 0.001), ("bf16", 0.01), ("q8_0", 0.02), ("q4_1", 0.15), ("q4_k_m", 0.15)]:
            folder = make("gguf", precision)
            compare(f"gguf {precision}", read_gguf(folder), numbers, tolerance)
            # What is dequantised here is, bit for bit, what the package dequantises.
            source = str(folder / "model.gguf")
            back = run("convert", f"from-{precision}", "--from", source, "--format", "safetensors", "--precision", "f32")
            compare(f"gguf {precision} converted to safetensors f32", read_safetensors(back), read_gguf(folder))
        converted = run("convert", "to-gguf", "--from", str(plain), "--format", "gguf", "--precision", "f16")
        compare("safetensors f32 converted to gguf f16", read_gguf(converted), numbers, 0.001)
        quantised = run("quantize", "quantised", "--from", str(plain), "--precision", "q4_k_m")
        compare("safetensors f32 quantised to q4_k_m", read_gguf(quantised), numbers, 0.15)
    return 0


if __name__ == "__main__":
    sys.exit(main())
