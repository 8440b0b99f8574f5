"""Generation with the caches of modeling_ponder.py in transformers: every text and every logit are those of recomputing the
whole sequence. Small random models of the three architectures. With the trainers also: each text of `train_X --generate` is that
of generate(). Exits 1 unless everything agrees.

    check_generation.py                 all checks that need no program; check_transformers.py --fixtures runs them too
    check_generation.py build/train_pythia ...      and those of this program, as check_transformers.py --binary does
    check_generation.py NAME ...        those whose name contains one of the words
    check_generation.py --speed         tokens/s of generate() with and without caches, a random model of pythia-70m's size

Logits may differ by 1e-5 of the largest entry: sums over keys are taken in another order. The largest difference seen is printed.
"""

import copy
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
HERE = os.path.dirname(os.path.abspath(__file__))

import tokenizers
import torch
import transformers
from safetensors.torch import load_file
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerFast, StaticCache, pipeline

sys.path.append(HERE + "/ref")
import training
from testing import Failed, require, run_tests

transformers.utils.logging.disable_progress_bar()
TOLERANCE = 1e-5
V, C, L, T = 61, 24, 2, 48      # vocabulary, width, layers, context; token 0 pads
SHAPES = {
    "gpt2": ("PonderGPT2Config", "PonderGPT2LMHeadModel", {"vocab_size": V, "n_embd": C, "n_layer": L, "n_head": 3, "n_positions": T,
                                                     "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt_neox": ("PonderGPTNeoXConfig", "PonderGPTNeoXForCausalLM",
                 {"vocab_size": V, "hidden_size": C, "num_hidden_layers": L, "num_attention_heads": 3, "intermediate_size": 40,
                  "max_position_embeddings": T, "rotary_pct": 0.5}),
    "llama": ("PonderLlamaConfig", "PonderLlamaForCausalLM",     # with grouped heads
              {"vocab_size": V, "hidden_size": C, "num_hidden_layers": L, "num_attention_heads": 6, "num_key_value_heads": 2,
               "intermediate_size": 40, "max_position_embeddings": T}),
}
# How the models ponder; the last one is what most checks take, since every setting shows in it.
PONDERING = {
    "S=0, scale": {"scale_embeds": True},
    "S=1": {"ponderinglm": True, "pondering_steps": 1},
    "S=3, multiply, temperature": {"ponderinglm": True, "pondering_steps": 3, "mutiply_pondering_steps": True,
                                   "softmax_temperature": 0.7},
    "S=2, scale, multiply, top k": {"ponderinglm": True, "pondering_steps": 2, "scale_embeds": True,
                                    "mutiply_pondering_steps": True, "pondering_top_k": 7},
}
ALL = PONDERING["S=2, scale, multiply, top k"]


def load_code():
    spec = importlib.util.spec_from_file_location("modeling_ponder", os.path.join(os.path.dirname(HERE), "modeling_ponder.py"))
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    return code


CODE = load_code()


def build(architecture, attention="sdpa", shape=None, **settings):
    """A random model, in eval mode. Its weights are large enough that each pass and each earlier token change the text."""
    config_class, model_class, own = SHAPES[architecture]
    config = getattr(CODE, config_class)(**{**own, **(shape or {})}, bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings)
    config._attn_implementation = attention
    torch.manual_seed(5)
    model = getattr(CODE, model_class)(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.05))
    return model


def random_tokens(*shape, seed=1):
    return torch.randint(3, V, shape, generator=torch.Generator().manual_seed(seed))


def padded(rows):
    """Rows of different lengths -> tokens (B,T) padded on the left, mask (B,T)."""
    longest = max(len(row) for row in rows)
    tokens = torch.stack([torch.cat([row.new_zeros(longest - len(row)), row]) for row in rows])
    mask = torch.stack([torch.cat([row.new_zeros(longest - len(row)), torch.ones_like(row)]) for row in rows])
    return tokens, mask


def generate(model, tokens, mask=None, seed=3, new=6, **options):
    torch.manual_seed(seed)
    mask = torch.ones_like(tokens) if mask is None else mask
    return model.generate(tokens, attention_mask=mask, max_new_tokens=new, pad_token_id=0, **{"eos_token_id": None, "do_sample": False,
                                                                                          **options})


def refuses(what, words, call, error=ValueError):
    try:
        call()
    except error as reason:
        for word in words:
            require(word in str(reason), f"{what}: expected {word!r} in the message: {reason}")
        return
    raise Failed(f"{what} was accepted")


def in_chunks(model, tokens, sizes, masks, positions=None, **inputs):
    """Logits (B,T,V) of tokens given in chunks of these sizes; masks: whether an attention mask goes with each, or the mask."""
    past, parts, first = None, [], 0
    for n in sizes:
        mask = torch.ones_like(tokens) if masks is True else masks if torch.is_tensor(masks) else None
        more = {} if positions is None else {"position_ids": positions[:, first : first + n]}
        output = model(tokens[:, first : first + n], attention_mask=None if mask is None else mask[:, : first + n],
                       past_key_values=past, use_cache=True, **more, **inputs)
        past, first = output.past_key_values, first + n
        parts.append(output.logits)
    require(first == tokens.shape[1] and past.get_seq_length() == first, f"the cache has {past.get_seq_length()} of {first} positions")
    return torch.cat(parts, dim=1)


@torch.no_grad()
def check_logits(architecture, attention):
    """A sequence in chunks, with a mask, without one, and padded on the left, against the whole sequence at once."""
    worst = 0.0
    tokens = random_tokens(2, 13)
    real = torch.ones_like(tokens)
    real[1, :4] = 0
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    for name, settings in PONDERING.items() if attention == "sdpa" else [("all settings", ALL)]:
        model = build(architecture, attention, **settings)
        whole = model(tokens, use_cache=False).logits
        behind = model(tokens, attention_mask=real, position_ids=positions, use_cache=False).logits
        alone = model(tokens[1:, 4:], use_cache=False).logits
        for what, expected, got in (
            ("the last two alone", whole[:, -2:], model(tokens, logits_to_keep=2).logits),
            ("at once", whole, in_chunks(model, tokens, [13], None)),
            ("token by token", whole, in_chunks(model, tokens, [1] * 13, None)),
            ("in chunks", whole, in_chunks(model, tokens, [5, 1, 4, 3], None)),
            ("in chunks with a mask", whole, in_chunks(model, tokens, [5, 1, 4, 3], True)),
            ("with padding", behind[1, 4:], in_chunks(model, tokens, [3, 5, 1, 4], real, positions)[1, 4:]),
            ("with padding, row by itself", alone[0], in_chunks(model, tokens, [6, 1, 6], real, positions)[1, 4:]),
        ):
            apart = ((got - expected).abs().max() / expected.abs().max()).item()
            require(apart <= TOLERANCE, f"{name}, {what}: logits differ by {apart:.1e} of the largest entry")
            worst = max(worst, apart)
    return f"logits {worst:.1e}"


@torch.no_grad()
def check_texts(architecture, attention):
    """Greedy, beams and sampling, of one text and of a batch padded on the left, against use_cache=False and each row alone."""
    rows = [random_tokens(n, seed=n) for n in (9, 5, 7)]
    tokens, mask = padded(rows)
    varied = {"repetition_penalty": 1.5, "suppress_tokens": [0]}        # small models repeat themselves; padding is no token of a text
    ways = {"greedy": varied, "beams": {"num_beams": 3}, "beams sampled": {"num_beams": 3, "num_return_sequences": 2, "do_sample": True},
            "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 20}}
    for name, settings in PONDERING.items() if attention == "sdpa" else [("all settings", ALL)]:
        model = build(architecture, attention, **settings)
        for way in ways if settings is ALL else ("greedy", "sampling"):
            options = ways[way]
            without, with_caches = (generate(model, tokens, mask, use_cache=use_cache, **options) for use_cache in (False, True))
            require(torch.equal(without, with_caches), f"{name}, {way}: {with_caches.tolist()} with caches, {without.tolist()} without")
    batch = generate(model, tokens, mask, **varied)[:, tokens.shape[1] :]
    for row, text in zip(rows, batch):
        alone = generate(model, row[None], use_cache=False, **varied)[0, len(row) :]
        require(torch.equal(text, alone), f"{text.tolist()} in a padded batch, {alone.tolist()} alone")
    return f"{len(ways)} ways"


@torch.no_grad()
def check_continued(architecture):
    """A cache that generate() returned or that the caller made, gone on with, copied and cropped."""
    model = build(architecture, **ALL)
    rows = [random_tokens(n, seed=n) for n in (9, 6)]
    for tokens, mask in (padded(rows), padded(rows[:1])):
        first = generate(model, tokens, mask, return_dict_in_generate=True)
        own = DynamicCache()        # the caller's stays the one that is filled
        require(torch.equal(generate(model, tokens, mask, past_key_values=own), first.sequences), "with a cache of the caller")
        read = first.sequences.shape[1] - 1
        require(own.get_seq_length() == first.past_key_values.get_seq_length() == read, f"{own.get_seq_length()} of {read} positions")
        more = torch.cat([first.sequences, random_tokens(len(tokens), 5, seed=7)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), more.shape[1] - mask.shape[1])], dim=1)
        expected = generate(model, more, mask, use_cache=False)
        for what, past in (("returned", first.past_key_values), ("copied", copy.deepcopy(own)), ("the caller's", own)):
            require(torch.equal(generate(model, more, mask, past_key_values=past), expected), f"a cache that was {what}")
        own.crop(-4)
        read = own.get_seq_length()
        require(read == expected.shape[1] - 5, f"cropped to {read} positions")
        rest = torch.cat([expected[:, :read], random_tokens(len(tokens), 3, seed=8)], dim=1)
        whole = torch.cat([mask, mask.new_ones(len(mask), rest.shape[1])], dim=1)[:, : rest.shape[1]]
        require(torch.equal(generate(model, rest, whole, past_key_values=own), generate(model, rest, whole, use_cache=False)),
                "a cropped cache")
    if hasattr(GenerationConfig(), "prefill_chunk_size"):
        require(torch.equal(generate(model, tokens, prefill_chunk_size=4), generate(model, tokens, use_cache=False)), "prefill in chunks")
    old = build(architecture, use_cache=False, **ALL)       # a config.json of before there were caches
    require(old(tokens).past_key_values is None and old(tokens, use_cache=True).past_key_values is not None, "use_cache in config.json")
    require(torch.equal(generate(old, tokens, use_cache=True), generate(model, tokens, use_cache=False)), "use_cache switched on")
    return "returned, copied, the caller's, cropped"


