"""Runs the PyTorch twins over fixtures and says how far they are from the recorded numbers; exits 1 if too far.

    usage: check_fixtures.py [--float32] [DIR ...]         default: every case of dev/fixtures and ../shared/fixtures

Differences of losses are absolute, of norms relative, of tensors relative to the tensor's largest entry. All arithmetic
is double, so losses and norms differ by its rounding (measured: 2e-15); the tensors were recorded in float32, which rounds
by up to 6e-8 of an entry (measured: 5.4e-8). With --float32 the twin computes in float32 and nothing is judged: the
differences are then what any correct float32 program shows. The biases of query, key and value stand apart, because the
true gradient of a key bias is zero, and Adam makes steps of full size out of its rounding.
"""

import argparse
import glob
import json
import os
import sys

import torch
from safetensors.torch import load_file

import architectures
import llama
import training

OURS = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures"))
TOLERANCE = {"loss": 1e-12, "grad_norm": 1e-12, "lr": 1e-12, "logits": 1e-7, "gradient": 1e-7, "final": 1e-7,
             "gradient qkv bias": 1e-7, "final qkv bias": 1e-7}


def distance(mine, recorded):
    """Largest difference of two tensors, relative to the largest entry; NaN stays NaN, which no tolerance accepts."""
    mine, recorded = mine.double(), recorded.double()
    if mine.shape != recorded.shape:
        raise ValueError(f"shape {tuple(mine.shape)} instead of {tuple(recorded.shape)}")
    return ((mine - recorded).abs().max() / recorded.abs().max()).item()


def is_qkv_bias(name):
    return name.endswith(("query_key_value.bias", "c_attn.bias"))


def check_case(directory, dtype):
    """-> {what: difference}"""
    def path(name):
        return os.path.join(directory, name)
    with open(path("config.json")) as f:
        config = json.load(f)
    with open(path("expected.json")) as f:
        recorded = json.load(f)
    weights = load_file(path("model.safetensors"))
    # The reference's float64 models round to float32 inside RMSNorm; with the same rounding here the numbers must be the same.
    ours = os.path.dirname(os.path.realpath(directory)) == OURS
    llama.RMSNorm.computes_in = None if ours else torch.float32
    mine, logits, gradient, final = training.run_case(
        config, weights, training.read_shard(path("train.bin")), training.read_shard(path("val.bin")), recorded["options"],
        dtype)

    def losses(expected):
        return torch.tensor([x for part in ("first_micro_batch", "val_before", "val_after")
                             for x in [expected[part]["loss"]] + expected[part]["loss_of_each_pass"]]
                            + [row["loss"] for row in expected["training"]], dtype=torch.float64)
    differences = {"loss": (losses(mine) - losses(recorded)).abs().max().item()}
    for key in ("grad_norm", "lr"):
        a, b = (torch.tensor([row[key] for row in x["training"]], dtype=torch.float64) for x in (mine, recorded))
        differences[key] = distance(a, b)
    if os.path.exists(path("logits.safetensors")):
        differences["logits"] = distance(logits, load_file(path("logits.safetensors"))["logits"])
    for what, tensors, file in (("gradient", gradient, "grads.safetensors"), ("final", final, "final.safetensors")):
        if os.path.exists(path(file)):
            stored = load_file(path(file))
            if stored.keys() != tensors.keys():
                raise ValueError(f"{path(file)}: other tensors than the model's: {sorted(stored.keys() ^ tensors.keys())}")
            differences[what] = max(distance(tensors[name], stored[name]) for name in stored if not is_qkv_bias(name))
            differences[what + " qkv bias"] = max(
                (distance(tensors[name], stored[name]) for name in stored if is_qkv_bias(name)), default=0.0)
    return differences


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    shared = os.environ.get("PONDER_SHARED", os.path.join(here, "../../../shared"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("directories", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    directories = arguments.directories or [
        d for parent in (OURS, os.path.join(shared, "fixtures"))
        for d in sorted(glob.glob(parent + "/*/")) if os.path.exists(d + "expected.json")]
    passed = failed = skipped = 0
    for directory in directories:
        with open(os.path.join(directory, "config.json")) as f:
            model_type = json.load(f)["model_type"].removeprefix("ponder_")
        if model_type not in architectures.TWINS:
            print(f"skip {os.path.basename(os.path.normpath(directory))}: no twin of {model_type}")
            skipped += 1
            continue
        differences = check_case(directory, torch.float32 if arguments.float32 else torch.float64)
        good = arguments.float32 or all(d <= TOLERANCE[what] for what, d in differences.items())
        passed, failed = passed + good, failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {os.path.basename(os.path.normpath(directory)):26} "
              + "  ".join(f"{what} {d:.1e}" for what, d in differences.items()))
    if passed + failed == 0:
        failed = 1
        print("FAIL no case was found")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
