"""Loads checkpoints of our trainers in transformers and compares what comes out. Exits 1 unless everything agrees.

    check_transformers.py --binary build/train_pythia           trains four micro models with the binary, then checks each
    check_transformers.py --fixtures [DIR ...]                  runs modeling_ponder.py over fixtures, in float64;
                                                                what it and the twins must refuse; generation with caches,
                                                                which is in check_generation.py
    check_transformers.py --checkpoint DIR --dump DUMP --train SHARD --seq T --batch B       one checkpoint; DUMP is what
                                                                `train_X --model DIR --shuffle 0 --dump DUMP ...` wrote

A checkpoint without pondering and without embedding scale must load as the stock class; any other as the class in its own
modeling_ponder.py, and never without trust_remote_code. Compared: logits (largest difference at most 1e-4 of the largest
entry), loss, greedy generation against argmax by hand, a batch padded on the left, saving and loading again, the tokenizer.
Then the ways in which users load one: AutoConfig, AutoTokenizer, generate(**tokenizer(text)), pipeline, the model card; a tied
table under either name; a model directory written by transformers, trained on: what its files said is still there; stock models made
by transformers, in the trainer; and what dev/to_reference.py writes.
"""

import argparse
import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
SCRATCH = tempfile.TemporaryDirectory(prefix="check_transformers.")
os.environ["HF_HOME"] = SCRATCH.name + "/hf"        # where transformers copies modeling_ponder.py to

HERE = os.path.dirname(os.path.abspath(__file__))
MODELING = os.path.join(os.path.dirname(HERE), "modeling_ponder.py")
sys.path[:0] = [HERE, HERE + "/ref"]

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig, pipeline

import architectures
import check_generation
import llama
import pythia
import training
from testing import Failed, require, run_tests

transformers.utils.logging.disable_progress_bar()
TOLERANCE = 1e-4
PONDER_CLASSES = {"gpt2": ("PonderGPT2Config", "PonderGPT2LMHeadModel"), "gpt_neox": ("PonderGPTNeoXConfig", "PonderGPTNeoXForCausalLM"),
                  "llama": ("PonderLlamaConfig", "PonderLlamaForCausalLM")}


def distance(mine, recorded, what):
    require(mine.shape == recorded.shape, f"{what}: shape {tuple(mine.shape)} instead of {tuple(recorded.shape)}")
    return ((mine.double() - recorded.double()).abs().max() / recorded.double().abs().max()).item()


def is_plain(config):
    steps = (config.get("pondering_steps") or 0) if config.get("ponderinglm") or config.get("recurrent_model") else 0
    return steps == 0 and not config.get("scale_embeds")


def load(directory, **kwargs):
    model, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **kwargs)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        require(not report.get(what), f"{what} in {directory}: {report.get(what)}")
    return model.eval()


def greedy(model, tokens, count):
    """tokens (1,T) -> list of `count` new tokens, each by a forward of its own."""
    new = []
    for _ in range(count):
        token = model(tokens).logits[0, -1].argmax()
        tokens = torch.cat([tokens, token.view(1, 1)], dim=1)
        new.append(token.item())
    return new


