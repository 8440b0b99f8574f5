"""Times PyTorch on the training steps that our benchmarks time, and prints one JSON object a line.

    usage: bench_torch.py [--model pythia-70m --ponder 3 --batch 2 --seq 256] [--steps 3] [--threads N] [--stock]
                          [--device cpu|cuda] [--compile parts|whole|none] [--layers N --width N --heads N --vocab N]

Without --model both steps of the benchmark: pythia-160m (the size of GPT-2 124M) without pondering, B=4 T=64, and pythia-70m with
three pondering steps, B=2 T=256. A step is forward, backward, clipping and AdamW (the fused one, PyTorch's fastest) in float32.
The model is our own twin in dev/ref; --stock takes transformers' class instead (for pondering: modeling_ponder.py).
The time is the median of --steps steps after one that warms up. Each workload has a process of its own, so that the peak
memory (largest resident set, interpreter and libraries included; base_memory_mb is that share) is its own.

With --device cuda the same step as dev/bench_step.cu times: the twin under bf16 autocast with float32 weights, its attention by
scaled_dot_product_attention, torch.compile, the fused AdamW; memory is what PyTorch's allocator took at most. --compile parts (the
default there) compiles a layer, a step of the mix and the loss, each once; whole: everything at once, which takes minutes for many
layers and passes. If the batch does not fit it comes in micro-batches, halved until one does. Where PyTorch or a GPU is missing, it
says so and exits with 0.
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
sys.path.insert(0, os.path.dirname(HERE))

WORKLOADS = [("pythia-160m", 0, 4, 64), ("pythia-70m", 3, 2, 256)]
CUDA_WORKLOADS = [("pythia-160m", 0, 8, 2048), ("pythia-70m", 3, 8, 2048), ("pythia-160m", 3, 8, 2048)]
LARGER = {"pythia-1b": (16, 2048, 8), "pythia-1.4b": (24, 2048, 16), "pythia-2.8b": (32, 2560, 32)}   # layers, width, heads


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


class Compiled:
    """The twin's loss with its parts compiled; the formulas are ponder.py's, without top-k and temperature."""

    def __init__(self, torch, model, how):
        import torch.nn.functional as F
        self.model, self.how = model, how
        a = model.input_table().shape[1] ** 0.5 if model.pondering.scale else 1.0

        def step(e, h, head, table):
            return e + torch.softmax(h @ head.T, dim=-1) @ (a * table)

        def loss(h, head, targets):
            return F.cross_entropy((h @ head.T).flatten(0, 1), targets.flatten())

        def embed(tokens, table):
            return a * F.embedding(tokens, table)
        self.step, self.final, self.embed = step, loss, embed
        if how == "parts":
            self.step, self.final = torch.compile(step), torch.compile(loss)
            layer = type(model.gpt_neox.layers[0])
            layer.forward = torch.compile(layer.forward)    # of the class: one compilation serves all layers
        elif how == "whole":
            self.parts = torch.compile(self.parts)

    def parts(self, tokens, targets):
        model = self.model
        table, head = model.input_table(), model.output_table()
        e = self.embed(tokens, table)
        h = model.transform(e)
        for _ in range(model.pondering.steps):
            e = self.step(e, h, head, table)
            h = model.transform(e)
        return self.final(h, head, targets)

    def __call__(self, tokens, targets):
        return self.parts(tokens, targets)


def cuda_step(torch, arguments, config):
    """Measures one workload like bench_step.cu; returns the JSON object."""
    import pythia
    device, B, T, S = arguments.device, arguments.batch, arguments.seq, arguments.ponder
    tables = {}

    def tables_there(T, size, base, dtype):     # made once, where the model is, in the type of q and k
        if T not in tables:
            tables[T] = tuple(x.to(device) for x in made(T, size, base, torch.bfloat16))
        return tables[T]
    made, pythia.rotary_tables = pythia.rotary_tables, tables_there
    torch.manual_seed(1)
    model = pythia.Pythia(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.normal_(0.0, 0.02)
    model.to(device)
    model.gpt_neox(torch.zeros(1, T, config["hidden_size"], device=device))     # the tables, outside what is compiled
    loss_of = Compiled(torch, model, arguments.compile)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    tokens = torch.randint(config["vocab_size"], (B, T + 1), device=device)
    cuda = device == "cuda"

    def wait():
        if cuda:
            torch.cuda.synchronize()

    def step(micro):
        optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for first in range(0, B, micro):
            rows = tokens[first:first + micro]
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = loss_of(rows[:, :-1], rows[:, 1:]) * (len(rows) / B)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return total

    micro, started = B, time.perf_counter()
    while True:
        try:
            for _ in range(3):
                step(micro)
            wait()
            break
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
            micro //= 2
        optimiser.zero_grad(set_to_none=True)   # outside the handler, whose traceback keeps tensors alive
        torch.cuda.empty_cache()
    warm = time.perf_counter() - started
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(arguments.steps):
        wait()
        start = time.perf_counter()
        value = step(micro)
        wait()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    memory = torch.cuda.max_memory_allocated() if cuda else 1e6 * peak_memory_mb()
    return {
        "program": "PyTorch", "gpu": torch.cuda.get_device_name() if cuda else "none (CPU)", "torch": torch.__version__,
        "what": f"twin in dev/ref, bf16 autocast, compiled: {arguments.compile}", "precision": "bf16",
        "model": arguments.model, "ponder": S, "batch": B, "micro_batch": micro, "seq": T, "ms": round(1000 * seconds, 3),
        "tokens_per_s": round(B * T / seconds, 1), "model_tflops": round(step_flops(config, S, B, T) / seconds / 1e12, 1),
        "peak_memory_gb": round(memory / 1e9, 3), "warm_up_s": round(warm, 1), "loss": round(float(value), 4),
    }


def measure_cuda(arguments):
    try:
        import torch
    except ImportError as error:
        print(f"PyTorch beside it: left out, it is not installed ({error})")
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"PyTorch beside it: left out, PyTorch {torch.__version__} finds no GPU")
        return
    import pythia
    for name, shape in LARGER.items():
        pythia.PRESETS.setdefault(name, shape)
    S = arguments.ponder
    config = pythia.preset(arguments.model, ponderinglm=S > 0, pondering_steps=S, scale_embeds=S > 0)
    if arguments.width:
        config.update(hidden_size=arguments.width, intermediate_size=4 * arguments.width)
    for key, value in (("num_hidden_layers", arguments.layers), ("num_attention_heads", arguments.heads),
                       ("vocab_size", arguments.vocab)):
        if value:
            config[key] = value
    print(json.dumps(cuda_step(torch, arguments, config)), flush=True)


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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", choices=["parts", "whole", "none"], help="as on a GPU; without it the CPU's own step")
    for name in ("layers", "width", "heads", "vocab"):
        parser.add_argument("--" + name, type=int, default=0)
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    if arguments.model:
        if cuda or arguments.compile:
            arguments.compile = arguments.compile or "parts"
            measure_cuda(arguments)
        else:
            measure(arguments)
        return
    for model, S, B, T in CUDA_WORKLOADS if cuda else WORKLOADS:
        command = [sys.executable, os.path.abspath(__file__), "--model", model, "--ponder", S, "--batch", B, "--seq", T,
                   "--steps", arguments.steps, "--threads", arguments.threads, "--device", arguments.device]
        command += ["--stock"] * arguments.stock + (["--compile", arguments.compile] if arguments.compile else [])
        subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main()
