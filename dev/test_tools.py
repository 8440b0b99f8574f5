"""Tests of the tools that turn model directories into others and back. Exits 1 unless all pass.

    usage: test_tools.py [TRAIN_GPT2]          TRAIN_GPT2: the program, default build/train_gpt2

from_llmc.py: files in llm.c's format, versions 3 and 5, are made here from random weights; the trainer must compute the same
bits from what the tool makes of them as from the same weights in a Hugging Face directory, and the PyTorch twin the same loss.
Both tools: what they cannot read is refused, in words that say what was found; where they cannot write, nothing is left.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE + "/ref")

import architectures
import training
from testing import require, run_tests

V, VP, P, L, NH, C, T, B = 300, 384, 32, 2, 3, 48, 24, 2
CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": V, "n_positions": P, "n_embd": C, "n_layer": L,
          "n_head": NH, "tie_word_embeddings": True, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
# Names of a layer's tensors in the order of llm.c's files; its products lie as (out,in).
LAYER = ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight",
         "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"]


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def tool(name, *arguments):
    return run(sys.executable, f"{HERE}/{name}.py", *arguments)


def random_weights(dtype):
    torch.manual_seed(7)
    return {name: (torch.randn(p.shape) * 0.2 + (1 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0)).to(dtype)
            for name, p in architectures.build(CONFIG).state_dict().items()}


def write_llmc(path, weights, version):
    header = numpy.zeros(256, dtype="<i4")
    header[:8] = 20240326, version, P, V, L, NH, C, VP
    table = torch.zeros(VP, C, dtype=weights["transformer.wte.weight"].dtype)
    table[:V] = weights["transformer.wte.weight"]
    rows = [table, weights["transformer.wpe.weight"]]
    for name in LAYER:
        for layer in range(L):
            x = weights[f"transformer.h.{layer}.{name}"]
            rows.append(x.T.contiguous() if x.dim() == 2 else x)
    rows += [weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]]
    with open(path, "wb") as f:
        f.write(header.tobytes())
        for x in rows:
            f.write(x.view(torch.int16).numpy().tobytes() if version == 5 else x.numpy().tobytes())


def write_directory(path, weights, config):
    os.mkdir(path)
    save_file({name: x.float() for name, x in weights.items()}, path + "/model.safetensors", metadata={"format": "pt"})
    with open(path + "/config.json", "w") as f:
        json.dump(config, f)


def dump(trainer, directory, scratch):
    """-> logits, loss of the first micro-batch, by the trainer."""
    shard = scratch + "/tokens.bin"
    if not os.path.exists(shard):
        training.write_shard(shard, torch.randint(0, V, (B * T + 1,), generator=torch.Generator().manual_seed(3)).tolist())
    done = run(trainer, "--model", directory, "--train", shard, "--val", shard, "--seq", str(T), "--batch", str(B), "--shuffle", "0",
               "--steps", "1", "--out", scratch + "/unused", "--dump", scratch + "/dump")
    require(done.returncode == 0, f"the trainer ended with {done.returncode}: {done.stdout[-1000:]}")
    return load_file(scratch + "/dump/logits.safetensors")["logits"], load_file(scratch + "/dump/loss.safetensors")["loss"].item()


def test_llmc(trainer, version):
    dtype = {3: torch.float32, 5: torch.bfloat16}[version]
    weights = random_weights(dtype)
    with tempfile.TemporaryDirectory() as scratch:
        write_llmc(scratch + "/model.bin", weights, version)
        write_directory(scratch + "/expected", weights, CONFIG)
        done = tool("from_llmc", scratch + "/model.bin", scratch + "/made")
        require(done.returncode == 0, f"from_llmc.py ended with {done.returncode}: {done.stdout}")
        logits, loss = dump(trainer, scratch + "/made", scratch)
        wanted, _ = dump(trainer, scratch + "/expected", scratch)
        require(torch.equal(logits, wanted), "the trainer's logits differ from those of the same weights in a Hugging Face directory")
        twin = architectures.build(CONFIG)
        twin.load_state_dict({name: x.float() for name, x in weights.items()})
        inputs, targets = training.batch_of(training.read_shard(scratch + "/tokens.bin"), 0, B, T)
        apart = abs(twin.loss(inputs, targets).item() - loss)
        require(apart <= 1e-5, f"loss {loss:.7f}, the twin's differs by {apart:.1e}")      # measured 5e-7
        return f"loss {loss:.6f}, the twin's within {apart:.1e}"


def test_llmc_refuses():
    weights = random_weights(torch.float32)
    with tempfile.TemporaryDirectory() as scratch:
        write_llmc(scratch + "/good.bin", weights, 3)
        with open(scratch + "/good.bin", "rb") as f:
            good = bytearray(f.read())

        def damaged(word, value):
            other = bytearray(good)
            other[4 * word:4 * word + 4] = int(value).to_bytes(4, "little", signed=True)
            return bytes(other)
        nan = bytearray(good)
        nan[1024:1028] = numpy.float32("nan").tobytes()
        cases = {
            "magic": (damaged(0, 20240520), "20240520"), "no file": (None, "No such file"), "empty": (b"", "an empty file"),
            "header cut": (bytes(good[:500]), "1024 bytes"), "version": (damaged(1, 2), "version 2; 3 (float32)"),
            "truncated": (bytes(good[:-4]), f"{len(good) - 4} bytes"), "too long": (bytes(good) + b"x", f"makes {len(good)}"),
            "layers": (damaged(4, -1), "layers -1"), "heads": (damaged(5, 5), "width 48 and heads 5"),
            "padding": (damaged(7, 256), "padded vocabulary of 256"), "bfloat16": (damaged(1, 5), "version 5, bfloat16"),
            "NaN": (bytes(nan), "wte.weight holds numbers that are not finite"),
        }
        for name, (content, words) in cases.items():
            path = f"{scratch}/{name}.bin"
            if content is not None:
                with open(path, "wb") as f:
                    f.write(content)
            done = tool("from_llmc", path, scratch + "/out")
            require(done.returncode == 1 and words in done.stdout and path in done.stdout and "Traceback" not in done.stdout,
                    f"{name}: exit status {done.returncode}, {done.stdout!r}, expected 1 and {words!r}")
            require(not os.path.exists(scratch + "/out"), f"{name}: something was written")
        done = tool("from_llmc", scratch + "/good.bin", scratch)
        require(done.returncode == 1 and "is not there yet" in done.stdout, f"an OUT that exists: {done.stdout!r}")
    return f"{len(cases) + 1} bad files"


def test_reference():
    """Keys of every architecture, and what is refused."""
    with tempfile.TemporaryDirectory() as scratch:
        weights = {"w": torch.zeros(1)}

        def convert(name, config):
            write_directory(f"{scratch}/{name}", weights, config)
            done = tool("to_reference", f"{scratch}/{name}", f"{scratch}/{name}-out")
            if done.returncode:
                return done.stdout
            with open(f"{scratch}/{name}-out/config.json") as f:
                return json.load(f)
        pondering = {"ponderinglm": True, "pondering_steps": 2, "scale_embeds": True, "mutiply_pondering_steps": True,
                     "softmax_temperature": 1.0, "pondering_top_k": 0, "auto_map": {}, "use_cache": False}
        got = convert("neox", {**pondering, "model_type": "ponder_gpt_neox", "rope_parameters": {
            "rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 500.0}})
        require(got["model_type"] == "gpt_neox" and got["rotary_pct"] == 0.5 and got["rotary_emb_base"] == 500.0 and
                got["pondering_steps"] == 2 and got["mutiply_pondering_steps"] and "auto_map" not in got, f"GPT-NeoX: {got}")
        got = convert("gpt2", {**pondering, "model_type": "ponder_gpt2", "softmax_temperature": 0.7})
        require(got["recurrent_model"] and got["softmax_temperature"] == 0.7 and "rope_theta" not in got, f"GPT-2: {got}")
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 64}
        got = convert("llama", {**pondering, "model_type": "ponder_llama", "rope_parameters": {**llama3, "rope_theta": 5e5}})
        require(got["rope_theta"] == 5e5 and got["rope_scaling"] == llama3 and "rope_parameters" not in got, f"LLaMA: {got}")
        got = convert("plain", {"model_type": "llama", "rope_theta": 1e4, "rope_scaling": None})
        require(got["ponderinglm"] and got["recurrent_model"] and got["pondering_steps"] == 0 and got["rope_scaling"] is None and
                got["checkpoint_num_layers"] == 0, f"plain: {got}")
        refused = {
            "topk": ({**pondering, "model_type": "ponder_gpt2", "pondering_top_k": 5}, "pondering_top_k is 5"),
            "temperature": ({**pondering, "model_type": "ponder_gpt_neox", "softmax_temperature": 0.5}, "softmax_temperature is 0.5"),
            "type": ({"model_type": "bert"}, 'model_type is "bert"'),
        }
        for name, (config, words) in refused.items():
            got = convert(name, config)
            require(isinstance(got, str) and words in got and not os.path.exists(f"{scratch}/{name}-out"), f"{name}: {got}")
        return f"4 configurations, {len(refused)} refused"


def test_llmc_end():
    """Which token ends a text is known only of GPT-2's own vocabulary; a config.json must not name another one."""
    said = []
    for v, end in ((50257, 50256), (50258, None), (300, None)):
        with tempfile.TemporaryDirectory() as scratch:
            vp, c = (v + 127) // 128 * 128, 2       # one layer, one head, one position
            header = numpy.zeros(256, dtype="<i4")
            header[:8] = 20240326, 3, 1, v, 1, 1, c, vp
            with open(scratch + "/model.bin", "wb") as f:
                f.write(header.tobytes() + bytes(4 * (vp * c + c + 12 * c * c + 13 * c + 2 * c)))
            done = tool("from_llmc", scratch + "/model.bin", scratch + "/out")
            require(done.returncode == 0, f"vocabulary {v}: {done.stdout}")
            with open(scratch + "/out/config.json") as f:
                config = json.load(f)
            for key in ("bos_token_id", "eos_token_id"):
                require(key in config and config[key] == end, f"vocabulary {v}: {key} is {config.get(key)}, expected {end}")
            words = f"eos_token_id: {json.dumps(end)}"
            require(words in done.stdout, f"vocabulary {v}: expected {words!r} in {done.stdout!r}")
            said.append(f"{v}: {json.dumps(end)}")
    return ", ".join(said)


