"""The twins by the model_type of their config.json; a pondering model's is ponder_<that of the plain one>."""

from gpt2 import GPT2
from llama import Llama
from pythia import Pythia

TWINS = {"gpt2": GPT2, "gpt_neox": Pythia, "llama": Llama}


def build(config):
    name = config["model_type"].removeprefix("ponder_")
    if name not in TWINS:
        raise ValueError(f"model_type {config['model_type']}: no PyTorch twin; there is one for {', '.join(TWINS)}")
    return TWINS[name](config)
