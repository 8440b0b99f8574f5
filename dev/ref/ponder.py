"""Pondering language model in plain PyTorch: the part that knows no architecture. The twin of ponder.cuh.

An architecture is a subclass of PonderLM that has three methods: input_table() and output_table(), both (V,C), and
transform(e), one pass over (B,T,C) with the final norm included. Its parameters carry the Hugging Face names.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Pondering:
    """The pondering keys of config.json."""

    steps: int = 0              # S: passes before the last one
    scale: bool = False         # a = sqrt(C) on tokens and mixture
    multiply: bool = False      # start from S * e[0]
    temperature: float = 1.0    # of the mixture only
    top_k: int = 0              # mix only the k most probable tokens; 0: all

    def __post_init__(self):
        for name, value, least, most in (("steps", self.steps, 0, 64), ("temperature", self.temperature, 1e-3, 1e3),
                                         ("top_k", self.top_k, 0, 1 << 30)):
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}, expected {least:g} to {most:g}")

    @staticmethod
    def from_config(config):
        on = config.get("ponderinglm") or config.get("recurrent_model")
        steps = int(config.get("pondering_steps") or 0) if on else 0
        return Pondering(
            steps=steps,
            scale=bool(config.get("scale_embeds")),
            multiply=bool(config.get("mutiply_pondering_steps")) and steps > 0,     # spelt so; has no meaning without steps
            temperature=1.0 if config.get("softmax_temperature") is None else float(config["softmax_temperature"]),
            top_k=int(config.get("pondering_top_k") or 0),
        )


class PonderLM(nn.Module):
    def __init__(self, pondering):
        super().__init__()
        if pondering.multiply and pondering.steps == 0:
            raise ValueError("multiply_steps with no steps would multiply the input by zero")
        self.pondering = pondering

    def input_table(self):
        raise NotImplementedError

    def output_table(self):
        raise NotImplementedError

    def transform(self, e):
        raise NotImplementedError

    def passes(self, tokens):
        """tokens (B,T) -> the list h[0..S] of (B,T,C)."""
        settings, table = self.pondering, self.input_table()
        a = math.sqrt(table.shape[1]) if settings.scale else 1.0
        c = settings.steps if settings.multiply else 1
        e = c * a * F.embedding(tokens, table)
        h = [self.transform(e)]
        for _ in range(settings.steps):
            z = h[-1] @ self.output_table().T / settings.temperature
            if 0 < settings.top_k < z.shape[-1]:
                order = torch.sort(z, dim=-1, descending=True, stable=True).indices     # equals: lower id first
                z = z.scatter(-1, order[..., settings.top_k:], -math.inf)
            e = e + torch.softmax(z, dim=-1) @ (a * table)
            h.append(self.transform(e))
        return h

    def forward(self, tokens):
        """tokens (B,T) -> logits (B,T,V) of the last pass."""
        return self.passes(tokens)[-1] @ self.output_table().T

    def loss(self, tokens, targets):
        """What is trained: mean cross-entropy of the last pass."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def loss_of_each_pass(self, tokens, targets):
        """S+1 numbers; reported, never trained; the temperature is not applied."""
        table = self.output_table()
        return [F.cross_entropy((h @ table.T).flatten(0, 1), targets.flatten()).item() for h in self.passes(tokens)]