@torch.no_grad()
def check_model(directory, inputs, targets, logits, loss, dtype=torch.float32, tolerance=TOLERANCE):
    """The checkpoint in `directory` against recorded logits (B,T,V) and loss; returns a line of measurements."""
    with open(directory + "/config.json") as f:
        config = json.load(f)
    plain = is_plain(config)
    if plain:
        model = load(directory)
        require(type(model).__module__.startswith("transformers.models."), f"stock class expected, found {type(model)}")
    else:
        try:
            AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=False)
        except (ValueError, OSError):
            pass
        else:
            raise Failed("a pondering checkpoint was loaded without trust_remote_code")
        model = load(directory, trust_remote_code=True)
        expected = config["auto_map"]["AutoModelForCausalLM"].split(".")[-1]
        require(type(model).__name__ == expected, f"{expected} expected, found {type(model)}")
    model = model.to(dtype)
    if config.get("tie_word_embeddings"):
        require(model.get_output_embeddings().weight is model.get_input_embeddings().weight, "the tables are not tied")

    output = model(inputs, labels=inputs)
    apart = distance(output.logits, logits, "logits")
    require(apart <= tolerance, f"logits differ by {apart:.1e} of the largest entry, allowed {tolerance:.0e}")
    here = F.cross_entropy(output.logits.double().flatten(0, 1), targets.flatten()).item()
    require(abs(here - loss) <= tolerance, f"loss {here:.7f} instead of {loss:.7f}")
    # transformers shifts labels by itself, and computes the loss in float32.
    shifted = F.cross_entropy(output.logits[:, :-1].float().flatten(0, 1), inputs[:, 1:].flatten()).item()
    require(abs(output.loss.item() - shifted) <= 1e-5, f"loss from labels {output.loss.item():.7f} instead of {shifted:.7f}")

    # Generation: caches must not matter (check_generation.py has the rest). Learned positions end somewhere.
    prompt = inputs[:1, :7]
    learned = hasattr(model.base_model, "wpe")
    new = min(6, config["n_positions"] - 9) if learned else 6
    if learned:
        model = model.float()       # transformers 4.49 cannot mask padding in a float64 GPT-2
    by_hand = greedy(model, prompt, new)
    for use_cache in (False, True):
        generated = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, min_new_tokens=new,
                                   do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=use_cache)
        require(generated[0, 7:].tolist() == by_hand,
                f"generate(use_cache={use_cache}) gives {generated[0, 7:].tolist()}, argmax by hand {by_hand}")
    # The same prompt as the second row, padded on the left: its next-token logits must not change.
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :2] = 0
    padded = torch.cat([inputs[:1, :9], F.pad(prompt, (2, 0), value=0)])
    # Rotary positions are relative and need not be told of padding.
    positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if learned else {}
    change = distance(model(padded, attention_mask=mask, **positions).logits[1, -1], model(prompt).logits[0, -1],
                      "logits of a padded row")
    require(change <= 1e-5, f"padding changes logits by {change:.1e}")     # angles of float32
    together = model.generate(padded, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False,
                              pad_token_id=0, eos_token_id=None)
    require(together[1, 9:].tolist() == by_hand, "generate() of a padded batch differs from that of the row alone")

    again = SCRATCH.name + "/saved"
    shutil.rmtree(again, ignore_errors=True)
    model.save_pretrained(again)
    second = load(again, **({} if plain else {"trust_remote_code": True})).to(dtype)
    change_saved = distance(second(inputs).logits, output.logits, "logits of the saved model")     # alignment changes sums
    require(change_saved <= tolerance / 100, f"saved and loaded again, the model's logits change by {change_saved:.1e}")
    return f"{type(model).__name__}: logits {apart:.1e}, loss {abs(here - loss):.1e}, padding {change:.1e}"


def check_tokenizer(directory):
    """The byte vocabulary: every text must survive, token ids must be the bytes."""
    text = "int main(void)\n{\treturn 0; /* \u00fcber \u2603 \U0001f600 */\r\n}  \x00\x7f"
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)    # version 5 reads config.json for it
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    require(ids == list(text.encode()), f"the tokenizer gives {ids[:12]}... instead of the bytes")
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    require(back == text, f"the tokenizer decodes to {back!r}")
    require(tokenizer.convert_tokens_to_ids("<|endoftext|>") == 256, "<|endoftext|> is not token 256")
    require(tokenizer("a<|endoftext|>b")["input_ids"] == [97, 256, 98], "<|endoftext|> inside a text is not token 256")
    return "tokenizer"