def by_hand(model, tokens, steps):
    """Logits after that many steps, as METHOD.md has it: the factor of the first line is the trained number of steps."""
    config, table = model.config, model.get_input_embeddings().weight
    scale = config.hidden_size**0.5 if config.scale_embeds else 1.0
    e = scale * (config.pondering_steps if config.mutiply_pondering_steps else 1) * table[tokens]
    for s in range(steps + 1):
        h = model.base_model(inputs_embeds=e, use_cache=False).last_hidden_state
        e = e + model._guess(h) @ table * scale
    return model.get_output_embeddings()(h)


@torch.no_grad()
def check_steps(architecture):
    """steps_at_inference, as an argument and in config.json: other passes, the same factor; not while training."""
    worst, tokens = 0.0, random_tokens(2, 9)
    for name, numbers in (("S=3, multiply, temperature", (1,)), ("S=2, scale, multiply, top k", (0, 4))):
        model = build(architecture, **PONDERING[name])
        trained = model(tokens).logits
        for steps in numbers:
            expected = by_hand(model, tokens, steps)
            require((expected - trained).abs().max() > 1e-2 * trained.abs().max(), f"{steps} steps show nothing")
            model.config.steps_at_inference = None
            texts = [generate(model, tokens, steps_at_inference=steps, use_cache=use_cache) for use_cache in (False, True)]
            got = [model(tokens, steps_at_inference=steps).logits, in_chunks(model, tokens, [4, 1, 4], None, steps_at_inference=steps)]
            model.config.steps_at_inference = steps
            texts += [generate(model, tokens)]
            got += [model(tokens).logits, in_chunks(model, tokens, [4, 1, 4], True)]
            apart = max(((logits - expected).abs().max() / expected.abs().max()).item() for logits in got)
            require(apart <= TOLERANCE, f"{name}, {steps} steps: logits differ by {apart:.1e}")
            require(all(torch.equal(text, texts[0]) for text in texts), f"{name}, {steps} steps: {[t.tolist() for t in texts]}")
            worst = max(worst, apart)
    model.train()
    require(torch.equal(model(tokens).logits, trained), "steps_at_inference of config.json in training")
    model.eval()
    require(torch.equal(model(tokens, steps_at_inference=model.config.steps).logits, trained), "the argument does not win")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
        require(again.config.steps_at_inference == 4, f"{again.config.steps_at_inference} steps in config.json, expected 4")
    past = model(tokens, steps_at_inference=1).past_key_values
    for steps in (0, 2):
        refuses(f"{steps} steps after one", (f"{2 * L} layers", f"expected {(steps + 1) * L}"),
                lambda: model(tokens, past_key_values=past, steps_at_inference=steps))
    for wrong in (-1, 1.5, "two", True):
        refuses(f"{wrong!r} steps", ("steps_at_inference",), lambda: model(tokens, steps_at_inference=wrong))
        refuses(f"{wrong!r} steps in config.json", ("steps_at_inference",),
                lambda: getattr(CODE, SHAPES[architecture][0])(steps_at_inference=wrong, **ALL))
    return f"logits {worst:.1e}"


