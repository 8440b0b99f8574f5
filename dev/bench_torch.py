"""Times PyTorch on the training steps that our benchmarks time, and prints one JSON object a line.

    usage: bench_torch.py [MODEL/S/B/T ... | --model pythia-70m --ponder 3 --batch 2 --seq 256] [--steps 3] [--threads N] [--stock | --decode]
                          [--device cpu|cuda] [--compile parts|whole|none] [--layers N --width N --heads N --vocab N]

MODEL/S/B/T are the steps of `make bench-cpu`: a preset, pondering steps, rows, tokens of a row; without any, those of Pythia.
A step is forward, backward, clipping and AdamW (the fused one, PyTorch's fastest) in float32, and then once more under bf16
autocast where the processor has instructions for that (elsewhere it would take minutes), or as --precision says.
The model is our own twin in dev/ref; --stock takes transformers' class instead (for pondering: modeling_ponder.py).
The time is the median of --steps steps after one that warms up. Each workload has a process of its own, so that the peak
memory (largest resident set, interpreter and libraries included; base_memory_mb is that share) is its own.

--decode times texts that grow instead, as `bench_step --decode` does: a token for each of B texts of T tokens, by transformers' class with
its cache (for pondering: modeling_ponder.py, with one for each pass), in float32 and in bfloat16. The time is the best of the rounds of 5 seconds.

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
SHAPES = {      # layers, width, heads, and what else a preset of ours says
    "pythia-1b": (16, 2048, 8), "pythia-1.4b": (24, 2048, 16), "pythia-2.8b": (32, 2560, 32),
    "gpt2": (12, 768, 12), "gpt2-medium": (24, 1024, 16), "gpt2-large": (36, 1280, 20), "gpt2-xl": (48, 1600, 25),
    "llama-405m": (24, 1024, 16), "llama-834m": (24, 1536, 24), "llama-1.4b": (24, 2048, 32),
}


def preset(arguments):
    """The config.json of a workload's model, as a dict; options of the command line change the preset's sizes."""
    import pythia
    layers, width, heads = (pythia.PRESETS | SHAPES)[arguments.model]
    layers, width, heads = arguments.layers or layers, arguments.width or width, arguments.heads or heads
    S = arguments.ponder
    config = {"ponderinglm": True, "pondering_steps": S, "scale_embeds": True} if S else {}
    if arguments.model.startswith("gpt2"):
        return config | {"model_type": "gpt2", "vocab_size": arguments.vocab or 50257, "n_embd": width, "n_layer": layers,
                         "n_head": heads, "n_positions": max(arguments.seq, 1024)}
    config |= {"vocab_size": arguments.vocab or 50304, "hidden_size": width, "num_hidden_layers": layers,
               "num_attention_heads": heads, "max_position_embeddings": 2048}
    if arguments.model.startswith("llama"):
        return config | {"model_type": "llama", "intermediate_size": (8 * width + 191) // 192 * 64}
    return config | {"model_type": "gpt_neox", "intermediate_size": 4 * width}


def trunk_of(model):
    """The module that holds a twin's layers, and the layers."""
    for trunk in model.children():
        for name in ("layers", "h"):
            if hasattr(trunk, name):
                return trunk, getattr(trunk, name)
    raise ValueError("the twin has no layers")


