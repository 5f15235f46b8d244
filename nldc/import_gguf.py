"""Turn a Llama model in GGUF into a checkpoint folder that generated decoders load.

Weights are dequantised, or kept in their 8 or 4 bits where a checkpoint can hold them so. Rows of
the query and key projections go back from llama.cpp's order (each rotated pair side by side) to the
half-split one, and a tied head becomes a tensor of its own. What ends a text goes into
generation_config.json: all that llama.cpp would stop at. The folder appears whole or not at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nldc.gguf_file import GgufFile
from nldc.gguf_numbers import BITS, GROUP, Numbers, numbers_of
from nldc.gguf_tokenizer import Vocabulary, build_tokenizer, choose_mask, settings
from nldc.runtime.checkpoint.config import parse_config
from nldc.runtime.checkpoint.folder import (
    Described,
    check_free,
    write_folder,
    write_json,
    write_tensors,
)
from nldc.runtime.checkpoint.quantization import KEY, scheme
from nldc.runtime.checkpoint.quantization import settings as quantization
from nldc.runtime.errors import CheckpointError, NldcRuntimeError

if TYPE_CHECKING:
    import numpy.typing as npt

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""What weights may be stored as, by their names in a safetensors header."""
BLOCK_SIZE = 32


@dataclass(frozen=True)
class Report:
    """What was imported. `formats` counts the tensors of the file by how they were quantised;
    those of the formats in `kept` were kept so.
    """

    source: Path
    out: Path
    parameters: int
    formats: Mapping[str, int]
    dtype: str
    tied_head: bool
    mask_token_id: int
    mask_token: str
    ends: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = self._listed(kept=True)
        formats = self._listed(kept=False) + (f"; kept as they are: {kept}" if kept else "")
        head = "; the head, tied to the embedding, was written out" if self.tied_head else ""
        return (
            f"imported {self.source.name} to {self.out}: "
            f"{self.parameters / 1e6:.1f} M parameters in {self.dtype}{head}\n"
            f"dequantised from {formats}\n"
            f"mask token {self.mask_token_id} `{self.mask_token}`\n"
            f"a text ends at {', '.join(f'`{text}`' for text in self.ends) or 'no token'}"
        )

    def _listed(self, *, kept: bool) -> str:
        found = sorted(item for item in self.formats.items() if (item[0] in self.kept) == kept)
        return ", ".join(f"{count} {name}" for name, count in found)


