"""GPT-2 in plain PyTorch, written from its equations: the twin of train_gpt2.cu.

Learned positions inside every pass, norms before attention and MLP, GELU in its tanh form, biases everywhere but in
the head. Parameters carry the names and the layout of a Hugging Face checkpoint: a product's weight lies as (in,out).
"""

import torch
import torch.nn.functional as F
from torch import nn

from ponder import Pondering, PonderLM


class Conv1D(nn.Module):
    """x W + b; Hugging Face gives it the name of a convolution of width 1."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.c_attn = Conv1D(C, 3 * C)
        self.c_proj = Conv1D(C, C)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.NH, C // self.NH).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(out.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, C, FF):
        super().__init__()
        self.c_fc = Conv1D(C, FF)
        self.c_proj = Conv1D(FF, C)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, C, NH, FF, eps):
        super().__init__()
        self.ln_1 = nn.LayerNorm(C, eps=eps)
        self.attn = Attention(C, NH)
        self.ln_2 = nn.LayerNorm(C, eps=eps)
        self.mlp = MLP(C, FF)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Trunk(nn.Module):
    def __init__(self, config):
        super().__init__()
        C, eps = config["n_embd"], config.get("layer_norm_epsilon", 1e-5)
        FF = config.get("n_inner") or 4 * C
        self.wte = nn.Embedding(config["vocab_size"], C)
        self.wpe = nn.Embedding(config["n_positions"], C)
        self.h = nn.ModuleList(Layer(C, config["n_head"], FF, eps) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(C, eps=eps)

    def forward(self, e):
        x = e + self.wpe.weight[:e.shape[1]]        # in every pass anew: e itself never holds positions
        for layer in self.h:
            x = layer(x)
        return self.ln_f(x)


class GPT2(PonderLM):
    def __init__(self, config):
        super().__init__(Pondering.from_config(config))
        self.transformer = Trunk(config)
        if not config.get("tie_word_embeddings", True):
            self.lm_head = nn.Linear(config["n_embd"], config["vocab_size"], bias=False)

    def input_table(self):
        return self.transformer.wte.weight

    def output_table(self):
        return self.lm_head.weight if hasattr(self, "lm_head") else self.transformer.wte.weight

    def transform(self, e):
        return self.transformer(e)
