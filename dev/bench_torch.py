"""Times PyTorch on the training steps that `make bench-cpu` times, and prints one JSON object a line.

    usage: bench_torch.py [--model pythia-70m --ponder 3 --batch 2 --seq 256] [--steps 3] [--threads N] [--stock]

Without --model both steps of the benchmark: pythia-160m (the size of GPT-2 124M) without pondering, B=4 T=64, and pythia-70m with
three pondering steps, B=2 T=256. A step is forward, backward, clipping and AdamW (the fused one, PyTorch's fastest) in float32.
The model is our own twin in dev/ref; --stock takes transformers' class instead (for pondering: modeling_ponder.py).
The time is the median of --steps steps after one that warms up. Each workload has a process of its own, so that the peak
memory (largest resident set, interpreter and libraries included; base_memory_mb is that share) is its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE + "/ref")
sys.path.insert(0, HERE)

WORKLOADS = [("pythia-160m", 0, 4, 64), ("pythia-70m", 3, 2, 256)]


def peak_memory_mb():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def step_flops(config, S, B, T):
    """Forward and backward, nothing recomputed, causal attention counted as half the square."""
    C, L, FF, V = (config[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"))
    per_token = (6 * (4 * C * C + 2 * C * FF) + 6 * T * C) * L * (S + 1) + 12 * V * C * S + 6 * V * C
    return per_token * B * T


def stock_model(config, ponder):
    import transformers
    if ponder:
        import modeling_ponder
        model = modeling_ponder.PonderGPTNeoXForCausalLM(modeling_ponder.PonderGPTNeoXConfig(**config))
    else:
        model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**config))
    return model.train(), f"transformers {transformers.__version__}, {type(model).__name__}"


def measure(arguments):
    import torch
    import torch.nn.functional as F
    import pythia
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    base = peak_memory_mb()
    S, B, T = arguments.ponder, arguments.batch, arguments.seq
    config = pythia.preset(arguments.model, ponderinglm=S > 0, pondering_steps=S, scale_embeds=S > 0)
    torch.manual_seed(1)
    if arguments.stock:
        plain = {k: v for k, v in config.items() if k != "model_type"}
        if S == 0:
            plain = {k: v for k, v in plain.items() if k not in ("ponderinglm", "pondering_steps", "scale_embeds")}
        model, name = stock_model(plain, S > 0)

        def loss_of(inputs, targets):
            return F.cross_entropy(model(inputs, use_cache=False).logits.flatten(0, 1), targets.flatten())
    else:
        model, name, loss_of = pythia.Pythia(config), "twin in dev/ref", None
        loss_of = model.loss
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.normal_(0.0, 0.02)
    parameters = sum(p.numel() for p in model.parameters())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    tokens = torch.randint(config["vocab_size"], (B, T + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    times = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        value = loss.item()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    flops = step_flops(config, S, B, T)
    print(json.dumps({
        "workload": f"{arguments.model} S={S} B={B} T={T}", "what": name, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "parameters": parameters, "ms": round(1000 * seconds, 1),
        "tokens_per_s": round(B * T / seconds, 2), "model_gflops_per_s": round(flops / seconds / 1e9, 1),
        "peak_memory_mb": round(peak_memory_mb(), 1), "base_memory_mb": round(base, 1),
        "steps": arguments.steps, "loss": round(value, 4),
    }), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--ponder", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--stock", action="store_true")
    arguments = parser.parse_args()
    if arguments.model:
        measure(arguments)
        return
    for model, S, B, T in WORKLOADS:
        command = [sys.executable, os.path.abspath(__file__), "--model", model, "--ponder", S, "--batch", B, "--seq", T,
                   "--steps", arguments.steps, "--threads", arguments.threads] + ["--stock"] * arguments.stock
        subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main()