@dataclass(frozen=True)
class Geometry:
    """The numbers of a Llama model, as its GGUF fields give them."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    theta: float
    eps: float
    scale: float


def import_gguf(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str | None = None,
    mask_token: int | str | None = None,
    keep_quantised: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Write the model of the GGUF file `source` as a checkpoint into the new folder `out`.

    `dtype` is what weights are stored as and computed in: float32, float16 or bfloat16. With
    `keep_quantised`, matrices in Q8_0, Q4_0 and Q4_1 stay in their bits, and the dtype is by itself
    bfloat16, in which there are products of them; else it is float32. `mask_token`, an id or a
    token's text, stands for masked rows; `choose_mask` tells what is taken without it. The
    checkpoint decodes causally as the original does; for parallel decoding it has to be trained.
    `progress` is told how many tensors of how many have been written.

    Raises:
        CheckpointError: `source` cannot be imported, or `out` cannot be written.
        TokenizerError: the file's tokenizer is damaged.
    """
    source, out = Path(source), Path(out)
    dtype = dtype or ("bfloat16" if keep_quantised else "float32")
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype!r} is not supported", "use " + ", ".join(DTYPES))
    check_free(out)
    file = GgufFile.open(source)
    try:
        geometry = _geometry(file.fields)
        vocabulary = Vocabulary.of(file.fields)
        mask = choose_mask(vocabulary, mask_token)
        config = _config(geometry, vocabulary, mask, dtype)
        parse_config(config, "the model")
        tied = "output.weight" not in file.tensors
        # of one layer more than there are tensors, one is missing: no need to list a billion layers
        layers = min(geometry.layers, len(file.tensors) + 1)
        tensors = _tensors(replace(geometry, layers=layers), len(vocabulary.tokens), tied)
        _check(file, tensors)
        if keep_quantised:
            tensors = {name: _kept(file, tensor) for name, tensor in tensors.items()}
            config |= _quantization(tensors)
        tokenizer = build_tokenizer(vocabulary)
    except NldcRuntimeError as problem:
        raise type(problem)(f"{source}: {problem.message}", problem.hint) from problem

    def write(folder: Path) -> None:
        write_json(folder / "config.json", config)
        write_json(folder / "tokenizer_config.json", settings(vocabulary, mask, geometry.context))
        # the library's own `save` raises a plain Exception where the disk is full
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        ends: dict[str, object] = {"eos_token_id": list(vocabulary.ends)}
        if vocabulary.bos is not None:
            ends["bos_token_id"] = vocabulary.bos
        write_json(folder / "generation_config.json", ends)
        if vocabulary.chat_template is not None:
            (folder / "chat_template.jinja").write_text(vocabulary.chat_template, encoding="utf-8")
        _write_weights(folder / "model.safetensors", file, tensors, dtype, progress)

    write_folder(out, write)
    return Report(
        source=source,
        out=out,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        formats=Counter(file.format_of(name) for name in file.tensors),
        dtype=dtype,
        tied_head=tied,
        mask_token_id=mask,
        mask_token=vocabulary.tokens[mask],
        ends=tuple(vocabulary.tokens[end] for end in vocabulary.ends),
        kept=tuple(sorted({tensor.kept for tensor in tensors.values() if tensor.kept})),
    )


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the checkpoint: which of the file it is, and as how many heads to reorder.

    `kept` is the format whose numbers it stays in, if it does.
    """

    source: str
    shape: tuple[int, ...]
    heads: int = 0
    kept: str = ""


def _tensors(geometry: Geometry, vocabulary: int, tied: bool) -> dict[str, _Tensor]:
    hidden, mlp, dim = geometry.hidden, geometry.mlp, geometry.head_dim
    query, key = geometry.heads * dim, geometry.kv_heads * dim
    embedding = "token_embd.weight"
    found = {"encoder.embed_tokens.weight": _Tensor(embedding, (vocabulary, hidden))}
    for layer in range(geometry.layers):
        for name, own, shape, heads in (
            ("input_layernorm", "attn_norm", (hidden,), 0),
            ("post_attention_layernorm", "ffn_norm", (hidden,), 0),
            ("self_attn.q_proj", "attn_q", (query, hidden), geometry.heads),
            ("self_attn.k_proj", "attn_k", (key, hidden), geometry.kv_heads),
            ("self_attn.v_proj", "attn_v", (key, hidden), 0),
            ("self_attn.o_proj", "attn_output", (hidden, query), 0),
            ("mlp.gate_proj", "ffn_gate", (mlp, hidden), 0),
            ("mlp.up_proj", "ffn_up", (mlp, hidden), 0),
            ("mlp.down_proj", "ffn_down", (hidden, mlp), 0),
        ):
            target = f"encoder.layers.{layer}.{name}.weight"
            found[target] = _Tensor(f"blk.{layer}.{own}.weight", shape, heads)
    found["encoder.norm.weight"] = _Tensor("output_norm.weight", (hidden,))
    head = embedding if tied else "output.weight"
    found["diffusion_head.weight"] = _Tensor(head, (vocabulary, hidden))
    return found


def _check(file: GgufFile, wanted: Mapping[str, _Tensor]) -> None:
    """Raise unless the file holds exactly the tensors wanted, whole, in their shapes."""
    for tensor in wanted.values():
        name = tensor.source
        if name not in file.tensors:
            raise CheckpointError(
                f"tensor `{name}` is missing",
                "the file holds no whole model of the plain Llama architecture",
            )
        if file.tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"tensor `{name}` has the shape {list(file.tensors[name].shape)}, "
                f"not {list(tensor.shape)}",
                "the file's fields and tensors contradict one another",
            )
        file.check(name)
    extra = sorted(set(file.tensors) - {tensor.source for tensor in wanted.values()})
    if extra:
        raise CheckpointError(
            f"tensor `{extra[0]}` is not part of a plain Llama model",
            "biases, experts and rotary factors are not supported",
        )


def half_split(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return a projection [heads * head_dim, hidden] with the rows of each head un-interleaved.

    llama.cpp rotates neighbours, so it stores feature j and j + head_dim / 2 of a head as rows
    2j and 2j + 1.
    """
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _geometry(fields: Mapping[str, Any]) -> Geometry:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"the architecture is `{architecture}`, not `llama`",
            "models of the Llama architecture can be imported",
        )

    def number(name: str, default: float | None = None) -> float:
        value = fields.get(f"llama.{name}", default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise _unfit(name, value)
        return value

    def whole(name: str, default: int | None = None) -> int:
        value = number(name, default)
        if not isinstance(value, int):
            raise _unfit(name, value)
        return value

    heads, hidden = whole("attention.head_count"), whole("embedding_length")
    head_dim = whole("attention.key_length", max(1, hidden // heads))
    for name, plain in (
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("expert_count", 0),
        ("attention.sliding_window", 0),
    ):
        value = fields.get(f"llama.{name}", plain)
        if value != plain:
            raise CheckpointError(
                f"llama.{name} = {value!r} is not supported",
                f"the importer knows models with {plain!r} there",
            )
    return Geometry(
        layers=whole("block_count"),
        hidden=hidden,
        mlp=whole("feed_forward_length"),
        heads=heads,
        kv_heads=whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        context=whole("context_length"),
        theta=_decimal(number("rope.freq_base", 10000.0)),
        eps=_decimal(number("attention.layer_norm_rms_epsilon")),
        scale=_rope_scale(fields),
    )


def _rope_scale(fields: Mapping[str, Any]) -> float:
    """Return by what positions are divided, as llama.cpp reads the fields.

    Without a type, scaling is linear; its factor has an old name too, and 0 means none.
    """
    kind = fields.get("llama.rope.scaling.type", "linear")
    if kind == "none":
        return 1.0
    value = fields.get("llama.rope.scaling.factor", fields.get("llama.rope.scale_linear"))
    said = "llama.rope.scaling.type" in fields
    if kind != "linear" or (said and value is None):
        raise CheckpointError(
            f"llama.rope.scaling.type = {kind!r} is not supported",
            "the importer knows models with 'none' there, or 'linear' with a factor",
        )
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e6:
        raise _unfit("rope.scaling.factor", value)
    return _decimal(value) or 1.0


def _unfit(name: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"the field llama.{name} is {'missing' if value is None else repr(value)}",
        "convert the model again with a current converter",
    )


def _decimal(value: float) -> float:
    """Return the shortest decimal that is the same in float32: 1e-05, not 9.99999974e-06."""
    import numpy

    return float(str(numpy.float32(value)))


def _rope(geometry: Geometry) -> dict[str, object]:
    scaling = {} if geometry.scale == 1 else {"factor": geometry.scale}
    kind = "linear" if scaling else "default"
    return {"rope_type": kind, "rope_theta": geometry.theta, **scaling}


def _config(geometry: Geometry, vocabulary: Vocabulary, mask: int, dtype: str) -> dict[str, object]:
    return {
        "architectures": ["NemotronLabsDiffusionModel"],
        "model_type": "nemotron_labs_diffusion",
        "hidden_size": geometry.hidden,
        "intermediate_size": geometry.mlp,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "vocab_size": len(vocabulary.tokens),
        "rms_norm_eps": geometry.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "mask_token_id": mask,
        "block_size": BLOCK_SIZE,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": list(vocabulary.eos),
        "tie_word_embeddings": False,
        "max_position_embeddings": geometry.context,
        "rope_parameters": _rope(geometry),
        "dlm_paradigm": "bidirectional",
        "torch_dtype": dtype,
    }


def _kept(file: GgufFile, tensor: _Tensor) -> _Tensor:
    """Return a tensor as one that keeps its format, if that is one that a checkpoint can hold."""
    form = file.format_of(tensor.source)
    return replace(tensor, kept=form) if form in BITS and len(tensor.shape) == 2 else tensor


def _quantization(tensors: Mapping[str, _Tensor]) -> dict[str, object]:
    """Return the key of the config that says which matrices are quantised, if any are."""
    names: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2:
            names.setdefault(tensor.kept, []).append(name.removesuffix(".weight"))
    plain = names.pop("", [])
    if not names:
        return {}
    groups = {
        form: scheme(BITS[form], GROUP, symmetric=form != "Q4_1", targets=own)
        for form, own in names.items()
    }
    return {KEY: quantization(groups, ignore=plain, own="Q4_1" in names)}


def _write_weights(
    path: Path,
    file: GgufFile,
    tensors: Mapping[str, _Tensor],
    dtype: str,
    progress: Callable[[int, int], object] | None,
) -> None:
    described: dict[str, Described] = {}
    for name, tensor in tensors.items():
        described |= _described(name, tensor, dtype)
    write_tensors(path, described, _encoded(file, tensors, dtype, progress))


def _described(name: str, tensor: _Tensor, dtype: str) -> dict[str, Described]:
    """Return what is written of a tensor, in the order of `_encoded`."""
    if not tensor.kept:
        return {name: (DTYPES[dtype], tensor.shape)}
    out, width = tensor.shape
    scales = (out, width // GROUP)
    found: dict[str, Described] = {
        f"{name}_packed": ("I32", (out, width * BITS[tensor.kept] // 32)),
        f"{name}_scale": ("F16", scales),
        f"{name}_shape": ("I64", (2,)),
    }
    if tensor.kept == "Q4_1":
        found[f"{name}_shift"] = ("F16", scales)
    return found


def _encoded(
    file: GgufFile,
    tensors: Mapping[str, _Tensor],
    dtype: str,
    progress: Callable[[int, int], object] | None,
) -> Iterator[Any]:
    import torch

    kind = getattr(torch, dtype)
    for number, tensor in enumerate(tensors.values()):
        if progress is not None:
            progress(number, len(tensors))
        if tensor.kept:
            yield from _numbers(file, tensor)
            continue
        values = file.read(tensor.source)
        if tensor.heads:
            values = half_split(values, tensor.heads)
        yield torch.from_numpy(values).contiguous().to(kind).view(torch.uint8).numpy().data


def _numbers(file: GgufFile, tensor: _Tensor) -> Iterator[Any]:
    """Yield the bytes of a matrix that keeps its numbers."""
    import numpy

    rows = file.read_stored(tensor.source)
    if tensor.heads:
        rows = half_split(rows, tensor.heads)
    found: Numbers = numbers_of(rows, tensor.kept)
    yield found.packed().data
    yield found.scale.data
    yield numpy.array(tensor.shape, dtype="<i8").data
    if found.least is not None:
        yield found.least.data
