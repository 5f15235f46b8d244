"""The function that `model.generate(custom_generate=…)` calls in place of its own loop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nldc.api import load
from nldc.hf.asked import check_call, check_criteria, prompts_of, sampling_of
from nldc.hf.model import config_of, places_of, tensors_of
from nldc.runtime.checkpoint.parts import AUTO, AdapterChoice
from nldc.runtime.decoder import Decoder
from nldc.runtime.engine.call import Call
from nldc.runtime.errors import PromptError
from nldc.runtime.loading import Backend, load_on

SEEDS = 2**63 - 1


def custom_generate(
    artifact: str | Path,
    *,
    mask_token_id: int | None = None,
    adapter: AdapterChoice = AUTO,
    backend: Backend | None = None,
    kv_memory: str | int | None = None,
) -> CustomGenerate:
    """Return a compiled strategy as a `custom_generate` of transformers.

    `mask_token_id` stands for masked rows where the model's config names none. `adapter` "auto" is
    the folder `linear_spec_lora` of the checkpoint, if the model was loaded from a folder. The
    others are those of `Decoder.from_checkpoint`.

    Raises:
        ArtifactError: there is no artifact, or it is damaged.
    """
    return CustomGenerate(
        load(artifact),
        mask_token_id=mask_token_id,
        adapter=adapter,
        backend=backend,
        kv_memory=kv_memory,
    )


class CustomGenerate:
    """Decodes for any number of models, each with its own weights; see `custom_generate`.

    `copied` names the weights of the last model that could not be shared.
    """

    def __init__(
        self, kind: type[Decoder], *, mask_token_id: int | None = None, **loading: Any
    ) -> None:
        self.kind = kind
        self.copied: tuple[str, ...] = ()
        self._mask_token_id = mask_token_id
        self._loading = loading
        self._making = Lock()
        self._known: WeakKeyDictionary[Any, tuple[Mapping[str, Any], Decoder]] = WeakKeyDictionary()

    def decoder(self, model: Any) -> Decoder:
        """Return the decoder on a model's weights; made again where a weight was moved.

        Raises:
            CheckpointError: it is no model that can be decoded.
            AdapterError, BackendError: an adapter or a backend cannot be had.
        """
        with self._making:
            return self._decoder(model)

    def _decoder(self, model: Any) -> Decoder:
        places, decoder = self._known.get(model, (None, None))
        if decoder is not None and places == places_of(model):
            return decoder
        config = config_of(model, self._mask_token_id)
        folder = Path(str(model.name_or_path)) if model.name_or_path else None
        decoder, self.copied = load_on(
            self.kind,
            config,
            tensors_of(model, config),
            folder=folder if folder is not None and folder.is_dir() else None,
            **self._loading,
        )
        self._known[model] = (places_of(model), decoder)
        return decoder

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        *,
        seed: int | None = None,
        strategy: str | None = None,
        params: Mapping[str, int | float] | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """Return what `generate` does: prompts with what follows, int64 [B, n], filled up behind.

        `seed` keys the noise of sampling (None: drawn from torch's generator, as transformers
        draws its noise), `strategy` names one of an artifact's several, `params` are values of the
        params that a strategy leaves to requests.

        Raises:
            NldcRuntimeError: something is asked for that a strategy does not follow, or cannot be
                decoded.
        """
        # transformers hands a function none of these arguments: see whether they were given
        frame = sys._getframe(1)
        given = frame.f_locals if frame.f_code.co_name == "generate" else {}
        check_call(given)
        check_criteria(stopping_criteria)
        options = sampling_of(generation_config, logits_processor)
        prompts = prompts_of(input_ids, model_kwargs)
        if seed is None and generation_config.do_sample:
            seed = int(torch.randint(SEEDS, ()))
        ends = generation_config.eos_token_id
        options |= {
            "max_new_tokens": int(generation_config.max_length) - input_ids.shape[1],
            "eos": () if ends is None else [ends] if isinstance(ends, int) else list(ends),
            "seed": seed or 0,
            "strategy": strategy,
            "params": params,
        }
        decoder = self.decoder(model)
        streamer = given.get("streamer")
        if streamer is not None and len(prompts) > 1:
            raise PromptError(f"a streamer of {len(prompts)} texts", "give one prompt to stream")
        if streamer is None:
            found = decoder.generate(prompts, **options).tokens
        else:
            found = [_streamed(decoder, prompts[0], streamer, options)]
        return _returned(input_ids, found, generation_config)


def _streamed(
    decoder: Decoder, prompt: list[int], streamer: Any, options: Mapping[str, Any]
) -> list[int]:
    """Return the tokens of one prompt, each put to a streamer when it comes."""
    request = decoder.request(prompt, **options)
    try:
        for _, event in Call(decoder.engine, [request]).events():
            for token in event.tokens:
                streamer.put(torch.tensor([token]))
            if event.error is not None:
                raise event.error
    finally:
        streamer.end()
    return request.tokens


def _returned(input_ids: Tensor, found: list[list[int]], config: Any) -> Any:
    longest = max(map(len, found))
    pad = config.pad_token_id
    if pad is None:
        ends = config.eos_token_id
        pad = 0 if ends is None else ends if isinstance(ends, int) else ends[0]
    fresh = [[*tokens, *[pad] * (longest - len(tokens))] for tokens in found]
    behind = torch.tensor(fresh, dtype=input_ids.dtype, device=input_ids.device)
    sequences = torch.cat((input_ids, behind), 1)
    if not config.return_dict_in_generate:
        return sequences
    from transformers.generation import utils

    kind: Any = utils.GenerateDecoderOnlyOutput
    return kind(sequences=sequences)