@torch.no_grad()
def check_cost(architecture):
    """Positions that each pass reads: the prompt once, then one a token. Without caches it is the whole text each time."""
    model, seen = build(architecture, **ALL), []
    model.base_model.register_forward_pre_hook(lambda module, args, inputs: seen.append(inputs["inputs_embeds"].shape[1]), with_kwargs=True)
    passes, prompt, new = model.config.steps + 1, 9, 6
    generate(model, random_tokens(1, prompt), new=new)
    expected = [prompt] * passes + [1] * (passes * (new - 1))
    require(seen == expected, f"passes read {seen} positions, expected {expected}")
    seen.clear()
    generate(model, random_tokens(1, prompt), new=new, use_cache=False)
    require(sum(seen) == passes * sum(range(prompt, prompt + new)), f"without caches passes read {seen} positions")
    # Where forward names it, version 5 makes it for each token of a model of remote code, and warns.
    require("cache_position" not in inspect.signature(model.forward).parameters, "cache_position is in forward's signature")
    return f"{sum(expected)} positions, without caches {sum(seen)}"


def check_training(architecture):
    """No cache and no other gradient in training or for a loss; with gradient checkpointing a cache is refused."""
    model, tokens = build(architecture, **ALL), random_tokens(2, 9)
    require(model(tokens, labels=tokens).past_key_values is None, "a cache was made for a loss")
    require(model(tokens).past_key_values is not None and model.config.use_cache, "no cache was made")
    model.config.steps_at_inference = 0
    model.train()
    require(model(tokens).past_key_values is None, "a cache was made in training")
    gradients = []
    for inputs in ({}, {"use_cache": False}, {"use_cache": True}):
        model.zero_grad()
        output = model(tokens, labels=tokens, **inputs)
        require((output.past_key_values is not None) == inputs.get("use_cache", False), f"a cache in training with {inputs}")
        output.loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    require(torch.equal(gradients[0], gradients[1]), "gradients differ from those with use_cache=False")
    apart = ((gradients[2] - gradients[0]).abs().max() / gradients[0].abs().max()).item()
    require(apart <= TOLERANCE, f"gradients with a cache differ by {apart:.1e}")
    getattr(model, "activation_checkpointing_enable" if hasattr(model, "activation_checkpointing_enable") else
            "gradient_checkpointing_enable")()
    model(tokens, labels=tokens).loss.backward()
    refuses("gradient checkpointing", ("gradient checkpointing", "use_cache=False"), lambda: model(tokens, use_cache=True))
    model.eval()
    require(torch.equal(generate(model, tokens), generate(model, tokens, use_cache=False)), "generate() of a checkpointed model")
    return f"gradients with a cache {apart:.1e}"


