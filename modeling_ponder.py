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
with: generate(..., steps_at_inference=2), or model.config.steps_at_inference (null: as trained). multiply stays as trained.

Each pass attends only to its own keys of earlier positions, so with pondering_steps + 1 caches a further token costs one
position a pass, and the text is that of recomputing everything. past_key_values holds them all, an ordinary DynamicCache with
the layers of every pass one after the other: generate(), beams, padding on the left and pipelines use it as of any other model.
Works with transformers 4.49 and 5.
"""

import math
import numbers

import torch
from torch import nn
from transformers import (
    DynamicCache,
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
        steps_at_inference=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.ponderinglm = bool(ponderinglm or recurrent_model)
        self.pondering_steps = pondering_steps
        self.scale_embeds = scale_embeds
        self.mutiply_pondering_steps = mutiply_pondering_steps
        self.softmax_temperature = softmax_temperature
        self.pondering_top_k = pondering_top_k
        self.steps_at_inference = steps_at_inference
        _ = self.steps, self.run_steps(None, training=False), self.mix_temperature, self.mix_top_k  # refused here already

    # The settings as forward uses them, null being the neutral value; they may have been changed since. (Plain
    # temperature and top_k are names that generate() reads.)

    @property
    def steps(self):
        """Passes before the last one."""
        steps = 0 if self.pondering_steps is None else self.pondering_steps
        return _checked("pondering_steps", steps, int, 0, 1 << 30) if self.ponderinglm else 0

    def run_steps(self, asked, training):
        """Passes before the last one in a call that asked for that many (None: it did not)."""
        if asked is None and not training:
            asked = self.steps_at_inference
        return self.steps if asked is None else _checked("steps_at_inference", asked, int, 0, 1 << 30)

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


class PonderCache:
    """The caches of all passes over one text, in a DynamicCache with passes * layers layers, pass 0 first.

    The DynamicCache is the caller's, who has it reordered, cropped and copied as that of any model: nothing is kept here from
    one call of forward to the next. transformers 5 holds its layers as objects, version 4.49 as two lists of tensors."""

    def __init__(self, cache, passes, layers):
        self.cache, self.layers = cache, layers
        if type(cache) is not DynamicCache or getattr(cache, "offloading", False):
            kind = "an offloaded DynamicCache" if type(cache) is DynamicCache else f"a {type(cache).__name__}"
            raise ValueError(f"past_key_values is {kind}, expected a DynamicCache: a pondering model has a cache for each pass")
        self.length = cache.get_seq_length()  # positions that have been read
        if self.length == 0:
            self._clear(passes * layers)
        if len(cache) != passes * layers:
            raise ValueError(
                f"past_key_values has {len(cache)} layers, expected {passes * layers}: {passes} passes of {layers}. A text "
                "goes on with the number of pondering steps that it was begun with"
            )
        last = cache.get_seq_length(len(cache) - 1)  # which is filled last
        if last != self.length:
            raise ValueError(
                f"past_key_values has {self.length} positions in its first layer, {last} in its last one: a forward was "
                "interrupted; begin with a new cache"
            )

    def _clear(self, layers):
        # In place, because the caller goes on with it. generate() makes one of as many layers as the model has, and
        # version 5 does not let it grow.
        if hasattr(self.cache, "layers"):
            kind = DynamicCache().layer_class_to_replicate
            self.cache.layers[:] = [kind() for _ in range(layers)]
        else:
            self.cache.key_cache[:] = [[] for _ in range(layers)]
            self.cache.value_cache[:] = [[] for _ in range(layers)]

    def of_pass(self, s):
        """Pass s's own cache. Its length is its own too: while pass 0 runs, the first layers grow before the others."""
        part, view = slice(s * self.layers, (s + 1) * self.layers), DynamicCache()
        if hasattr(view, "layers"):
            view.layers = self.cache.layers[part]
        else:
            view.key_cache, view.value_cache = self.cache.key_cache[part], self.cache.value_cache[part]
        return view

    def keep(self, s, filled):
        """Takes over what pass s has filled, in version 4.49: the lists of of_pass() or, from its GPT-2, pairs of tensors."""
        if not hasattr(self.cache, "layers"):
            part, pairs = slice(s * self.layers, (s + 1) * self.layers), list(filled)
            self.cache.key_cache[part] = [keys for keys, _ in pairs]
            self.cache.value_cache[part] = [values for _, values in pairs]
            self.cache._seen_tokens = self.cache.get_seq_length()


