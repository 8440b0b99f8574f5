"""Rotary positions, for the twins whose architecture has them."""

import math

import torch


def frequencies(size, base):
    """(size/2) angles that a pair turns by from one position to the next; float32 in any model, as everywhere else."""
    return 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))


def llama3(frequency, scaling):
    """Llama 3's frequencies for texts longer than the original ones, whose length `scaling` says: pairs that turn there more
    often than high_freq_factor times stay, those that turn less often than low_freq_factor times are slowed down
    `factor` times, and between them the share of the slowed frequency goes linearly with the number of turns."""
    wavelength = 2 * math.pi / frequency
    turns = scaling["original_max_position_embeddings"] / wavelength
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * frequency / scaling["factor"] + share * frequency


def tables(T, frequency, dtype):
    """cos and sin (T,size); the angles are float32."""
    angle = torch.arange(T, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    """x (B,NH,T,HS): the first `size` entries of each head are rotated, entry i together with i + size/2."""
    size = cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, rest], dim=-1)