@torch.no_grad()
def check_refused(architecture):
    """Caches of other kinds, assistants, and caches that do not fit, each by its name."""
    model, tokens = build(architecture, **ALL), random_tokens(1, 6)
    for kind in ("static", "quantized", "offloaded", "offloaded_static"):
        refuses(f"cache_implementation={kind!r}", (repr(kind), "DynamicCache"), lambda: generate(model, tokens, cache_implementation=kind))
    new = hasattr(DynamicCache(), "layers")
    size = {"config": model.config, "max_cache_len": 16, **({} if new else {"max_batch_size": 1})}
    offloaded = None
    if new and torch.cuda.is_available():       # it makes a stream of the device
        offloaded = DynamicCache(offloading=True)
    elif not new:
        offloaded = transformers.OffloadedCache.__new__(transformers.OffloadedCache)
    for name, cache in (("StaticCache", StaticCache(**size)), ("tuple", ((tokens, tokens),) * L), ("ffloaded", offloaded)):
        if cache is not None:
            refuses(name, (name, "DynamicCache"), lambda: model(tokens, past_key_values=cache))
    for what in ({"assistant_model": model}, {"prompt_lookup_num_tokens": 2}):
        refuses(f"{list(what)}", ("assisted decoding",), lambda: generate(model, tokens, **what))
    if hasattr(model, "generate_batch"):
        refuses("continuous batching", ("continuous batching",), lambda: model.generate_batch([tokens[0].tolist()]))
        refuses("a paged cache", ("continuous batching",), lambda: generate(model, tokens, cache_implementation="paged"))

    stock = DynamicCache()      # as a stock model fills it
    for layer in range(L):
        stock.update(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8), layer)
    refuses("a stock model's cache", (f"{L} layers", f"expected {3 * L}"), lambda: model(tokens, past_key_values=stock))
    past = model(tokens).past_key_values
    refuses("a mask of the new tokens", ("2 columns", "expected 8"), lambda: model(tokens[:, :2], past_key_values=past,
                                                                               attention_mask=torch.ones(1, 2)))

    def stop(*_):
        raise KeyboardInterrupt
    hook = model.get_output_embeddings().register_forward_pre_hook(stop)        # pass 0 has filled its cache
    refuses("an interruption", (), lambda: model(tokens[:, :1], past_key_values=past), KeyboardInterrupt)
    hook.remove()
    refuses("a cache half filled", ("7 positions", "6 in its last"), lambda: model(tokens[:, :1], past_key_values=past))
    return "by name"