class PonderModel:
    """Pondering, on top of any stock model with a base_model that takes inputs_embeds, and two tables."""

    _supports_cache_class = True  # version 4.49 asks; its GPT-2 says no, and is given pairs of tensors by _pass()

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

    def _pass(self, s, e, caches, **inputs):
        """Output of the base model for e (B,T,C); its keys and values are appended to pass s's cache, if there are caches."""
        if caches is None:
            return self.base_model(inputs_embeds=e, use_cache=False, return_dict=True, **inputs)
        past = caches.of_pass(s)
        if not getattr(self.base_model, "_supports_cache_class", True):
            past = tuple(zip(past.key_cache, past.value_cache)) if caches.length else None
        output = self.base_model(inputs_embeds=e, past_key_values=past, use_cache=True, return_dict=True, **inputs)
        caches.keep(s, output.past_key_values)
        return output

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        num_items_in_batch=None,
        steps_at_inference=None,
        **unused,
    ):
        """As the stock forward, from input_ids (B,T) to logits (B,T,V) and, with labels, the loss. input_ids go on after what
        past_key_values holds, attention_mask covers both. use_cache: whether a cache is returned; unless said, none is when
        training or with labels. Attentions and hidden states are those of the last pass."""
        self._refuse(input_ids, unused)
        config = self.config
        steps = config.run_steps(steps_at_inference, self.training)
        if use_cache is None:
            use_cache = past_key_values is not None or (config.use_cache and not self.training and labels is None)
        cache = DynamicCache() if use_cache and past_key_values is None else past_key_values
        caches = None
        if cache is not None:
            caches = PonderCache(cache, steps + 1, config.num_hidden_layers)
            self._check_cached(caches, input_ids, attention_mask)
        embed, head = self.get_input_embeddings(), self.get_output_embeddings()
        table = embed.weight
        scale = math.sqrt(config.hidden_size) if config.scale_embeds else 1.0
        # Without steps not 0, which would erase the input. As trained, whatever number of steps runs now.
        multiply = config.steps if config.mutiply_pondering_steps and config.steps else 1
        wide = torch.promote_types(table.dtype, torch.float32)  # the sum e stays in float32 in a half-precision model

        def transform(s, e, **outputs):
            inputs = {"attention_mask": attention_mask, "position_ids": position_ids, **outputs}
            return self._pass(s, e.to(table.dtype), caches, **inputs)

        e = multiply * scale * embed(input_ids).to(wide)
        for s in range(steps):
            p = self._guess(transform(s, e).last_hidden_state)
            e = e + scale * (p.to(table.dtype) @ table).to(wide)
        wanted = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        last = transform(steps, e, **{name: value for name, value in wanted.items() if value is not None})

        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = head(last.last_hidden_state[:, keep, :])
        loss = None
        if labels is not None:
            extra = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=config.vocab_size, **extra)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache if use_cache else None,
            hidden_states=last.hidden_states,
            attentions=last.attentions,
        )
        return output.to_tuple() if return_dict is False else output

    def _refuse(self, input_ids, unused):
        """Inputs that forward would have to ignore."""
        if input_ids is None or unused.get("inputs_embeds") is not None:
            raise ValueError("a pondering model starts from input_ids: it mixes the embeddings of its own table")
        for name in ("token_type_ids", "head_mask", "encoder_hidden_states"):
            if unused.get(name) is not None:
                raise ValueError(f"a pondering model does not know {name}")

    def _check_cached(self, caches, input_ids, attention_mask):
        """What would be computed wrongly, in silence, with a cache."""
        if self.training and any(getattr(module, "gradient_checkpointing", False) for module in self.modules()):
            raise ValueError("gradient checkpointing fills no cache: pass use_cache=False, or call model.eval()")
        columns = caches.length + input_ids.shape[1]
        if caches.length and attention_mask is not None and attention_mask.dim() == 2 and attention_mask.shape[1] != columns:
            raise ValueError(
                f"attention_mask has {attention_mask.shape[1]} columns, expected {columns}: {caches.length} positions in "
                f"past_key_values and {input_ids.shape[1]} in input_ids"
            )

    # What generate() and generate_batch() call, in 4.49 and 5, before they make a cache or an assistant.

    def _prepare_cache_for_generation(self, generation_config, *args, **kwargs):
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation is {generation_config.cache_implementation!r}, expected None or 'dynamic': a pondering "
                "model has a cache for each pass, and only a DynamicCache holds them"
            )
        return super()._prepare_cache_for_generation(generation_config, *args, **kwargs)

    def _get_candidate_generator(self, *args, **kwargs):
        raise ValueError("a pondering model does not do assisted decoding (assistant_model, prompt_lookup_num_tokens)")

    def init_continuous_batching(self, *args, **kwargs):
        raise ValueError("a pondering model has a cache for each pass: continuous batching, with a paged cache, has one")


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
