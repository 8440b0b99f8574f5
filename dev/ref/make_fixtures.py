"""Makes the fixtures that are committed in dev/fixtures: micro models with the numbers that training them must give.

    usage: make_fixtures.py [OUT]           default OUT: dev/fixtures; one folder a case, less than 40 kB each in the mean

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

# A case's shape: vocabulary, width, layers, heads, MLP; run: positions, rows of a micro-batch, micro-batches of a step. The
# line above says what only this one covers. Widths and vocabularies are odd sizes on purpose, and the MLP is not 4 * width.
# seed: one that is well conditioned. In models this narrow a norm's input may come near zero, and then float32's rounding
# moves a gradient by 1e-5: such a case would judge luck. A top-k case also keeps its last logit well above the first that
# is left out.
ROTARY_OLD = {"rotary_pct": 0.5, "rotary_emb_base": 10000}
ROTARY_MIDDLE = {"partial_rotary_factor": 0.5, "rope_theta": 10000.0}
ROTARY_NEW = {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 500.0}}
# Of the four frequencies of a head of 8 one stays, one is between, two are slowed down.
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
CASES = {
    # plain model under its stock name; two layers
    "pythia-s0": dict(
        shape=(31, 8, 2, 2, 14), run=(13, 2, 1), keys=ROTARY_OLD),
    # no pondering, scaled embeddings; multiplied by the steps, which with none must not erase the input; 32-bit tokens; linear schedule;
    # clipping that bites at every step
    "pythia-s0-scale": dict(
        shape=(37, 12, 1, 3, 16), run=(11, 2, 1), keys=ROTARY_MIDDLE, wide=True,
        ponder=dict(steps=0, scale=True, multiply=True), options=dict(schedule="linear", clip=0.25)),
    # one table for input, mixture and head; temperature; another rotary base; constant schedule without warmup
    "pythia-s1-tied-temperature": dict(
        shape=(41, 8, 2, 1, 14), run=(17, 2, 1), seed=13, tied=True, keys=ROTARY_NEW,
        ponder=dict(steps=1, temperature=0.7), options=dict(schedule="constant", warmup_ratio=0.0)),
    # the mixture keeps the 7 most probable tokens and starts from 2 * e[0]
    "pythia-s2-multiply-topk": dict(
        shape=(23, 16, 1, 2, 12), run=(12, 3, 1), keys={"rotary_pct": 0.25, "rotary_emb_base": 10000},
        ponder=dict(steps=2, scale=True, multiply=True, top_k=7)),
    # the usual three steps, three micro-batches a step, no clipping
    "pythia-s3-accumulate": dict(
        shape=(33, 8, 2, 2, 14), run=(11, 2, 3), seed=1, keys=ROTARY_OLD,
        ponder=dict(steps=3, scale=True), options=dict(clip=0.0, weight_decay=0.05)),
    # plain model under its stock name: tied, the MLP left out of config.json, as many positions as a row has
    "gpt2-s0": dict(
        shape=(31, 8, 2, 2, None), run=(13, 2, 1), seed=2, tied=True, positions=13),
    # a head of its own; starts from 1 * e[0]; more positions than a row has, whose weights only decay; 32-bit tokens
    "gpt2-s1-untied-multiply": dict(
        shape=(37, 12, 1, 3, 14), run=(11, 2, 1), tied=False, positions=16, wide=True,
        ponder=dict(steps=1, scale=True, multiply=True), options=dict(schedule="linear", clip=0.25)),
    # one table for input, mixture and head; temperature; the mixture keeps the 6 most probable tokens
    "gpt2-s2-temperature-topk": dict(
        shape=(29, 10, 1, 2, 18), run=(12, 3, 1), seed=26, tied=True, positions=20,
        ponder=dict(steps=2, temperature=0.8, top_k=6), options=dict(schedule="constant", warmup_ratio=0.0)),
    # the usual three steps, three micro-batches a step, no clipping
    "gpt2-s3-accumulate": dict(
        shape=(33, 8, 2, 1, 18), run=(9, 2, 3), seed=13, tied=True, positions=11,
        ponder=dict(steps=3, scale=True), options=dict(clip=0.0, weight_decay=0.05)),
    # plain model under its stock name; heads of keys and values, head size and scaling are null
    "llama-s0": dict(
        shape=(31, 8, 2, 2, 14), run=(13, 2, 1), seed=56, heads=(None, None), keys={"rope_theta": 10000.0, "rope_scaling": None}),
    # one table for input, mixture and head; temperature; two queries share keys and values; heads * head size is not the width
    "llama-s1-gqa-tied-temperature": dict(
        shape=(31, 16, 1, 4, 12), run=(17, 2, 1), seed=4, heads=(2, 6), tied=True, keys={"rope_parameters": {
            "rope_type": "default", "rope_theta": 500.0}},
        ponder=dict(steps=1, temperature=0.7), options=dict(schedule="constant", warmup_ratio=0.0)),
    # Llama 3's frequencies, in the spelling of transformers 5; the mixture keeps the 7 most probable tokens, from 2 * e[0]
    "llama-s2-llama3-multiply-topk": dict(
        shape=(23, 12, 1, 2, 14), run=(24, 2, 1), heads=(2, 8), keys={"rope_parameters": {"rope_theta": 500.0, **LLAMA3}},
        ponder=dict(steps=2, scale=True, multiply=True, top_k=7), options=dict(schedule="linear", clip=0.25)),
    # the usual three steps, three micro-batches a step, no clipping; Llama 3's frequencies in the older spelling, one head
    # of keys and values for all; 32-bit tokens
    "llama-s3-llama3-accumulate": dict(
        shape=(27, 12, 2, 2, 12), run=(11, 2, 3), seed=36, heads=(1, 8), wide=True, keys={"rope_theta": 500.0, "rope_scaling": LLAMA3},
        ponder=dict(steps=3, scale=True), options=dict(clip=0.0, weight_decay=0.05)),
}

# Adam's eps, larger than the usual 1e-8: the true gradient of a key bias is zero, and Adam divides its rounding error
# (about 1e-8 in float32) by that error's own size plus eps. With 1e-8 those biases differ by 1e-2 after ten steps.
EPS = 1e-6


def make_pythia(case, V, C, L, NH, FF):
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": V, "hidden_size": C,
        "num_hidden_layers": L, "num_attention_heads": NH, "intermediate_size": FF, "max_position_embeddings": case["run"][0],
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_parallel_residual": True, "attention_bias": True,
        "attention_dropout": 0.0, "hidden_dropout": 0.0,
    }


def make_gpt2(case, V, C, L, NH, FF):
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": V, "n_embd": C, "n_layer": L, "n_head": NH,
        "n_inner": FF, "n_positions": case["positions"], "n_ctx": case["positions"], "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    }


def make_llama(case, V, C, L, NH, FF):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V, "hidden_size": C,
        "num_hidden_layers": L, "num_attention_heads": NH, "num_key_value_heads": case["heads"][0], "head_dim": case["heads"][1],
        "intermediate_size": FF, "max_position_embeddings": case["run"][0], "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "pretraining_tp": 1,
    }


STOCK = {"pythia": make_pythia, "gpt2": make_gpt2, "llama": make_llama}


def make_config(architecture, case):
    config = STOCK[architecture](case, *case["shape"])
    config.update({"tie_word_embeddings": case.get("tied", False), "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32",
                   **case.get("keys", {})})
    if "ponder" in case:
        ponder = case["ponder"]
        model_class = "Ponder" + config["architectures"][0]
        config_class = model_class.replace("ForCausalLM", "").replace("LMHeadModel", "") + "Config"
        config.update({
            "architectures": [model_class], "model_type": "ponder_" + config["model_type"],
            "auto_map": {"AutoConfig": "modeling_ponder." + config_class,
                         "AutoModelForCausalLM": "modeling_ponder." + model_class},
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
    C = config["n_embd"] if "n_embd" in config else config["hidden_size"]
    weights = {}
    for name, p in architectures.build(config).state_dict().items():
        if p.dim() >= 2:
            mean, deviation = 0.0, 2.0 * (2.0 / (5.0 * C)) ** 0.5
        else:
            mean, deviation = (1.0, 0.15) if name.endswith(".weight") else (0.0, 0.2)
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
    """A line for each entry, and for each row of the training curve."""
    def line(entry):
        if isinstance(entry, list) and isinstance(entry[0], dict):
            return "[\n  " + ",\n  ".join(map(json.dumps, entry)) + "]"
        return json.dumps(entry)
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {line(entry)}" for key, entry in value.items()) + "\n}\n"


def make_case(name, case, out):
    architecture = name.split("-")[0]
    T, B, accumulate = case["run"]
    options = {
        "model": architecture, "ponder": 0, "scale_embeds": 0, "multiply_steps": 0, "ponder_temperature": 1.0, "ponder_top_k": 0,
        "seq": T, "batch": B, "total_batch": B * T * accumulate, "steps": 10, "lr": 3e-3, "schedule": "cosine",
        "min_lr_ratio": 0.1, "warmup_ratio": 0.2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": EPS, "clip": 1.0,
        "val_batches": 2, **case.get("options", {}),
    }
    ponder = case.get("ponder", {"steps": 0})
    options.update({
        "ponder": ponder["steps"], "scale_embeds": int(ponder.get("scale", False)),
        "multiply_steps": int(ponder.get("multiply", False) and ponder["steps"] > 0), "ponder_temperature": ponder.get("temperature", 1.0),
        "ponder_top_k": ponder.get("top_k", 0),
    })
    config = make_config(architecture, case)
    directory = os.path.join(out, name)
    os.makedirs(directory)
    draw = random.Random(f"{name} tokens {case.get('seed', 0)}")
    V = config["vocab_size"]
    # Ten steps, and a tail that makes no whole row.
    train = make_tokens(draw, 10 * accumulate * B * T + 1 + T // 2, V)
    val = make_tokens(draw, options["val_batches"] * B * T + 1, V)
    wide = case.get("wide", False)
    training.write_shard(directory + "/train.bin", train, wide)
    training.write_shard(directory + "/val.bin", val, wide)
    weights = make_weights(config, f"{name} weights {case.get('seed', 0)}")
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
    for name in os.listdir(out) if os.path.isdir(out) else []:
        if name.split("-")[0] in STOCK and name not in CASES:
            shutil.rmtree(os.path.join(out, name))
    for name, case in CASES.items():
        shutil.rmtree(os.path.join(out, name), ignore_errors=True)
        expected = make_case(name, case, out)
        size = sum(entry.stat().st_size for entry in os.scandir(os.path.join(out, name)))
        total += size
        losses = " ".join(f"{x:.4f}" for x in expected["first_micro_batch"]["loss_of_each_pass"])
        print(f"{name:28} {size / 1000:6.1f} kB   loss of each pass {losses}   "
              f"validation {expected['val_before']['loss']:.4f} -> {expected['val_after']['loss']:.4f}")
    print(f"{total / 1000:.1f} kB in {os.path.normpath(out)}")
    if total >= 40_000 * len(CASES):
        sys.exit(f"{len(CASES)} cases: the committed fixtures must stay below {40 * len(CASES)} kB")


if __name__ == "__main__":
    main()