@torch.no_grad()
def check_pipeline():
    """pipeline("text-generation") of one prompt and of a padded batch, with and without caches; other steps go through it."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{f"w{i}": i for i in range(4, V)}}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="left")
    prompts = ["w5 w9 w33 w8 w4", "w7", "w12 w41 w6"]
    said = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)       # about a class that no checkpoint has brought
    generator = pipeline("text-generation", model=build("gpt2", **ALL), tokenizer=tokenizer, device="cpu")
    transformers.utils.logging.set_verbosity(said)

    def texts(**options):
        return [row[0]["generated_text"] for row in generator(prompts, max_new_tokens=6, do_sample=False, **options)]
    for options in ({}, {"steps_at_inference": 1}):
        expected = texts(use_cache=False, **options)
        require(texts(**options) == expected, f"{texts(**options)}, without caches {expected}")
        require(texts(batch_size=3, **options) == expected, f"{texts(batch_size=3, **options)} in a batch, {expected}")
    return f"{len(prompts)} prompts"


PROGRAMS = {"train_gpt2": "gpt2", "train_pythia": "gpt_neox", "train_llama": "llama"}
BYTES, NEW = 257, 12                    # a vocabulary that needs no tokenizer's files; tokens of a text
PROMPTS = ["int main(int arg", "if (size > 0 && text[size - 1] == '\\n') {", "/* Returns the s"]    # T ends the second
SAME = 2e-5                             # two logits so near may come in either order


def run_program(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    require(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def check_same(model, prompt, theirs, ours, penalty, what, **steps):
    """Tokens of the program against those of generate(): 0. Where they part, the two logits must be all but equal: 1."""
    apart = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), None)
    if apart is None:
        require(len(theirs) == len(ours), f"{what}: {theirs} by the program, {ours} by generate()")
        return 0
    text = torch.tensor([prompt + ours[:apart]])
    logits = model(text, use_cache=False, **steps).logits[0, -1]
    seen = text[0].unique()
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    best = logits.topk(2)
    require({theirs[apart], ours[apart]} == set(best.indices.tolist()) and best.values[0] - best.values[1] < SAME,
            f"{what}, token {apart}: {theirs[apart]} by the program, {ours[apart]} by generate(); the two best logits are "
            f"{best.values.tolist()}, of {best.indices.tolist()}")
    return 1


def compare_texts(program, model, folder, what, prompts, penalty=1.0, option=(), **steps):
    """Greedy texts of the program, two prompts at a time, against generate()'s. Returns them, and how many were only compared to
    where two logits are the same."""
    with open(folder + "/prompts.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in prompts)
    lines = run_program(program, "--model", folder, "--generate", "--prompt-file", folder + "/prompts.jsonl", "--batch", "2",
                        "--temperature", "0", "--sample-tokens", str(NEW), "--repetition-penalty", str(penalty), *option)
    lines = [json.loads(line) for line in lines.splitlines()]
    require([line["index"] for line in lines] == list(range(len(prompts))), f"{what}: {lines}")
    ends, parted = [2, 256], 0          # of config.json, and of bytes
    for size in {len(text) for text in prompts}:
        those = [i for i, text in enumerate(prompts) if len(text) == size]
        tokens, room = torch.tensor([list(prompts[i].encode()) for i in those]), min(NEW, T - size)
        texts = generate(model, tokens, new=room, eos_token_id=ends, repetition_penalty=penalty, **steps)[:, size:].tolist()
        for i, ours in zip(those, texts):
            end = next((n for n, token in enumerate(ours) if token in ends), None)
            stop = "eot" if end is not None else "length" if room == NEW else "context"
            early = check_same(model, list(prompts[i].encode()), lines[i]["tokens"], ours if end is None else ours[: end + 1], penalty,
                               f"{what}, {prompts[i]!r}", **steps)
            require(early or lines[i]["stop"] == stop, f"{what}, {prompts[i]!r}: ended by {lines[i]['stop']}, expected {stop}")
            parted += early
    return [line["tokens"] for line in lines], parted


def compare_logits(program, model, folder, what):
    """Largest difference of the program's logits of --dump from those of a sequence in chunks."""
    tokens = torch.tensor([list((PROMPTS[1] + PROMPTS[0]).encode())[:T]])
    training.write_shard(folder + "/row.bin", tokens[0].tolist() + [0])
    run_program(program, "--model", folder, "--train", folder + "/row.bin", "--seq", str(T), "--batch", "1", "--steps", "1", "--out",
                folder + "/unused", "--dump", folder + "/dump")
    ours = in_chunks(model, tokens, [5, 1, T - 6], None)
    apart = ((load_file(folder + "/dump/logits.safetensors")["logits"] - ours).abs().max() / ours.abs().max()).item()
    require(apart <= TOLERANCE, f"{what}: logits of the program differ by {apart:.1e} of the largest entry")
    return apart


