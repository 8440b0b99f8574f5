"""Makes the fixtures that are committed in dev/fixtures: micro models with the numbers that training them must give.

    usage: make_fixtures.py [OUT]           default OUT: dev/fixtures; one folder a case, less than 500 kB in all

Each case is run through the PyTorch twin in float64 from float32 weights. Files of a case:
    config.json           a checkpoint's, in one of the spellings that exist
    model.safetensors     starting weights, float32; a tied head is absent
    train.bin, val.bin    token shards
    expected.json         options; loss of the first micro-batch and of each of its passes; ten steps (loss before the update, gradient
                          norm before clipping, lr); validation before and after them
    logits.safetensors    logits (B,T,V) of the first micro-batch, last pass
    grads.safetensors     gradient of the first step (mean over its micro-batches), before clipping
    final.safetensors     weights after ten steps
Row r of a shard is its tokens r*T .. r*T+T; step t takes the next total_batch / T rows in order. Everything comes from seeds:
the same versions (dev/requirements.txt) make the same bytes on the same kind of machine.
"""

import json
import os
import random
import shutil
import sys

import torch
from safetensors.torch import save_file

import architectures
import training

# One line a case: what only this one covers. Widths and vocabularies are odd sizes on purpose, and the MLP is not 4 * width.
ROTARY_OLD = {"rotary_pct": 0.25, "rotary_emb_base": 10000}
ROTARY_MIDDLE = {"partial_rotary_factor": 0.5, "rope_theta": 10000.0}
ROTARY_NEW = {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 500.0}}
CASES = {
    # plain model under its stock name; two layers
    "pythia-s0": dict(
        shape=(41, 16, 2, 2, 36), rotary=ROTARY_OLD, run=(13, 2, 1), tied=False),
    # no pondering, scaled embeddings; 32-bit tokens; linear schedule; clipping that bites at every step
    "pythia-s0-scale": dict(
        shape=(37, 24, 1, 3, 40), rotary=ROTARY_MIDDLE, run=(11, 3, 1), tied=False, wide=True,
        ponder=dict(steps=0, scale=True), options=dict(schedule="linear", clip=0.25)),
    # one table for input, mixture and head; temperature; another rotary base; constant schedule without warmup
    "pythia-s1-tied-temperature": dict(
        shape=(61, 16, 2, 1, 40), rotary=ROTARY_NEW, run=(17, 2, 1), tied=True,
        ponder=dict(steps=1, temperature=0.7), options=dict(schedule="constant", warmup_ratio=0.0)),
    # the mixture keeps the 7 most probable tokens and starts from 2 * e[0] (7th and 8th logit are never nearer than 8e-5)
    "pythia-s2-multiply-topk": dict(
        shape=(43, 16, 1, 2, 32), rotary=ROTARY_OLD, run=(12, 3, 1), tied=False,
        ponder=dict(steps=2, scale=True, multiply=True, top_k=7)),
    # the usual three steps, three micro-batches a step, no clipping
    "pythia-s3-accumulate": dict(
        shape=(53, 16, 2, 2, 28), rotary=ROTARY_OLD, run=(11, 2, 3), tied=False,
        ponder=dict(steps=3, scale=True), options=dict(clip=0.0, weight_decay=0.05)),
}

# Adam's eps, larger than the usual 1e-8: the true gradient of a key bias is zero, and Adam divides its rounding error
# (about 1e-8 in float32) by that error's own size plus eps. With 1e-8 those biases differ by 1e-2 after ten steps.
EPS = 1e-6


def make_config(case):
    V, C, L, NH, FF = case["shape"]
    T = case["run"][0]
    config = {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": V, "hidden_size": C,
        "num_hidden_layers": L, "num_attention_heads": NH, "intermediate_size": FF, "max_position_embeddings": T,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True, "attention_bias": True,
        "attention_dropout": 0.0, "hidden_dropout": 0.0, "tie_word_embeddings": case["tied"], "bos_token_id": 0,
        "eos_token_id": 0, "torch_dtype": "float32", **case["rotary"],
    }
    if "ponder" in case:
        ponder = case["ponder"]
        config.update({
            "architectures": ["PonderGPTNeoXForCausalLM"], "model_type": "ponder_gpt_neox",
            "auto_map": {"AutoConfig": "modeling_ponder.PonderGPTNeoXConfig",
                         "AutoModelForCausalLM": "modeling_ponder.PonderGPTNeoXForCausalLM"},
            "use_cache": False,
            "ponderinglm": True, "pondering_steps": ponder["steps"], "scale_embeds": ponder.get("scale", False),
            "mutiply_pondering_steps": ponder.get("multiply", False),
            "softmax_temperature": ponder.get("temperature", 1.0), "pondering_top_k": ponder.get("top_k", 0),
        })
    return config


