"""Pondering GPT-2, GPT-NeoX (Pythia) and LLaMA for transformers; lies in a checkpoint of ponder.c and is loaded from there:

    AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)

Each is the stock model, run pondering_steps + 1 times over the whole sequence. Between two passes every position
guesses its next token, and the embeddings of all tokens, mixed by the probabilities of that guess, are added to its input:

    e = multiply * scale * W_in[token]
    repeat pondering_steps times:
        p = softmax(transformer(e) W_out^T / temperature)
        e = e + p (scale * W_in)
    logits = transformer(e) W_out^T

The transformer adds positions by itself, in every pass (GPT-2's learned ones too): e never holds them.

Settings in config.json, with their neutral values: ponderinglm (false: no steps), pondering_steps (0), scale_embeds
(false; true: scale is sqrt(hidden_size)), mutiply_pondering_steps (spelt so; false; true: multiply is pondering_steps, if any),
softmax_temperature (1.0), pondering_top_k (0: mix all tokens). A model may be run with another number of steps than it was trained
with: set model.config.pondering_steps.

Each pass attends to its own keys only, so an ordinary key-value cache does not fit: generate() recomputes everything for
each token. Works with transformers 4.49 and 5.
"""

import math
import numbers

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.modeling_outputs import CausalLMOutputWithPast


