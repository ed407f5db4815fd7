#!/usr/bin/env python3
"""Independent check of the ONNX graphs that Regatta writes: ONNX's own checker accepts them, their weights are those of the
safetensors, and run by the Python package of ONNX Runtime they compute what a Llama of a few lines of numpy computes.

`cargo xtask test` runs it with the packages onnx, onnxruntime, safetensors and numpy. It makes and converts small
synthetic models with the worker program, into a folder of its own.

    graphs.py WORKER
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from safetensors.numpy import load_file

PROMPT, STEPS, BATCH = 40, 6, 2

# Grouped queries, tied embeddings, a window shorter than the prompt, and none of them.
SHAPES = {
    "llama": {},
    "tied": {"tie_word_embeddings": True, "num_key_value_heads": 8},
    "windowed": {"model_type": "mistral", "sliding_window": 16, "rope_theta": 1e6},
}


def config(changes: dict) -> dict:
    plain = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return {**plain, **changes}


class Network:
    """The network once more, from the safetensors, in 64 bits and without a cache."""

    def __init__(self, shape: dict, folder: Path):
        self.shape = shape
        self.weights = {name: w.astype(np.float64) for name, w in load_file(folder / "model.safetensors").items()}

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.shape["rms_norm_eps"]) * self.weights[f"{name}.weight"]

    def rotated(self, x: np.ndarray) -> np.ndarray:
        length, head = x.shape[1:]
        angles = np.arange(length)[:, None] * self.shape["rope_theta"] ** (-np.arange(0, head, 2) / head)
        cos, sin = np.cos(angles), np.sin(angles)
        a, b = x[..., : head // 2], x[..., head // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x: np.ndarray, at: str) -> np.ndarray:
        length = len(x)
        heads, kv_heads = self.shape["num_attention_heads"], self.shape["num_key_value_heads"]
        head = self.shape["hidden_size"] // heads

        def split(what: str, count: int) -> np.ndarray:
            return (x @ self.weights[f"{at}.{what}_proj.weight"].T).reshape(length, count, head).swapaxes(0, 1)

        q, k, v = self.rotated(split("q", heads)), self.rotated(split("k", kv_heads)), split("v", kv_heads)
        k, v = (np.repeat(x, heads // kv_heads, axis=0) for x in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(head)
        apart = np.arange(length)[:, None] - np.arange(length)[None, :]
        hidden = (apart < 0) | (apart >= self.shape.get("sliding_window", length))
        scores[:, hidden] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return (shares @ v).swapaxes(0, 1).reshape(length, -1) @ self.weights[f"{at}.o_proj.weight"].T

    def logits(self, ids: list) -> np.ndarray:
        x = self.weights["model.embed_tokens.weight"][ids]
        for layer in range(self.shape["num_hidden_layers"]):
            at = f"model.layers.{layer}"
            x = x + self.attention(self.norm(x, f"{at}.input_layernorm"), f"{at}.self_attn")
            y = self.norm(x, f"{at}.post_attention_layernorm")
            gate, up = (y @ self.weights[f"{at}.mlp.{what}_proj.weight"].T for what in ("gate", "up"))
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.weights[f"{at}.mlp.down_proj.weight"].T
        last = self.norm(x[-1], "model.norm")
        tied = self.shape["tie_word_embeddings"]
        return last @ self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T


class Session:
    """The graph in ONNX Runtime, with its cache handed back to it in every step."""

    def __init__(self, folder: Path, batch: int, capacity: int):
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self.capacity, self.position = capacity, 0
        self.outputs = [output.name for output in self.session.get_outputs()]
        past = [given for given in self.session.get_inputs() if given.name.startswith("past_key_values.")]
        self.kv_heads = past[0].shape[1]
        number = np.float16 if past[0].type == "tensor(float16)" else np.float32
        self.cache = {p.name: np.zeros((batch, p.shape[1], capacity, p.shape[3]), number) for p in past}

    def feed(self, ids: np.ndarray) -> np.ndarray:
        batch, length = ids.shape
        positions = np.arange(self.position, self.position + length, dtype=np.int64)
        slots = np.zeros((batch, self.kv_heads, length, 3), np.int64)
        slots[..., 0] = np.arange(batch)[:, None, None]
        slots[..., 1] = np.arange(self.kv_heads)[None, :, None]
        slots[..., 2] = positions
        given = {
            "input_ids": ids,
            "position_ids": positions,
            "cache_positions": np.arange(self.capacity, dtype=np.int64),
            "cache_slots": slots,
        }
        found = dict(zip(self.outputs, self.session.run(self.outputs, {**given, **self.cache})))
        self.cache = {name: found[name.replace("past_key_values", "present")] for name in self.cache}
        self.position += length
        return found["logits"]


def check_weights(graph: Path, safetensors: Path, tolerance: float) -> None:
    expected = load_file(safetensors / "model.safetensors")
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(graph / "model.onnx").graph.initializer}
    assert expected.keys() == {name for name in found if not name.startswith("constant.")}
    for name, numbers in expected.items():
        turned = found[name].T if name.endswith("_proj.weight") else found[name]
        assert turned.shape == numbers.shape, f"{name}: {turned.shape}, expected {numbers.shape}"
        apart = np.abs(turned.astype(np.float64) - numbers).max() / np.abs(numbers).max()
        assert apart <= tolerance, f"{name}: off by {apart}"


def check_numbers(what: str, graph: Path, network: Network, tolerance: float) -> None:
    rng = np.random.default_rng(7)
    ids = rng.integers(0, network.shape["vocab_size"], (BATCH, PROMPT))
    session = Session(graph, BATCH, PROMPT + STEPS + 3)
    worst = 0.0
    step = ids
    for _ in range(STEPS):
        logits = session.feed(step)
        for sequence in range(BATCH):
            expected = network.logits(ids[sequence].tolist())
            worst = max(worst, np.abs(logits[sequence] - expected).max() / np.abs(expected).max())
        step = logits.argmax(-1)[:, None].astype(np.int64)
        ids = np.concatenate([ids, step], axis=1)
    assert worst <= tolerance, f"{what}: logits off by {worst:.2e} of the largest, at most {tolerance} is right"
    print(f"{what}: checked; logits of {STEPS} steps of {BATCH} sequences off by {worst:.1e} of the largest")


def main() -> int:
    worker = sys.argv[1]
    with tempfile.TemporaryDirectory() as root:

        def run(verb: str, library: str, *arguments: str) -> Path:
            command = [worker, verb, "--root", f"{root}/{library}", *arguments]
            made = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            return Path(json.loads(made.stdout)["folder"])

        for name, changes in SHAPES.items():
            shape = config(changes)
            file = Path(root) / f"{name}.json"
            file.write_text(json.dumps(shape))

            def make(form: str, precision: str) -> Path:
                config_of = ["--model", name, "--config", str(file), "--format", form, "--precision", precision]
                return run("make", "made", *config_of)

            plain = make("safetensors", "f32")
            network = Network(shape, plain)
            for precision, tolerance in [("f32", 1e-4), ("f16", 1e-2)]:
                graph = make("onnx", precision)
                onnx.checker.check_model(graph / "model.onnx", full_check=True)
                check_weights(graph, plain, 0.0 if precision == "f32" else 1e-3)
                check_numbers(f"onnx {name} {precision}", graph, network, tolerance)
        source = run("make", "of", "--model", "regatta-15m", "--format", "safetensors", "--precision", "f32")
        target = ["--model", "regatta-15m", "--from", str(source), "--to", "onnx", "--precision", "f32"]
        converted = run("convert", "of", *target)
        onnx.checker.check_model(converted / "model.onnx", full_check=True)
        check_weights(converted, source, 0.0)
        print("safetensors f32 converted to onnx f32: checked, every weight the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
