"""Writes a checkpoint so that the reference implementation's own classes load it (PonderingLM, on transformers 4.49).

    usage: to_reference.py DIR OUT          DIR: a checkpoint of a trainer; OUT: a new directory. Needs Python alone.

The reference keeps the stock names: its patched GPTNeoXForCausalLM, GPT2LMHeadModel and LlamaForCausalLM stand where the stock
classes stood, and config.json alone says that a model ponders. So the weights are copied as they are, and config.json loses
our class names and gets the reference's keys: ponderinglm and recurrent_model (its GPT-2 asks only for the second), both true even
with no steps, because its GPT-NeoX computes nothing otherwise; pondering_steps, scale_embeds, mutiply_pondering_steps (spelt so
there), softmax_temperature; and checkpoint_num_layers, without which its classes do not start (0: recompute no layer). The stock
classes of transformers load OUT as well, and run it without pondering, in silence. Its GPT-NeoX will say that adapter.weight is
new: it uses it nowhere.

Refused, because no key of the reference says it: pondering_top_k (one branch of its code mixes 100 tokens, a constant), and
for GPT-NeoX a softmax_temperature other than 1, which that class does not read. The trainers read OUT again.
"""

import json
import os
import shutil
import sys

from new_directory import new_directory

STOCK = {"gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoXForCausalLM", "llama": "LlamaForCausalLM"}
OURS = ("auto_map", "pondering_top_k", "use_cache", "dtype", "transformers_version")


def fail(message):
    sys.exit(f"to_reference: {message}")