def _checked(name, value, kind, least, most):
    """value as a number of that kind; another one would compute another model than the one that was trained."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and least <= value <= most and kind(value) == value):
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {value!r}, expected {what} of {least:g} to {most:g}")
    return kind(value)


class PonderConfig:
    """The pondering settings, on top of a stock configuration."""

    def __init__(
        self,
        ponderinglm=False,
        recurrent_model=False,
        pondering_steps=0,
        scale_embeds=False,
        mutiply_pondering_steps=False,
        softmax_temperature=1.0,
        pondering_top_k=0,
        use_cache=False,
        **kwargs,
    ):
        super().__init__(use_cache=use_cache, **kwargs)
        self.ponderinglm = bool(ponderinglm or recurrent_model)
        self.pondering_steps = pondering_steps
        self.scale_embeds = scale_embeds
        self.mutiply_pondering_steps = mutiply_pondering_steps
        self.softmax_temperature = softmax_temperature
        self.pondering_top_k = pondering_top_k
        _ = self.steps, self.mix_temperature, self.mix_top_k  # refused here already

    # The settings as forward uses them, null being the neutral value; they may have been changed since. (Plain
    # temperature and top_k are names that generate() reads.)

    @property
    def steps(self):
        """Passes before the last one."""
        steps = 0 if self.pondering_steps is None else self.pondering_steps
        return _checked("pondering_steps", steps, int, 0, 1 << 30) if self.ponderinglm else 0

    @property
    def mix_temperature(self):
        temperature = 1.0 if self.softmax_temperature is None else self.softmax_temperature
        return _checked("softmax_temperature", temperature, float, 1e-3, 1e3)

    @property
    def mix_top_k(self):
        """Tokens in the mixture; 0: all."""
        return _checked("pondering_top_k", 0 if self.pondering_top_k is None else self.pondering_top_k, int, 0, 1 << 30)


# transformers 5 gives a configuration class an __init__ of its own, unless it has one: so each names it.
class PonderGPT2Config(PonderConfig, GPT2Config):
    model_type = "ponder_gpt2"
    __init__ = PonderConfig.__init__


class PonderGPTNeoXConfig(PonderConfig, GPTNeoXConfig):
    model_type = "ponder_gpt_neox"
    __init__ = PonderConfig.__init__


class PonderLlamaConfig(PonderConfig, LlamaConfig):
    model_type = "ponder_llama"
    __init__ = PonderConfig.__init__


class PonderModel:
    """Pondering, on top of any stock model with a base_model that takes inputs_embeds, and two tables."""

    def _guess(self, hidden):
        """Probabilities of the next token (B,T,V), in float32 or better."""
        z = self.get_output_embeddings()(hidden)
        z = z.to(torch.promote_types(z.dtype, torch.float32)) / self.config.mix_temperature
        k = self.config.mix_top_k
        if 0 < k < z.shape[-1]:
            # Equals at the threshold: as many as there is room for, lower token ids first.
            threshold = z.topk(k, dim=-1).values[..., -1:]
            above, equal = z > threshold, z == threshold
            room = k - above.sum(-1, keepdim=True)
            z = z.masked_fill(~(above | (equal & (equal.cumsum(-1) <= room))), -math.inf)
        return torch.softmax(z, dim=-1)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        labels=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        num_items_in_batch=None,
        **unused,
    ):
        """As the stock forward, from input_ids (B,T) to logits (B,T,V) and, with labels, the loss. No cache is filled;
        attentions and hidden states are those of the last pass."""
        if input_ids is None or unused.get("inputs_embeds") is not None:
            raise ValueError("a pondering model starts from input_ids: it mixes the embeddings of its own table")
        for name in ("token_type_ids", "head_mask", "encoder_hidden_states"):
            if unused.get(name) is not None:
                raise ValueError(f"a pondering model does not know {name}")
        cache = unused.get("past_key_values")
        if cache is not None and (cache.get_seq_length() if hasattr(cache, "get_seq_length") else len(cache)) > 0:
            raise ValueError("a pondering model needs the whole sequence in input_ids, not a cache of its beginning")
        config = self.config
        embed, head = self.get_input_embeddings(), self.get_output_embeddings()
        table = embed.weight
        scale = math.sqrt(config.hidden_size) if config.scale_embeds else 1.0
        # Without steps not 0, which would erase the input.
        multiply = config.steps if config.mutiply_pondering_steps and config.steps else 1
        wide = torch.promote_types(table.dtype, torch.float32)  # the sum e stays in float32 in a half-precision model

        def transform(e, **outputs):
            return self.base_model(
                inputs_embeds=e.to(table.dtype),
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
                return_dict=True,
                **outputs,
            )

        e = multiply * scale * embed(input_ids).to(wide)
        for _ in range(config.steps):
            p = self._guess(transform(e).last_hidden_state)
            e = e + scale * (p.to(table.dtype) @ table).to(wide)
        wanted = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        last = transform(e, **{name: value for name, value in wanted.items() if value is not None})

        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = head(last.last_hidden_state[:, keep, :])
        loss = None
        if labels is not None:
            extra = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=config.vocab_size, **extra)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=last.hidden_states, attentions=last.attentions
        )
        return output.to_tuple() if return_dict is False else output

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        """The whole sequence each time, whatever cache generate() has made. Padding on the left is not counted."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": 1}
        if attention_mask is not None:
            inputs["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return inputs


class PonderGPT2LMHeadModel(PonderModel, GPT2LMHeadModel):
    config_class = PonderGPT2Config

    def __init__(self, config):
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # transformers reads it off a class's name, but not off this one's


class PonderGPTNeoXForCausalLM(PonderModel, GPTNeoXForCausalLM):
    config_class = PonderGPTNeoXConfig
    # transformers 5 names the head lm_head and renames what it reads, but only for model types that it knows. The
    # tensor is called embed_out in every checkpoint, so the module is too. Version 5 wants a dict here, version 4 a list.
    _tied_weights_keys = (
        {"embed_out.weight": "gpt_neox.embed_in.weight"}
        if isinstance(GPTNeoXForCausalLM._tied_weights_keys, dict)
        else ["embed_out.weight"]
    )
    _tp_plan = {}
    _pp_plan = {}

    def __init__(self, config):
        super(GPTNeoXForCausalLM, self).__init__(config)  # past the stock class, which would add a head of its own
        self.gpt_neox = GPTNeoXModel(config)
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.embed_out

    def set_output_embeddings(self, new_embeddings):
        self.embed_out = new_embeddings


class PonderLlamaForCausalLM(PonderModel, LlamaForCausalLM):
    config_class = PonderLlamaConfig