def test_reference_settings():
    """config.json: what is no configuration, or what the trainers would refuse, is refused; what may be left out or null may be here."""
    on = {"model_type": "gpt2", "ponderinglm": True, "pondering_steps": 1}
    neox, llama = {"model_type": "gpt_neox"}, {"model_type": "llama"}
    scaled = {"rope_type": "llama3", "factor": 8.0}
    temperatures = "expected 0.001 to 1000"
    refused = [     # text or value of config.json, words
        ("[]", "an object, found []"), ('"x"', 'an object, found "x"'), ("{", "config.json of a checkpoint"),
        ("[" * 100000, "config.json of a checkpoint"), ('{"model_type": "gpt2", "softmax_temperature": NaN}', "NaN is not JSON"),
        ({**on, "pondering_steps": "three"}, 'pondering_steps is "three", expected a whole number'),
        ({**on, "pondering_steps": 1.5}, "pondering_steps is 1.5, expected a whole number"),
        ({**on, "pondering_steps": True}, "pondering_steps is true, expected a whole number"),
        ({**on, "pondering_steps": -1}, "pondering_steps is -1, expected 0 to 64"),
        ({**on, "pondering_steps": 65}, "pondering_steps is 65, expected 0 to 64"),
        ({**on, "ponderinglm": 1}, "ponderinglm is 1, expected true or false"),
        ({**on, "scale_embeds": "false"}, 'scale_embeds is "false", expected true or false'),
        ({**on, "softmax_temperature": 0}, f"softmax_temperature is 0, {temperatures}"),
        ({**on, "softmax_temperature": -1.0}, f"softmax_temperature is -1.0, {temperatures}"),
        ({**on, "softmax_temperature": 1001}, f"softmax_temperature is 1001, {temperatures}"),
        ({**on, "softmax_temperature": "1"}, 'softmax_temperature is "1", expected a number'),
        ({**on, "pondering_top_k": -1}, "pondering_top_k is -1, expected 0"),
        ({**on, "torch_dtype": 5}, "torch_dtype is 5, expected a string"),
        ({**llama, "rope_scaling": "linear"}, 'rope_scaling is "linear", expected an object'),
        ({**neox, "rope_scaling": "linear"}, 'rope_scaling is "linear", expected an object'),
        ({**neox, "rope_scaling": {"type": "linear", "factor": 2.0}}, 'rotary positions of type "linear"'),
        ({**llama, "rope_parameters": [1]}, "rope_parameters is [1], expected an object"),
        ({**llama, "rope_theta": "big"}, 'rope_theta is "big", expected a number'),
        ({**llama, "rope_theta": 0}, "rope_theta is 0, expected 1 to 1e+12"),
        ({**neox, "rotary_pct": 2}, "rotary_pct is 2, expected 0 to 1"),
        ({"model_type": ["gpt2"]}, 'model_type is ["gpt2"]'),
    ]
    taken = [       # value of config.json, some of what is written
        ({**on, "softmax_temperature": None, "pondering_top_k": None}, {"softmax_temperature": 1.0, "pondering_steps": 1}),
        ({**on, "pondering_steps": None}, {"pondering_steps": 0}), ({**on, "softmax_temperature": 0.5}, {"softmax_temperature": 0.5}),
        ({**on, "ponderinglm": False, "mutiply_pondering_steps": True}, {"pondering_steps": 0, "mutiply_pondering_steps": False}),
        ({**on, "dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}), (on, {"torch_dtype": "float32"}),
        ({**on, "dtype": "bfloat16", "torch_dtype": "float16"}, {"torch_dtype": "float16"}),
        ({**on, "dtype": "bfloat16", "torch_dtype": None}, {"torch_dtype": "bfloat16"}),
        ({**llama, "rope_parameters": {"rope_theta": 500}, "rope_scaling": scaled}, {"rope_theta": 500, "rope_scaling": scaled}),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        write_directory(scratch + "/model", {"w": torch.zeros(1)}, {})
        for number, (config, wanted) in enumerate(refused + taken):
            out = f"{scratch}/{number}"
            with open(scratch + "/model/config.json", "w") as f:
                f.write(config if isinstance(config, str) else json.dumps(config))
            done = tool("to_reference", scratch + "/model", out)
            if isinstance(wanted, str):
                require(done.returncode == 1 and wanted in done.stdout and done.stdout.count("\n") == 1,
                        f"{str(config)[:200]}: exit status {done.returncode}, {done.stdout!r}, expected 1 and {wanted!r}")
                require(not os.path.exists(out), f"{config}: something was written")
                continue
            require(done.returncode == 0, f"{config}: {done.stdout!r}")
            with open(out + "/config.json") as f:
                got = json.load(f)
            require({key: got.get(key) for key in wanted} == wanted and "dtype" not in got, f"{config}: {got}, expected {wanted}")
    return f"{len(taken)} configurations, {len(refused)} refused"


def test_reference_weights():
    """A model without its weights, or with a part of them, is not written."""
    config = {"model_type": "gpt2"}
    tensors = {"a": torch.zeros(3), "b": torch.ones(2)}
    index = "model.safetensors.index.json"

    def parts(path, weight_map, *there):
        os.mkdir(path)
        for name in there:
            save_file({key: tensors[key] for key in weight_map if weight_map[key] == name}, f"{path}/{name}")
        for name, content in (("config.json", config), (index, {"weight_map": weight_map})):
            with open(f"{path}/{name}", "w") as f:
                json.dump(content, f)

    def whole(path, change):
        write_directory(path, tensors, config)
        with open(path + "/model.safetensors", "rb") as f:
            content = f.read()
        os.remove(path + "/model.safetensors")
        content = change(content)
        if content is None:
            os.mkdir(path + "/model.safetensors")
        else:
            with open(path + "/model.safetensors", "wb") as f:
                f.write(content)
    cases = {       # name -> how DIR is made, its arguments, what is said; None: it is converted
        "whole": (whole, [lambda x: x], None),
        "two parts": (parts, [{"a": "1.safetensors", "b": "2.safetensors"}, "1.safetensors", "2.safetensors"], None),
        "a directory": (whole, [lambda x: None], "model.safetensors: expected a file of weights, found a directory"),
        "cut": (whole, [lambda x: x[:-1]], "bytes; its header makes"),
        "cut in the header": (whole, [lambda x: x[:20]], "expected a safetensors file with"),
        "empty": (whole, [lambda x: b""], "expected a safetensors file with"),
        "pointer": (whole, [lambda x: b"version https://git-lfs.github.com/spec/v1\n"], "expected a safetensors file with"),
        "no tensor": (whole, [lambda x: (2).to_bytes(8, "little") + b"{}"], "expected a safetensors file with"),
        "no parts": (parts, [{"a": "1.safetensors"}], "1.safetensors: expected a file of weights, found none"),
        "one of two parts": (parts, [{"a": "1.safetensors", "b": "2.safetensors"}, "1.safetensors"],
                             "2.safetensors: expected a file of weights, found none"),
        "no map": (parts, [{}], 'expected an object "weight_map" of tensor and file names, found {}'),
        "a part elsewhere": (parts, [{"a": "../whole/model.safetensors"}], "tensor a: expected the name of a file in the same directory"),
        "a part of no name": (parts, [{"a": 1}], "tensor a: expected the name of a file in the same directory, found 1"),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, (make, arguments, words) in cases.items():
            source, out = f"{scratch}/{name}", f"{scratch}/{name} out"
            make(source, *arguments)
            done = tool("to_reference", source, out)
            if words is None:
                require(done.returncode == 0 and sorted(os.listdir(out)) == sorted(os.listdir(source)), f"{name}: {done.stdout!r}")
                continue
            require(done.returncode == 1 and words in done.stdout and done.stdout.count("\n") == 1,
                    f"{name}: exit status {done.returncode}, {done.stdout!r}, expected 1 and {words!r}")
            require(not os.path.exists(out), f"{name}: something was written")
    return f"{len(cases)} directories"


def test_unwritten():
    """A disk that is full, here a limit on the size of a file: one line, nothing left behind, and the next try succeeds."""
    with tempfile.TemporaryDirectory() as scratch:
        weights = random_weights(torch.float32)
        write_llmc(scratch + "/model.bin", weights, 3)
        write_directory(scratch + "/model", weights, CONFIG)
        before = sorted(os.listdir(scratch))
        for name, source in (("from_llmc", "/model.bin"), ("to_reference", "/model")):
            out = f"{scratch}/{name}"
            done = subprocess.run([sys.executable, f"{HERE}/{name}.py", scratch + source, out + "/"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14)))
            require(done.returncode == 1 and done.stdout.startswith(f"{name}: {out}: expected to write") and
                    done.stdout.count("\n") == 1, f"{name}, no room: exit status {done.returncode}, {done.stdout!r}")
            require(sorted(os.listdir(scratch)) == before, f"{name}, no room: left {os.listdir(scratch)}")
            done = tool(name, scratch + source, out)
            require(done.returncode == 0, f"{name}, the next try: {done.stdout!r}")
            require(sorted(os.listdir(out)) == ["config.json", "model.safetensors"], f"{name} wrote {os.listdir(out)}")
            done = tool(name, scratch + source, out)
            require(done.returncode == 1 and "is not there yet" in done.stdout, f"{name}, an OUT that exists: {done.stdout!r}")
            before = sorted(os.listdir(scratch))
    return "both tools"


def main():
    torch.set_num_threads(1)
    trainer = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else HERE + "/../build/train_gpt2")
    tests = {"from_llmc.py, float32": lambda: test_llmc(trainer, 3), "from_llmc.py, bfloat16": lambda: test_llmc(trainer, 5),
             "from_llmc.py refuses": test_llmc_refuses, "from_llmc.py, end of a text": test_llmc_end, "to_reference.py": test_reference,
             "to_reference.py, settings": test_reference_settings, "to_reference.py, weights": test_reference_weights,
             "no room to write": test_unwritten}
    run_tests(list(tests.items()))


if __name__ == "__main__":
    main()