def peak_memory_mb():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def initialise(torch, model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                p.normal_(0.0, 0.02)
            else:
                p.fill_(0.0 if name.endswith("bias") else 1.0)


def step_flops(twin, S, B, T):
    """Forward and backward, nothing recomputed, causal attention counted as half the square."""
    V, C = twin.output_table().shape
    _, layers = trunk_of(twin)
    matrices = sum(p.numel() for p in layers.parameters() if p.dim() == 2)
    per_token = (6 * matrices + 6 * T * C * len(layers)) * (S + 1) + 12 * V * C * S + 6 * V * C
    return per_token * B * T


def stock_model(config):
    import transformers
    kind = {"gpt2": "GPT2", "gpt_neox": "GPTNeoX", "llama": "Llama"}[config["model_type"]]
    name = kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM")
    plain = {key: value for key, value in config.items() if key != "model_type"}
    if config.get("ponderinglm"):
        import modeling_ponder as source
        kind, name = "Ponder" + kind, "Ponder" + name
    else:
        source = transformers
    model = getattr(source, name)(getattr(source, kind + "Config")(**plain))
    return model.train(), f"transformers {transformers.__version__}, {name}"


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
            layer = type(trunk_of(model)[1][0])
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
    import architectures
    import rotary
    device, B, T, S = arguments.device, arguments.batch, arguments.seq, arguments.ponder
    tables = {}

    def tables_there(T, frequency, dtype):      # made once, where the model is, in the type of q and k
        if T not in tables:
            tables[T] = tuple(x.to(device) for x in made(T, frequency, torch.bfloat16))
        return tables[T]
    made, rotary.tables = rotary.tables, tables_there
    torch.manual_seed(1)
    model = architectures.build(config)
    initialise(torch, model)
    model.to(device)
    model.transform(torch.zeros(1, T, model.input_table().shape[1], device=device))     # the tables, outside what is compiled
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
        "tokens_per_s": round(B * T / seconds, 1), "model_tflops": round(step_flops(model, S, B, T) / seconds / 1e12, 1),
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
    config = preset(arguments)
    print(json.dumps(cuda_step(torch, arguments, config)), flush=True)


def measure(arguments):
    import torch
    import torch.nn.functional as F
    import architectures
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    base = peak_memory_mb()
    S, B, T = arguments.ponder, arguments.batch, arguments.seq
    config = preset(arguments)
    torch.manual_seed(1)
    with torch.device("meta"):
        flops = step_flops(architectures.build(config), S, B, T)
    bf16 = arguments.precision == "bf16"
    if arguments.stock:
        model, name = stock_model(config)

        def loss_of(inputs, targets):
            return F.cross_entropy(model(inputs, use_cache=False).logits.flatten(0, 1), targets.flatten())
    else:
        model, name = architectures.build(config), "twin in dev/ref"
        loss_of = model.loss
    initialise(torch, model)
    parameters = sum(p.numel() for p in model.parameters())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    tokens = torch.randint(config["vocab_size"], (B, T + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    times = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        value = loss.item()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    print(json.dumps({
        "workload": f"{arguments.model} S={S} B={B} T={T}", "what": name, "precision": "bf16 autocast" if bf16 else "fp32", "torch": torch.__version__,
        "threads": torch.get_num_threads(), "parameters": parameters, "ms": round(1000 * seconds, 1),
        "tokens_per_s": round(B * T / seconds, 2), "model_gflops_per_s": round(flops / seconds / 1e9, 1),
        "peak_memory_mb": round(peak_memory_mb(), 1), "base_memory_mb": round(base, 1),
        "steps": arguments.steps, "loss": round(value, 4),
    }), flush=True)


def measure_decode(arguments):
    import torch
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    S, B, T = arguments.ponder, arguments.batch, arguments.seq
    model, name = stock_model(preset(arguments))
    initialise(torch, model)
    model.eval()
    for kind in (torch.float32, torch.bfloat16):
        model.to(kind)
        tokens = torch.randint(model.config.vocab_size, (B, T))
        with torch.inference_mode():
            cache = model(tokens[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
            times, begin = [], time.perf_counter()
            while len(times) < 10 or time.perf_counter() - begin < 5:
                start = time.perf_counter()
                cache = model(tokens[:, -1:], past_key_values=cache, use_cache=True).past_key_values
                times.append(time.perf_counter() - start)
        print(json.dumps({
            "program": "PyTorch", "what": f"decode, {name}", "torch": torch.__version__, "threads": torch.get_num_threads(),
            "weights": "fp32" if kind == torch.float32 else "bf16", "model": arguments.model, "ponder": S, "batch": B, "seq": T,
            "tokens_per_s": round(B / min(times), 2), "rounds": len(times),
        }), flush=True)


def has_bf16():
    """Whether PyTorch's library for products has bf16 instructions here: AMX's, AVX-512's, Arm's."""
    try:
        with open("/proc/cpuinfo") as file:
            return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(file.read().split()))
    except OSError:
        return False


def precisions(arguments):
    if arguments.precision:
        return [arguments.precision]
    if not has_bf16():
        print("PyTorch under bf16 autocast: left out, this processor has no bf16 instructions", flush=True)
        return ["fp32"]
    return ["fp32", "bf16"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", nargs="*", metavar="MODEL/S/B/T")
    parser.add_argument("--model")
    parser.add_argument("--ponder", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="of the CPU's step; without it of MODEL/S/B/T both, of --model fp32")
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--decode", action="store_true")
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
        elif arguments.decode:
            measure_decode(arguments)
        else:
            measure(arguments)
        return
    workloads = [tuple(words.split("/")) for words in arguments.workloads]
    plain = cuda or arguments.decode or arguments.compile
    runs = [[]] if plain else [["--precision", precision] for precision in precisions(arguments)]
    for model, S, B, T in workloads or (CUDA_WORKLOADS if cuda else WORKLOADS):
        command = [sys.executable, os.path.abspath(__file__), "--model", model, "--ponder", S, "--batch", B, "--seq", T,
                   "--steps", arguments.steps, "--threads", arguments.threads, "--device", arguments.device]
        command += ["--stock"] * arguments.stock + ["--decode"] * arguments.decode + (["--compile", arguments.compile] if arguments.compile else [])
        for run in runs:
            subprocess.run([str(word) for word in command + run], check=True)


if __name__ == "__main__":
    main()