@torch.no_grad()
def check_program(program, architecture):
    """--generate beside generate() with caches, from one directory, and logits."""
    worst, parted, texts, shown = 0.0, 0, 0, set()
    for name, settings in PONDERING.items():
        with tempfile.TemporaryDirectory() as folder:
            model = build(architecture, shape={"vocab_size": BYTES}, **settings)
            model.save_pretrained(folder)
            worst = max(worst, compare_logits(program, model, folder, name))
            ways = {"greedy": {}, "penalty": {"penalty": 3.0}}
            if settings.get("pondering_steps", 0) > 1:
                ways["another number of steps"] = {"option": ("--steps-at-inference", "1"), "steps_at_inference": 1, "penalty": 3.0}
            if settings is ALL:
                ways["steps in config.json"] = {"penalty": 3.0}
            found = {}
            for way, options in ways.items():
                if way == "steps in config.json":
                    model.config.steps_at_inference = 0
                    model.save_pretrained(folder)
                prompts = PROMPTS if way == "greedy" else PROMPTS[::2]
                tokens, early = compare_texts(program, model, folder, f"{name}, {way}", prompts, **options)
                parted, texts = parted + early, texts + len(tokens)
                found[way] = tokens[::2] if way == "greedy" else tokens
                if way != "greedy" and found[way] != found["greedy" if way == "penalty" else "penalty"]:
                    shown.add(way)
    require(len(shown) == 3, f"only these make other texts: {sorted(shown)}")
    return f"{texts} texts, {parted} of them to where two logits are the same; logits {worst:.1e}"


