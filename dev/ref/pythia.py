"""Pythia (GPT-NeoX) in plain PyTorch, written from its equations: the twin of train_pythia.cu.

Parallel residual x + attention(norm1(x)) + mlp(norm2(x)), biases everywhere but in the head, GELU by erf, rotary
positions on the first part of each head. Parameters carry the names and the layout of a Hugging Face checkpoint.
"""

import torch.nn.functional as F
from torch import nn

import rotary
from ponder import Pondering, PonderLM

PRESETS = {     # layers, width, heads; MLP 4 * width, vocabulary 50304
    "pythia-14m": (6, 128, 4),
    "pythia-31m": (6, 256, 8),
    "pythia-70m": (6, 512, 8),
    "pythia-160m": (12, 768, 12),
    "pythia-410m": (24, 1024, 16),
}


def preset(name, **more):
    """The config.json of a preset as a dict; more: further keys, for instance the pondering ones."""
    layers, width, heads = PRESETS[name]
    return {
        "model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": 4 * width, "max_position_embeddings": 2048,
        "rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "tie_word_embeddings": False, **more,
    }


def rotary_settings(config):
    """(share of the head that is rotated, base): three spellings exist, and older files say rope_scaling for rope_parameters."""
    newer = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = newer.get("rope_type", newer.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rotary positions of type {kind}: the twin knows default")
    share = newer.get("partial_rotary_factor", config.get("rotary_pct", config.get("partial_rotary_factor", 0.25)))
    base = newer.get("rope_theta", config.get("rotary_emb_base", config.get("rope_theta", 10000)))
    return share, base


class Attention(nn.Module):
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.query_key_value = nn.Linear(C, 3 * C)
        self.dense = nn.Linear(C, C)

    def forward(self, x, cos, sin):
        B, T, C = x.shape
        qkv = self.query_key_value(x).view(B, T, self.NH, 3 * (C // self.NH)).transpose(1, 2)   # per head [q|k|v]
        q, k, v = qkv.chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin), v, is_causal=True)
        return self.dense(out.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, C, FF):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(C, FF)
        self.dense_4h_to_h = nn.Linear(FF, C)

    def forward(self, x):
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x)))


class Layer(nn.Module):
    def __init__(self, C, NH, FF, eps):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(C, eps=eps)
        self.post_attention_layernorm = nn.LayerNorm(C, eps=eps)
        self.attention = Attention(C, NH)
        self.mlp = MLP(C, FF)

    def forward(self, x, cos, sin):
        return x + self.attention(self.input_layernorm(x), cos, sin) + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, NH, eps = config["hidden_size"], config["num_attention_heads"], config.get("layer_norm_eps", 1e-5)
        share, base = rotary_settings(config)
        self.frequency = rotary.frequencies(int(C // NH * share), base)
        self.embed_in = nn.Embedding(config["vocab_size"], C)
        self.layers = nn.ModuleList(
            Layer(C, NH, config["intermediate_size"], eps) for _ in range(config["num_hidden_layers"]))
        self.final_layer_norm = nn.LayerNorm(C, eps=eps)

    def forward(self, e):
        cos, sin = rotary.tables(e.shape[1], self.frequency, e.dtype)
        x = e
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.final_layer_norm(x)


class Pythia(PonderLM):
    def __init__(self, config):
        super().__init__(Pondering.from_config(config))
        self.gpt_neox = Trunk(config)
        if not config.get("tie_word_embeddings", False):
            self.embed_out = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def input_table(self):
        return self.gpt_neox.embed_in.weight

    def output_table(self):
        return self.embed_out.weight if hasattr(self, "embed_out") else self.gpt_neox.embed_in.weight

    def transform(self, e):
        return self.gpt_neox(e)
