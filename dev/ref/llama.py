"""LLaMA in plain PyTorch, written from its equations: the twin of train_llama.cu.

RMSNorm before attention and MLP, rotary positions on whole heads, heads of keys and values shared by groups of queries,
SwiGLU, no biases. Parameters carry the names and the layout of a Hugging Face checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import nn

import rotary
from ponder import Pondering, PonderLM


def rotary_settings(config):
    """(base, settings of a scaling or None): rope_theta and rope_scaling, or both in rope_parameters."""
    scaling = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    base = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ValueError(f"rotary positions of type {kind}: the twin knows default and llama3")
    return base, scaling if kind == "llama3" else None


class RMSNorm(nn.Module):
    computes_in = None      # None: the model's own type. The usual implementation goes through float32 in any model.

    def __init__(self, C, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(C))
        self.eps = eps

    def forward(self, x):
        y = x.to(self.computes_in or x.dtype)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return y.to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, C, NH, NKV, HS):
        super().__init__()
        self.HS = HS
        self.q_proj = nn.Linear(C, NH * HS, bias=False)
        self.k_proj = nn.Linear(C, NKV * HS, bias=False)
        self.v_proj = nn.Linear(C, NKV * HS, bias=False)
        self.o_proj = nn.Linear(NH * HS, C, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape

        def heads(y):
            return y.view(B, T, -1, self.HS).transpose(1, 2)
        q = rotary.rotate(heads(self.q_proj(x)), cos, sin)
        k = rotary.rotate(heads(self.k_proj(x)), cos, sin)
        v = heads(self.v_proj(x))
        group = q.shape[1] // k.shape[1]        # queries 0 .. group-1 share the first head of keys and values, and so on
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, C, FF):
        super().__init__()
        self.gate_proj = nn.Linear(C, FF, bias=False)
        self.up_proj = nn.Linear(C, FF, bias=False)
        self.down_proj = nn.Linear(FF, C, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, C, NH, NKV, HS, FF, eps):
        super().__init__()
        self.input_layernorm = RMSNorm(C, eps)
        self.self_attn = Attention(C, NH, NKV, HS)
        self.post_attention_layernorm = RMSNorm(C, eps)
        self.mlp = MLP(C, FF)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, NH, eps = config["hidden_size"], config["num_attention_heads"], config.get("rms_norm_eps", 1e-6)
        NKV, HS = config.get("num_key_value_heads") or NH, config.get("head_dim") or C // NH
        base, scaling = rotary_settings(config)
        frequency = rotary.frequencies(HS, base)
        self.frequency = rotary.llama3(frequency, scaling) if scaling else frequency
        self.embed_tokens = nn.Embedding(config["vocab_size"], C)
        self.layers = nn.ModuleList(
            Layer(C, NH, NKV, HS, config["intermediate_size"], eps) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(C, eps)

    def forward(self, e):
        cos, sin = rotary.tables(e.shape[1], self.frequency, e.dtype)
        x = e
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Llama(PonderLM):
    def __init__(self, config):
        super().__init__(Pondering.from_config(config))
        self.model = Trunk(config)
        if not config.get("tie_word_embeddings", False):
            self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def input_table(self):
        return self.model.embed_tokens.weight

    def output_table(self):
        return self.lm_head.weight if hasattr(self, "lm_head") else self.model.embed_tokens.weight

    def transform(self, e):
        return self.model(e)