def make_weights(config, seed):
    """Float32 weights by Python's own generator, which no version of PyTorch changes. Biases and norms are away from
    0 and 1, so that a forgotten one shows, and everything is large enough for each pass to matter."""
    draw = random.Random(seed)
    C = config["hidden_size"]
    weights = {}
    for name, p in architectures.build(config).state_dict().items():
        if p.dim() >= 2:
            mean, deviation = 0.0, 2.0 * (2.0 / (5.0 * C)) ** 0.5
        else:
            mean, deviation = (1.0, 0.15) if name.endswith("norm.weight") else (0.0, 0.2)
        values = [draw.gauss(mean, deviation) for _ in range(p.numel())]
        weights[name] = torch.tensor(values, dtype=torch.float64).float().view(p.shape)
    return weights


def make_tokens(draw, count, V):
    """Text-like: a noisy walk, so that ten steps can learn something; every token occurs, 0 and V-1 too."""
    tokens = [0, V - 1]
    while len(tokens) < count:
        tokens.append((5 * tokens[-1] + 3) % V if draw.random() < 0.6 else draw.randrange(V))
    return tokens


def json_text(value):
    return json.dumps(value, indent=1) + "\n"


def make_case(name, case, out):
    T, B, accumulate = case["run"]
    options = {
        "model": "pythia", "ponder": 0, "scale_embeds": 0, "multiply_steps": 0, "ponder_temperature": 1.0, "ponder_top_k": 0,
        "seq": T, "batch": B, "total_batch": B * T * accumulate, "steps": 10, "lr": 3e-3, "schedule": "cosine",
        "min_lr_ratio": 0.1, "warmup_ratio": 0.2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": EPS, "clip": 1.0,
        "val_batches": 2, **case.get("options", {}),
    }
    ponder = case.get("ponder", {"steps": 0})
    options.update({
        "ponder": ponder["steps"], "scale_embeds": int(ponder.get("scale", False)),
        "multiply_steps": int(ponder.get("multiply", False)), "ponder_temperature": ponder.get("temperature", 1.0),
        "ponder_top_k": ponder.get("top_k", 0),
    })
    config = make_config(case)
    directory = os.path.join(out, name)
    os.makedirs(directory)
    draw = random.Random(name + " tokens")
    V = config["vocab_size"]
    # Ten steps, and a tail that makes no whole row.
    train = make_tokens(draw, 10 * accumulate * B * T + 1 + T // 2, V)
    val = make_tokens(draw, options["val_batches"] * B * T + 1, V)
    wide = case.get("wide", False)
    training.write_shard(directory + "/train.bin", train, wide)
    training.write_shard(directory + "/val.bin", val, wide)
    weights = make_weights(config, name + " weights")
    expected, logits, gradient, final = training.run_case(
        config, weights, torch.tensor(train), torch.tensor(val), options)

    def save(file, tensors):
        save_file({k: v.float().contiguous() for k, v in tensors.items()}, os.path.join(directory, file))
    save("model.safetensors", weights)
    save("logits.safetensors", {"logits": logits})
    save("grads.safetensors", gradient)
    save("final.safetensors", final)
    with open(directory + "/config.json", "w") as f:
        f.write(json_text(config))
    with open(directory + "/expected.json", "w") as f:
        f.write(json_text(expected))
    return expected


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../fixtures")
    torch.set_num_threads(1)        # sums in one order
    total = 0
    for name, case in CASES.items():
        shutil.rmtree(os.path.join(out, name), ignore_errors=True)
        expected = make_case(name, case, out)
        size = sum(entry.stat().st_size for entry in os.scandir(os.path.join(out, name)))
        total += size
        losses = " ".join(f"{x:.4f}" for x in expected["first_micro_batch"]["loss_of_each_pass"])
        print(f"{name:28} {size / 1000:6.1f} kB   loss of each pass {losses}   "
              f"validation {expected['val_before']['loss']:.4f} -> {expected['val_after']['loss']:.4f}")
    print(f"{total / 1000:.1f} kB in {os.path.normpath(out)}")
    if total >= 500_000:
        sys.exit("the committed fixtures must stay below 500 kB")


if __name__ == "__main__":
    main()