@torch.no_grad()
def speed():
    """Tokens/s of 256 tokens after a prompt of 16, with and without caches, in turns."""
    shape = {"vocab_size": 50304, "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048,
             "max_position_embeddings": 2048, "rotary_pct": 0.25}
    for steps in (0, 3):
        model = build("gpt_neox", shape=shape, ponderinglm=steps > 0, pondering_steps=steps, scale_embeds=True)
        tokens, rates = random_tokens(1, 16), {True: [], False: []}
        for use_cache in (True, False, True):
            start = time.perf_counter()
            generate(model, tokens, new=256, min_new_tokens=256, use_cache=use_cache)
            rates[use_cache].append(256 / (time.perf_counter() - start))
        cached, recomputed = (sorted(rates[key]) for key in (True, False))
        print(f"S={steps}, {torch.get_num_threads()} threads: with caches {cached[0]:.1f} to {cached[-1]:.1f} tokens/s, without "
              f"{recomputed[0]:.2f} to {recomputed[-1]:.2f}: {cached[-1] / recomputed[-1]:.1f} times")


def all_checks(programs=()):
    """[(name, function)]; a function raises Failed or returns a line of measurements."""
    cases = [("generation, pipeline", check_pipeline)]
    for architecture in SHAPES:
        for attention in ("sdpa", "eager"):
            cases += [(f"generation, {architecture}: {what}, {attention}", lambda check=check, architecture=architecture, attention=attention:
                       check(architecture, attention))
                      for what, check in (("logits", check_logits), ("texts", check_texts))]
        cases += [(f"generation, {architecture}: {what}", lambda check=check, architecture=architecture: check(architecture))
                  for what, check in (("continued", check_continued), ("steps", check_steps), ("cost", check_cost), ("training", check_training), ("refused", check_refused))]
    for program in programs:
        name = os.path.basename(program)
        architecture = next(PROGRAMS[known] for known in PROGRAMS if name.startswith(known))      # train_gpt2_emu too
        cases.append((f"generation, {name} --generate", lambda program=program, architecture=architecture:
                      check_program(program, architecture)))
    return cases


def main():
    if sys.argv[1:] == ["--speed"]:
        return speed()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")
    words = [word for word in sys.argv[1:] if "/" not in word]
    cases = all_checks([os.path.abspath(word) for word in sys.argv[1:] if "/" in word])
    run_tests([case for case in cases if not words or any(word in case[0] for word in words)])


if __name__ == "__main__":
    main()