@torch.no_grad()
def check_use(directory, eos=256, pad=256):
    """As a user would: config, generate(**tokenizer(text)) of one text and of a padded batch, pipeline, card."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    ends = eos if isinstance(eos, list) else [eos]
    require(config.eos_token_id == eos, f"eos_token_id is {config.eos_token_id}, expected {eos}")
    require(config.bos_token_id == ends[0], f"bos_token_id is {config.bos_token_id}, expected {ends[0]}")
    require(tokenizer.eos_token_id == tokenizer.bos_token_id == ends[0],
            f"the tokenizer's end is {tokenizer.eos_token_id}, its beginning {tokenizer.bos_token_id}, expected {ends[0]}")
    require(config.pad_token_id == tokenizer.pad_token_id == pad, f"padding: {config.pad_token_id}, {tokenizer.pad_token_id}, {pad}")
    with open(directory + "/config.json") as f:
        written = json.load(f)
    require(written["torch_dtype"] == written["dtype"] == "float32", "torch_dtype and dtype are not float32")
    require(0 < tokenizer.model_max_length < 1e6, f"model_max_length is {tokenizer.model_max_length}")

    model = load(directory, trust_remote_code=True)
    require(model.generation_config.eos_token_id == eos, f"generation's eos_token_id is {model.generation_config.eos_token_id}")
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    texts = ["int main", "a"]
    alone = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt")
        require(list(tokens) == ["input_ids", "attention_mask"], f"the tokenizer gives {list(tokens)}")
        alone.append(model.generate(**tokens, **options)[0, tokens["input_ids"].shape[1]:].tolist())
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1]:].tolist()
    require(together == alone, f"generate() of a padded batch gives {together}, of its rows {alone}")

    generator = pipeline("text-generation", model=directory, trust_remote_code=True, device="cpu")
    text = generator(texts[0], **options)[0]["generated_text"]
    expected = tokenizer.decode(tokenizer(texts[0])["input_ids"] + alone[0], skip_special_tokens=True)
    require(text == expected, f"pipeline gives {text!r}, generate {expected!r}")

    card = ModelCard.load(directory + "/README.md")
    require(card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation" and "ponder.c" in card.data.tags,
            f"the head of README.md: {card.data.to_dict()}")
    with open(directory + "/trainer_state.json") as f:
        state = json.load(f)
    for what in [*state["commands"], directory.split("/")[-1], f"{state['val_loss']:.6f}" if "val_loss" in state else ""]:
        require(what in card.text, f"README.md lacks {what}")
    return "use"


def check_fixture(directory):
    """modeling_ponder.py, or the stock class, over a fixture of dev/fixtures or of the reference."""
    with open(directory + "/config.json") as f:
        config = json.load(f)
    with open(directory + "/expected.json") as f:
        expected = json.load(f)
    copy = tempfile.mkdtemp(dir=SCRATCH.name)
    shutil.copy(directory + "/model.safetensors", copy)
    stock = config["model_type"].removeprefix("ponder_")
    if not is_plain(config):        # the reference's own checkpoints carry the stock name
        names = PONDER_CLASSES[stock]
        config["model_type"] = "ponder_" + stock
        config["auto_map"] = {"AutoConfig": "modeling_ponder." + names[0],
                              "AutoModelForCausalLM": "modeling_ponder." + names[1]}
        shutil.copy(MODELING, copy)
    # One spelling of the rotary settings: which of them a version of transformers reads is not what is tested here.
    if stock != "gpt2":
        settings = {"gpt_neox": pythia, "llama": llama}[stock].rotary_settings(config)
        for key in ("partial_rotary_factor", "rope_theta", "rope_parameters", "rope_scaling"):
            config.pop(key, None)
        config.update(zip(("rotary_pct", "rotary_emb_base") if stock == "gpt_neox" else ("rope_theta", "rope_scaling"), settings))
    config.pop("transformers_version", None)
    with open(copy + "/config.json", "w") as f:
        json.dump(config, f)
    options = expected["options"]
    inputs, targets = training.batch_of(training.read_shard(directory + "/train.bin"), 0, options["batch"], options["seq"])
    if not os.path.exists(directory + "/logits.safetensors"):
        return None
    logits = load_file(directory + "/logits.safetensors")["logits"]
    # Recorded logits are float32; the loss is a double. Rotary angles are float32 everywhere, and so is LLaMA's RMSNorm in
    # transformers, whatever the model's type, but not in our own numbers: measured 3e-7.
    ours = os.path.dirname(os.path.realpath(directory)) == os.path.realpath(HERE + "/fixtures")
    tolerance = 1e-6 if stock == "llama" and ours else 2e-7
    return check_model(copy, inputs, targets, logits, expected["first_micro_batch"]["loss"], torch.float64, tolerance)


def check_refused():
    """Settings that mean nothing, in modeling_ponder.py and the twin, and inputs that forward would have to ignore, are errors."""
    spec = importlib.util.spec_from_file_location("modeling_ponder", MODELING)
    ponder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ponder)
    settings = {"ponderinglm": True, "pondering_steps": 1}
    size = {"vocab_size": 11, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 8}
    tokens = torch.arange(6).view(1, 6)

    def refuses(what, name, call):
        try:
            call()
        except ValueError as error:
            require(name in str(error), f"{what}: {error}")
            return
        raise Failed(f"{what} was accepted")
    wrong = [("pondering_steps", -1), ("softmax_temperature", 0), ("softmax_temperature", 1e4), ("softmax_temperature", float("nan")),
             ("pondering_top_k", -1)]
    for name, value in [*wrong, ("pondering_steps", "three"), ("pondering_steps", 1.5), ("pondering_steps", True)]:
        refuses(f"{name} {value!r}", name, lambda: ponder.PonderGPT2Config(**size, **{**settings, name: value}))
        model = ponder.PonderGPT2LMHeadModel(ponder.PonderGPT2Config(**size, **settings)).eval()
        setattr(model.config, name, value)      # as users do, for another number of steps
        refuses(f"{name} {value!r}, set later,", name, lambda: model(tokens))
    for name, value in wrong:
        refuses(f"the twin: {name} {value!r}", name.split("_", 1)[1],
                lambda: architectures.build({"model_type": "gpt2", **size, **settings, name: value}))
    neutral = {"pondering_steps": None, "softmax_temperature": None, "pondering_top_k": None}
    config = ponder.PonderGPT2Config(**size, **{**settings, **neutral})
    require((config.steps, config.mix_temperature, config.mix_top_k) == (0, 1.0, 0), "null is not the neutral value")

    model = ponder.PonderGPT2LMHeadModel(ponder.PonderGPT2Config(**size, **settings)).eval()
    for name, value in (("token_type_ids", torch.zeros_like(tokens)), ("head_mask", torch.zeros(1, 1)),
                        ("encoder_hidden_states", torch.zeros(1, 6, 8)), ("inputs_embeds", torch.zeros(1, 6, 8))):
        refuses(name, "input_ids" if name == "inputs_embeds" else name, lambda: model(tokens, **{name: value}))
    return "settings and inputs without a meaning"


def check_rotary():
    """Spellings of the rotary settings in the twins that no fixture has: whatever the trainers take from both objects, these do too."""
    base, scaling = llama.rotary_settings({"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": dict(SCALED)})
    require(base == 500.0 and scaling and {key: scaling[key] for key in SCALED} == SCALED, f"both objects: {base}, {scaling}")
    found = pythia.rotary_settings({"rope_scaling": {"partial_rotary_factor": 0.5, "rope_theta": 500.0}})
    require(found == (0.5, 500.0), f"rope_scaling of a GPT-NeoX: {found}")
    try:
        pythia.rotary_settings({"rope_scaling": {"type": "linear", "factor": 2.0}})
    except ValueError as error:
        require("linear" in str(error), f"linear: {error}")
        return "three spellings"
    raise Failed("a GPT-NeoX with linear rotary positions was accepted")


def dumped(directory):
    logits = load_file(directory + "/logits.safetensors")["logits"]
    return logits, load_file(directory + "/loss.safetensors")["loss"].flatten()[0].item()


# name -> options of the trainer
TRAINED = {
    "S=0, stock": ["--ponder", "0", "--scale-embeds", "0"],
    "S=0, scaled": ["--ponder", "0", "--scale-embeds", "1"],
    "S=3, untied": ["--ponder", "3", "--tie", "0"],
    "S=2, tied, temperature, multiply, top k": ["--ponder", "2", "--tie", "1", "--ponder-temperature", "0.8", "--multiply-steps", "1",
                                                "--ponder-top-k", "20"],
}
# program -> options of a micro model; names of its tables; tokenizers of the shared folder, with vocabulary and steps
SMALL = {
    "train_pythia": ["--model", "pythia-14m", "--layers", "2", "--width", "48", "--heads", "3", "--ff", "112"],
    "train_gpt2": ["--model", "gpt2", "--layers", "2", "--width", "48", "--heads", "3", "--ff", "112"],
    "train_llama": ["--model", "llama-405m", "--layers", "2", "--width", "48", "--heads", "4", "--kv-heads", "2", "--ff", "112"],
}
TABLES = {
    "train_pythia": ("gpt_neox.embed_in.weight", "embed_out.weight"),
    "train_gpt2": ("transformer.wte.weight", "lm_head.weight"),
    "train_llama": ("model.embed_tokens.weight", "lm_head.weight"),
}
TOKENIZERS = {
    "train_pythia": [("gpt-neox-20b", 50304, "1"), ("gpt2", 50257, "0")],
    "train_gpt2": [("gpt2", 50257, "1")],
    "train_llama": [("gpt-neox-20b", 50304, "0")],
}


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    require(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")


def program(binary):
    """"train_gpt2" for build/train_gpt2 and for build/train_gpt2_emu."""
    return next(name for name in SMALL if os.path.basename(binary).startswith(name))


class Trained:
    """A folder with data, and runs of a micro model in it."""
    T, B = 24, 2

    def __init__(self, binary):
        self.binary = binary
        self.folder = tempfile.mkdtemp(dir=SCRATCH.name)
        with open(__file__, "rb") as f:
            text = list(f.read())
        training.write_shard(self.folder + "/train.bin", text[:4000] + [256])
        training.write_shard(self.folder + "/val.bin", text[4000:5000] + [256])
        self.data = ["--train", self.folder + "/train.bin", "--val", self.folder + "/val.bin", "--seq", str(self.T),
                     "--batch", str(self.B), "--shuffle", "0", "--sample-tokens", "0"]
        self.size = SMALL[program(binary)]

    def train(self, name, options, steps=3):
        """Path of the checkpoint after `steps` steps."""
        out = f"{self.folder}/{name}"
        run([self.binary, *options, *self.data, "--steps", str(steps), "--warmup-steps", "0", "--val-batches", "1", "--out", out])
        return f"{out}/step_{steps:08d}"

    def fresh(self, options, vocabulary=257):
        return self.train("run", [*self.size, "--vocab", str(vocabulary), "--init", "ponder", *options])

    def dump(self, checkpoint):
        """Logits and loss that the trainer computes from a checkpoint."""
        run([self.binary, "--model", checkpoint, *self.data, "--steps", "1", "--out", self.folder + "/unused",
             "--dump", self.folder + "/dump"])
        return dumped(self.folder + "/dump")

    def batch(self):
        return training.batch_of(training.read_shard(self.folder + "/train.bin"), 0, self.B, self.T)


def check_trained(binary, options):
    """Trains three steps, dumps from the checkpoint, loads it."""
    trained = Trained(binary)
    checkpoint = trained.fresh(options)
    require(glob.glob(trained.folder + "/run/step_*") == [checkpoint], f"one checkpoint expected in {trained.folder}/run")
    carried = checkpoint + "/modeling_ponder.py"
    if os.path.exists(carried):
        with open(carried, "rb") as mine, open(MODELING, "rb") as ours:
            require(mine.read() == ours.read(), f"{carried} is not modeling_ponder.py; was the binary built before it changed?")
    line = check_model(checkpoint, *trained.batch(), *trained.dump(checkpoint))
    return ", ".join([line, check_tokenizer(checkpoint), check_use(checkpoint)])


@torch.no_grad()
def check_tied(binary, options):
    """A tied table is found under either name, by transformers and by the trainer."""
    trained = Trained(binary)
    checkpoint = trained.fresh([*options, "--tie", "1"])
    table_name, head_name = TABLES[program(binary)]
    inputs, _ = trained.batch()
    logits, _ = trained.dump(checkpoint)
    worst = 0
    for names in ([head_name], [table_name, head_name]):
        copy = f"{trained.folder}/tied{len(names)}"
        shutil.copytree(checkpoint, copy)
        tensors = load_file(copy + "/model.safetensors")
        table = tensors.pop(table_name)
        tensors.update({name: table.clone() for name in names})
        save_file(tensors, copy + "/model.safetensors", metadata={"format": "pt"})
        require(torch.equal(trained.dump(copy)[0], logits), f"the trainer's logits differ with the table under {names}")
        model = AutoModelForCausalLM.from_pretrained(copy, trust_remote_code=True).eval()
        worst = max(worst, distance(model(inputs).logits, logits, f"logits with the table under {names}"))
    require(worst <= TOLERANCE, f"logits differ by {worst:.1e}")
    return f"logits {worst:.1e}"


def check_carried(binary, options):
    """A directory as transformers saves it, with settings of its own, trained on and resumed."""
    trained = Trained(binary)
    checkpoint = trained.fresh(options)
    source = trained.folder + "/source"
    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    model.generation_config.eos_token_id = [256, 3]
    model.generation_config.repetition_penalty = 1.25
    model.save_pretrained(source)
    AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True).save_pretrained(source)
    with open(source + "/chat_template.jinja", "w") as f:
        f.write("{{ messages }}")
    with open(source + "/README.md", "w") as f:
        f.write("# The source's card")
    with open(source + "/config.json") as f:
        config = json.load(f)
    own = {"eos_token_id": [256, 3], "_name_or_path": "someone/something", "task_specific_params": {"x": [1, 2.5, None]}, "label": "\u00fc"}
    config.update(own)
    with open(source + "/config.json", "w") as f:
        json.dump(config, f)
    for steps in (2, 4):
        there = trained.train("carried", ["--resume"] if steps > 2 else ["--model", source], steps)
        with open(there + "/config.json") as f:
            written = json.load(f)
        for key in own:
            require(written.get(key) == own[key], f"{key} was {own[key]}, is {written.get(key)} after {steps} steps")
        for name in os.listdir(source):
            if not name.startswith(("model", "config.json", "README", "__py")):
                with open(f"{source}/{name}", "rb") as a, open(f"{there}/{name}", "rb") as b:
                    require(a.read() == b.read(), f"{name} is another after {steps} steps")
        with open(there + "/README.md") as f:
            card = f.read()
        require("source's card" not in card and "someone/something" in card, "README.md is not ours, or does not name the source")
    return check_use(there, [256, 3])


def neox(**more):
    return GPTNeoXConfig(vocab_size=257, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=112,
                         max_position_embeddings=24, eos_token_id=[256, 3], **more)


def gpt2(**more):
    return GPT2Config(vocab_size=257, n_embd=48, n_layer=2, n_head=3, n_positions=40, resid_pdrop=0.0, embd_pdrop=0.0,
                      attn_pdrop=0.0, bos_token_id=256, eos_token_id=[256, 3], **more)


def llama_config(**more):
    return LlamaConfig(vocab_size=257, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                       intermediate_size=112, max_position_embeddings=24, bos_token_id=256, eos_token_id=[256, 3], **more)


SCALED = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16, "rope_type": "llama3"}
# program -> {name: config, what of the model is saved, options of save_pretrained}; each version of transformers spells the
# rotary settings in its own way.
STOCK = {
    "train_pythia": {
        "several files": (neox, "model", {"max_shard_size": "60KB"}),
        "tied": (lambda: neox(tie_word_embeddings=True), "model", {}),
    },
    "train_gpt2": {
        "several files": (gpt2, "model", {"max_shard_size": "60KB"}),
        "names without transformer.": (gpt2, "trunk", {}),
        "untied, n_inner": (lambda: gpt2(tie_word_embeddings=False, n_inner=112), "model", {}),
    },
    "train_llama": {
        "several files, tied, llama3": (lambda: llama_config(tie_word_embeddings=True, rope_theta=500.0, rope_scaling=dict(SCALED)), "model",
                                        {"max_shard_size": "60KB"}),
        "head_dim": (lambda: llama_config(head_dim=20, rope_theta=500.0), "model", {}),
    },
}


@torch.no_grad()
def check_stock(binary, make, part, saving):
    """A stock model made and saved by transformers, with every bias and norm moved; the trainer's logits and loss are the same."""
    trained = Trained(binary)
    config = make()
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    model.tie_weights()
    source = trained.folder + "/stock"
    (model if part == "model" else model.base_model).save_pretrained(source, **saving)
    files = glob.glob(source + "/*.safetensors")
    require((len(files) > 1) == ("max_shard_size" in saving), f"transformers wrote {len(files)} files")
    inputs, targets = trained.batch()
    expected = model(inputs).logits
    logits, loss = trained.dump(source)
    apart = distance(logits, expected, "logits")
    require(apart <= TOLERANCE, f"logits differ by {apart:.1e} of the largest entry, allowed {TOLERANCE:.0e}")
    here = F.cross_entropy(expected.double().flatten(0, 1), targets.flatten()).item()
    require(abs(here - loss) <= TOLERANCE, f"the trainer's loss is {loss:.7f}, that of transformers {here:.7f}")
    # One step further it is our checkpoint: it says all that the model is, and still where texts end. The trainer's last loss is
    # that of the model which it had; logits are of the one that it finds in the checkpoint.
    there = trained.train("on", ["--model", source, "--ponder", "0", "--scale-embeds", "0"], 1)
    again = load(there)
    require(again.config.eos_token_id == [256, 3], f"eos_token_id is {again.config.eos_token_id} after a step, was [256, 3]")
    further = distance(again(inputs).logits, trained.dump(there)[0], "logits after a step")
    require(further <= TOLERANCE, f"logits after a step differ by {further:.1e} of the largest entry, allowed {TOLERANCE:.0e}")
    with open(there + "/trainer_state.json") as f:
        said = json.load(f)["val_loss"]
    inputs, targets = training.batch_of(training.read_shard(trained.folder + "/val.bin"), 0, trained.B, trained.T)
    found = F.cross_entropy(again(inputs).logits.double().flatten(0, 1), targets.flatten()).item()
    require(abs(found - said) <= TOLERANCE, f"validation after a step: {found:.7f}, the trainer's {said:.7f}")
    return (f"{type(model).__name__}: logits {apart:.1e}, loss {abs(here - loss):.1e}, after a step {further:.1e}, {abs(found - said):.1e}, "
            f"{len(files)} files")


