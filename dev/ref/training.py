"""What the twins are trained with: token shards, schedule, AdamW, and a run that records what a fixture holds."""

import math

import numpy
import torch

import architectures

SHARD_TYPES = {(20240520, 1): "<u2", (20240801, 7): "<u4"}      # header words 0 and 1 -> type of a token


def read_shard(path):
    header = numpy.fromfile(path, dtype="<i4", count=256)
    if len(header) < 256 or tuple(header[:2]) not in SHARD_TYPES:
        raise ValueError(f"{path}: not a token shard (magic and version {tuple(header[:2])})")
    tokens = numpy.fromfile(path, dtype=SHARD_TYPES[tuple(header[:2])], offset=1024)
    if len(tokens) != header[2]:
        raise ValueError(f"{path}: header says {header[2]} tokens, the file holds {len(tokens)}")
    return torch.from_numpy(tokens.astype(numpy.int64))


def write_shard(path, tokens, wide=False):
    header = numpy.zeros(256, dtype="<i4")
    header[:3] = (20240801, 7, len(tokens)) if wide else (20240520, 1, len(tokens))
    with open(path, "wb") as f:
        f.write(header.tobytes())
        f.write(numpy.asarray(tokens, dtype="<u4" if wide else "<u2").tobytes())


def batch_of(tokens, index, B, T):
    """Micro-batch number `index`: rows index*B .. index*B+B-1, row r being tokens r*T .. r*T+T."""
    rows = [tokens[r * T:r * T + T + 1] for r in range(index * B, index * B + B)]
    if len(rows[-1]) != T + 1:
        raise ValueError(f"not enough tokens for micro-batch {index} of {B} rows of {T}")
    rows = torch.stack(rows)
    return rows[:, :-1], rows[:, 1:]


def learning_rate(t, options):
    """Of the optimiser step number t = 0, 1, ..."""
    lr, steps, r = options["lr"], options["steps"], options["min_lr_ratio"]
    warmup = math.ceil(options["warmup_ratio"] * steps)
    if t < warmup:
        return lr * t / max(1, warmup)
    q = (t - warmup) / max(1, steps - warmup)
    if options["schedule"] == "cosine":
        return lr * (r + (1 - r) * 0.5 * (1 + math.cos(math.pi * q)))
    if options["schedule"] == "linear":
        return lr * (1 - (1 - r) * q)
    return lr


def make_optimiser(model, options):
    """AdamW; decay on every tensor of two dimensions or more, none on biases and norms."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": options["weight_decay"]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(options["beta1"], options["beta2"]), eps=options["eps"])


def optimiser_step(model, optimiser, micro_batches, lr, clip):
    """One step over its micro-batches; returns (mean loss, norm of the gradient before clipping, that gradient)."""
    optimiser.zero_grad(set_to_none=True)
    loss = 0.0
    for inputs, targets in micro_batches:
        part = model.loss(inputs, targets) / len(micro_batches)
        part.backward()
        loss += part.item()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip if clip > 0 else math.inf).item()
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    return loss, norm, gradient


def validate(model, tokens, options):
    B, T, batches = options["batch"], options["seq"], options["val_batches"]
    losses = [model.loss_of_each_pass(*batch_of(tokens, i, B, T)) for i in range(batches)]
    mean = [sum(one) / batches for one in zip(*losses)]
    return {"loss": mean[-1], "loss_of_each_pass": mean}


def run_case(config, weights, train, val, options, dtype=torch.float64):
    """Trains from float32 weights, in float64 as a fixture records it. Returns (expected, logits, gradient, final)."""
    model = architectures.build(config).to(dtype)
    model.load_state_dict({name: w.to(dtype) for name, w in weights.items()})
    B, T = options["batch"], options["seq"]
    accumulate = options["total_batch"] // (B * T)
    inputs, targets = batch_of(train, 0, B, T)
    with torch.no_grad():
        logits = model(inputs)
    losses = model.loss_of_each_pass(inputs, targets)
    expected = {
        "options": options,
        "first_micro_batch": {"loss": losses[-1], "loss_of_each_pass": losses},
        "training": [],
        "val_before": validate(model, val, options),
    }
    optimiser = make_optimiser(model, options)
    first_gradient = None
    for t in range(options["steps"]):
        micro_batches = [batch_of(train, t * accumulate + i, B, T) for i in range(accumulate)]
        lr = learning_rate(t, options)
        loss, norm, gradient = optimiser_step(model, optimiser, micro_batches, lr, options["clip"])
        first_gradient = first_gradient or gradient
        expected["training"].append({"step": t, "loss": loss, "grad_norm": norm, "lr": lr})
    expected["val_after"] = validate(model, val, options)
    return expected, logits, first_gradient, {name: p.detach() for name, p in model.state_dict().items()}