def read_json(path, what):
    """The object in a JSON file; dies on anything else."""
    def refuse(number):
        raise ValueError(f"{number} is not JSON")
    try:
        with open(path, encoding="utf-8") as f:
            value = json.load(f, parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        fail(f"{path}: expected {what}: {error}")
    if not isinstance(value, dict):
        fail(f"{path}: expected {what}, an object, found {show(value)}")
    return value


def show(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


def check_safetensors(path):
    """Dies unless a whole safetensors file is there: no directory, no pointer of git-lfs, no download cut short."""
    if not os.path.isfile(path):
        fail(f"{path}: expected a file of weights, found {'a directory' if os.path.isdir(path) else 'none'}")
    try:
        with open(path, "rb") as f:
            length, size = int.from_bytes(f.read(8), "little"), os.path.getsize(path)
            header = json.loads(f.read(length)) if length <= size - 8 else {}
        expected = 8 + length + max(row["data_offsets"][1] for name, row in header.items() if name != "__metadata__")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        fail(f"{path}: expected a safetensors file with at least one tensor")
    if size != expected:
        fail(f"{path}: {size} bytes; its header makes {expected}")


def check_weights(source):
    """Dies unless the weights are all there, in the files that the trainers would read."""
    single, index = (os.path.join(source, name) for name in ("model.safetensors", "model.safetensors.index.json"))
    if os.path.lexists(single):
        return check_safetensors(single)
    if not os.path.lexists(index):
        fail(f"{source}: expected model.safetensors, or its parts with an index, found neither")
    parts = read_json(index, "the index of a model's weights").get("weight_map")
    if not isinstance(parts, dict) or not parts:
        fail(f"{index}: expected an object \"weight_map\" of tensor and file names, found {show(parts)}")
    for tensor, name in parts.items():
        if not isinstance(name, str) or not name or name.startswith(".") or "/" in name:
            fail(f"{index}: tensor {tensor}: expected the name of a file in the same directory, found {show(name)}")
    for name in sorted(set(parts.values())):
        check_safetensors(os.path.join(source, name))


def setting(config, key, default, path, least=None, most=None):
    """The value of a key, of the default's type; the default where it is absent or null. Dies on other types, and outside of
    least .. most, as the trainers do."""
    value = config.get(key)
    if value is None:
        return default
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    wanted, good = {
        bool: ("true or false", isinstance(value, bool)), str: ("a string", isinstance(value, str)),
        dict: ("an object", isinstance(value, dict)), float: ("a number", number),
        int: ("a whole number", number and (isinstance(value, int) or value.is_integer())),
    }[type(default)]
    if not good:
        fail(f"{path}: {key} is {show(value)}, expected {wanted}")
    if least is not None and not least <= value <= most:
        fail(f"{path}: {key} is {show(value)}, expected {least:g} to {most:g}")
    return value if isinstance(value, (bool, str, dict)) else type(default)(value)


def rotary(config, holders, keys, default, path, least, most):
    """The value of the first key in one of `holders`, or else that of the first key that stands beside them."""
    for holder in holders:
        if holder.get(keys[0]) is not None:
            return setting(holder, keys[0], default, path, least, most)
    found = [key for key in keys if config.get(key) is not None]
    return setting(config, found[0], default, path, least, most) if found else default


def spell_rotary(stock, config, path):
    """Rotary settings as transformers 4.49 reads them; it takes those of version 5 for nothing, in silence."""
    holders = [setting(config, key, {}, path) for key in ("rope_parameters", "rope_scaling")]
    scaling = {key: value for holder in reversed(holders) for key, value in holder.items() if value is not None}
    kind = setting(scaling, "rope_type", setting(scaling, "type", "default", path), path)
    base = rotary(config, holders, ("rope_theta", "rotary_emb_base"), 10000.0, path, 1, 1e12)
    if stock == "gpt_neox":
        if kind != "default":
            fail(f"{path}: rotary positions of type {show(kind)}; a GPT-NeoX of the trainers has only the unscaled ones")
        share = rotary(config, holders, ("partial_rotary_factor", "rotary_pct"), 0.25, path, 0, 1)
        changed = {"rotary_pct": share, "partial_rotary_factor": share, "rotary_emb_base": base, "rope_theta": base}
    else:
        changed = {"rope_theta": base, "rope_scaling": None if kind == "default" else
                   {key: value for key, value in {**scaling, "rope_type": kind}.items() if key not in ("rope_theta", "type")}}
    for key in ("rope_parameters", "rope_scaling"):
        config.pop(key, None)
    config.update(changed)


def convert(config, path):
    """config.json of ours -> the reference's; dies on what it cannot say."""
    kind = config.get("model_type")
    stock = str(kind).removeprefix("ponder_")
    if stock not in STOCK:
        fail(f"{path}: model_type is {show(kind)}, expected one of {', '.join(STOCK)}, or ponder_ and one of these")
    on = [setting(config, key, False, path) for key in ("ponderinglm", "recurrent_model")]
    steps = setting(config, "pondering_steps", 0, path, 0, 64) if any(on) else 0
    scale, multiply = (setting(config, key, False, path) for key in ("scale_embeds", "mutiply_pondering_steps"))
    temperature = setting(config, "softmax_temperature", 1.0, path, 1e-3, 1e3)
    top_k = setting(config, "pondering_top_k", 0, path, 0, 1 << 30)
    if steps and top_k:
        fail(f"{path}: pondering_top_k is {top_k}; the reference has no such key, it mixes all tokens")
    if steps and temperature != 1 and stock == "gpt_neox":
        fail(f"{path}: softmax_temperature is {temperature:g}; the reference's GPT-NeoX does not read it, only its GPT-2 and LLaMA do")
    number_type = setting(config, "torch_dtype", setting(config, "dtype", "float32", path), path)
    out = {key: value for key, value in config.items() if key not in OURS}
    out.update({"model_type": stock, "architectures": [STOCK[stock]], "torch_dtype": number_type})
    out.update({"ponderinglm": True, "recurrent_model": True, "pondering_steps": steps, "scale_embeds": scale,
                "mutiply_pondering_steps": multiply and steps > 0, "softmax_temperature": temperature, "checkpoint_num_layers": 0})
    if stock != "gpt2":
        spell_rotary(stock, out, path)
    return out


def main():
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit(sys.argv[1:] not in (["-h"], ["--help"]))
    source, out = sys.argv[1:]
    path = os.path.join(source, "config.json")
    converted = convert(read_json(path, "the config.json of a checkpoint"), path)
    check_weights(source)
    # The trainer's own files and ours stay behind: moments, state, the model's code, its card.
    left = ("config.json", "optimizer.safetensors", "trainer_state.json", "modeling_ponder.py", "README.md")
    with new_directory(out, fail) as directory:
        for name in os.listdir(source):
            if name not in left and os.path.isfile(os.path.join(source, name)):
                shutil.copyfile(os.path.join(source, name), os.path.join(directory, name))
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
            f.write(json.dumps(converted, indent=2, ensure_ascii=False) + "\n")
    said = ", ".join(f"{key} {json.dumps(converted[key])}" for key in
                     ("ponderinglm", "pondering_steps", "scale_embeds", "mutiply_pondering_steps", "softmax_temperature"))
    print(f"{out}: {STOCK[converted['model_type']]}, {said}")


if __name__ == "__main__":
    main()