@torch.no_grad()
def check_reference(binary, options):
    """dev/to_reference.py's directory: the stock class takes every tensor, the trainer computes the same bits from it."""
    trained = Trained(binary)
    checkpoint = trained.fresh(options)
    out = trained.folder + "/reference"
    run([sys.executable, HERE + "/to_reference.py", checkpoint, out])
    with open(out + "/config.json") as f:
        config = json.load(f)
    model = load(out)
    require(type(model).__module__.startswith("transformers.models."), f"stock class expected, found {type(model)}")
    require(config["architectures"] == [type(model).__name__], f"architectures is {config['architectures']}")
    for key in ("auto_map", "pondering_top_k", "rope_parameters"):
        require(key not in config, f"{out}/config.json still has {key}")
    steps = int(options[options.index("--ponder") + 1])
    require(config["ponderinglm"] and config["recurrent_model"] and config["pondering_steps"] == steps, f"config.json: {config}")
    require(torch.equal(trained.dump(out)[0], trained.dump(checkpoint)[0]), "the trainer's logits differ after to_reference.py")
    return type(model).__name__


def check_given_tokenizer(binary, tokenizer, vocabulary, options):
    """A fresh model with a tokenizer of the shared folder; the ids of AutoTokenizer are those of its files."""
    trained = Trained(binary)
    checkpoint = trained.fresh([*options, "--tokenizer", tokenizer], vocabulary)
    text = "It's 12 o'clock \u2014 caf\u00e9<|endoftext|>"
    got = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    if os.path.exists(tokenizer + "/tokenizer.json"):
        expected = tokenizers.Tokenizer.from_file(tokenizer + "/tokenizer.json")
    else:
        expected = tokenizers.ByteLevelBPETokenizer(tokenizer + "/vocab.json", tokenizer + "/merges.txt")
        expected.add_special_tokens(["<|endoftext|>"])
    ids = got(text)["input_ids"]
    require(ids == expected.encode(text).ids, f"AutoTokenizer gives {ids}, the tokenizer's files {expected.encode(text).ids}")
    require(got.decode(ids) == text, f"decoded: {got.decode(ids)!r}")
    return check_use(checkpoint, got.eos_token_id, got.pad_token_id)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", action="append", default=[])
    parser.add_argument("--fixtures", nargs="*")
    parser.add_argument("--checkpoint")
    parser.add_argument("--dump")
    parser.add_argument("--train")
    parser.add_argument("--seq", type=int)
    parser.add_argument("--batch", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for binary in map(os.path.abspath, arguments.binary):
        cases += [(f"{os.path.basename(binary)}: {name}", lambda binary=binary, options=options: check_trained(binary, options))
                  for name, options in TRAINED.items()]
        cases += [(f"{os.path.basename(binary)}: from transformers, {name}", lambda binary=binary, made=made: check_stock(binary, *made))
                  for name, made in STOCK[program(binary)].items()]
        cases += [(f"{os.path.basename(binary)}: to_reference.py, S={options[1]}", lambda binary=binary, options=options:
                   check_reference(binary, options))
                  for options in (["--ponder", "0", "--scale-embeds", "1"], ["--ponder", "3", "--multiply-steps", "1"])]
    shared = os.environ.get("PONDER_SHARED", HERE + "/../../shared")
    for binary in map(os.path.abspath, arguments.binary):
        name = os.path.basename(binary)
        for steps in ("0", "2"):
            options = ["--ponder", steps, "--scale-embeds", "0"]
            cases.append((f"{name}: tied, S={steps}", lambda binary=binary, options=options: check_tied(binary, options)))
            cases.append((f"{name}: trained on, S={steps}", lambda binary=binary, options=options: check_carried(binary, options)))
        for folder, vocabulary, steps in TOKENIZERS[program(binary)]:
            path = f"{shared}/tokenizers/{folder}"
            if os.path.isdir(path):
                options = ["--ponder", steps, "--scale-embeds", "0"]
                cases.append((f"{name}: tokenizer {folder}, S={steps}", lambda binary=binary, path=path, vocabulary=vocabulary,
                              options=options: check_given_tokenizer(binary, path, vocabulary, options)))
    if arguments.fixtures is not None:
        cases += [("modeling_ponder.py refuses", check_refused), ("rotary settings of the twins", check_rotary)]
        cases += check_generation.all_checks(map(os.path.abspath, arguments.binary))
        directories = arguments.fixtures or sorted(glob.glob(HERE + "/fixtures/*/")) + sorted(glob.glob(shared + "/fixtures/*/"))
        for directory in directories:
            directory = os.path.normpath(directory)
            if os.path.basename(directory) == "tokenizers":     # not a model's: dev/check_tokenizers.py has them
                continue
            with open(directory + "/config.json") as f:
                known = json.load(f)["model_type"].removeprefix("ponder_") in PONDER_CLASSES
            if known:
                cases.append(("/".join(directory.split("/")[-3:]), lambda directory=directory: check_fixture(directory)))
    if arguments.checkpoint:
        def one():
            shard = training.read_shard(arguments.train)
            inputs, targets = training.batch_of(shard, 0, arguments.batch, arguments.seq)
            return check_model(arguments.checkpoint, inputs, targets, *dumped(arguments.dump))
        cases.append((arguments.checkpoint, one))
    if not cases:
        parser.error("nothing to check: give --binary, --fixtures or --checkpoint")

    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")
    run_tests(cases)


if __name__ == "__main__":
    main()
