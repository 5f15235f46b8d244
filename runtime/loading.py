"""From a checkpoint's folder to a decoder: its weights, its adapters, where they are computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.parts import AUTO, LOG, AdapterChoice, Declared, choose_folders
from nldc.runtime.checkpoint.sampler import SamplerWeights
from nldc.runtime.checkpoint.tensors import dtype_of
from nldc.runtime.checkpoint.weights import EMBEDDING, Progress, load_weights, own_dtype
from nldc.runtime.cpu.available import why_not
from nldc.runtime.cpu.numbers import NUMBERS
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.blocked import Arena
from nldc.runtime.invariant.linear import Weight
from nldc.runtime.invariant.quantised import Quantised
from nldc.runtime.invariant.quantised_ways import pack_for_kernels, pack_weight
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Backend as ModelBackend
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.sharing import share_weights

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

Backend = Literal["torch", "triton", "numba"]
D = TypeVar("D", bound="Decoder")


def load(
    kind: type[D],
    path: str | Path | None,
    adapter: AdapterChoice,
    dtype: str | torch.dtype | None,
    device: str | torch.device | None,
    backend: Backend | None,
    kv_memory: str | int | None,
    graphs: bool | None,
    progress: Progress | None,
    *,
    ahead_only: bool = False,
) -> D:
    """Return a decoder of this kind with a checkpoint's weights; see `Decoder.from_checkpoint`."""
    if path is None:
        path = Path(str(resources.files("nldc") / "demo"))
    folder = Path(path)
    config = ModelConfig.load(folder)
    place = _device(device)
    number = own_dtype(folder, config) if dtype is None else dtype_of(dtype)
    chosen = _backend(backend, place, number, config, kernels=kind.KERNELS)
    why = ""
    if chosen == "torch":
        why = why_torch(place, number, config, kernels=kind.KERNELS) or "as asked"
    LOG.info("model %s in %s on %s", folder, str(number).removeprefix("torch."), place)
    LOG.info("backend %s%s", chosen, f": {why}" if why else "")
    folders = choose_folders(adapter, folder, kind.declared())
    adapters = _load_parts(kind.declared(), folders, config, number, place)
    for name, own in folders.items():
        LOG.info("adapter %s from %s", name, own)
    began = time.perf_counter()
    forms: dict[Backend, Callable[[Tensor | Quantised], Weight]] = {
        "torch": pack_weight,
        "triton": pack_for_kernels,
        "numba": Arena().blocked,
    }
    weights = load_weights(folder, config, number, place, form=forms[chosen], progress=progress)
    LOG.info("read its weights in %.2f s", time.perf_counter() - began)
    backbone = Backbone(config, weights, number, place)
    decoder = kind(
        backbone,
        adapters=adapters,
        backend=chosen,
        folder=folder,
        kv_memory=kv_memory,
        graphs=graphs,
    )
    decoder.adapters_by_folder.update({folders[name]: adapters[name] for name in folders})
    _say_notes(decoder, ahead_only=ahead_only)
    return decoder


def _load_parts(
    declared: Declared,
    folders: Mapping[str, Path],
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Adapter | Sampler]:
    """Return what is in each folder, by the name that the strategy has for it."""
    return {
        name: Sampler(SamplerWeights.load(folder, device))
        if name in declared.samplers
        else Adapter.load(folder, config, dtype, device)
        for name, folder in folders.items()
    }


def _say_notes(decoder: Decoder, *, ahead_only: bool) -> None:
    for note in (*_ahead(decoder, only=ahead_only), *decoder.notes):
        LOG.warning("%s", note)


def load_on(
    kind: type[D],
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    folder: Path | None = None,
    adapter: AdapterChoice = None,
    backend: Backend | None = None,
    kv_memory: str | int | None = None,
    graphs: bool | None = None,
) -> tuple[D, tuple[str, ...]]:
    """Return a decoder of this kind on weights that are there, and the names of those it copied.

    `tensors` have the names of a released checkpoint, one dtype and one device; see
    `share_weights`, which may move them. `folder` is where `adapter` "auto" looks; the other
    options are those of `Decoder.from_checkpoint`.

    Raises:
        AdapterError, BackendError: what was asked for cannot be loaded.
    """
    some = tensors[EMBEDDING]
    number, place = some.dtype, some.device
    chosen = _backend(backend, place, number, config, kernels=kind.KERNELS)
    if folder is None and adapter == AUTO:
        adapter = None
    folders = choose_folders(adapter, folder or Path(), kind.declared())
    adapters = _load_parts(kind.declared(), folders, config, number, place)
    shared = share_weights(tensors, config)
    backbone = Backbone(config, shared.weights, number, place)
    decoder = kind(backbone, adapters=adapters, backend=chosen, kv_memory=kv_memory, graphs=graphs)
    _say_notes(decoder, ahead_only=False)
    return decoder, shared.copied


def _ahead(decoder: Decoder, *, only: bool) -> tuple[str, ...]:
    """Let a decoder use the kernels that its artifact carries; see `ahead.use`."""
    if decoder.backend != "triton":
        if only:
            raise BackendError(
                f"the decoder computes with {decoder.backend}, not with kernels for a GPU",
                AHEAD_ONLY,
            )
        return ()
    from nldc.runtime.ahead import use
    from nldc.runtime.kernels.device import current_target

    return use(decoder, current_target(), only=only)


AHEAD_ONLY = "leave --ahead-only out, or use a GPU"


def load_beside(kind: type[D], other: Decoder, adapter: AdapterChoice) -> D:
    """Return a decoder of this kind on the weights of another; see `Decoder.beside`."""
    backbone, names = other.model.backbone, kind.declared().names
    if isinstance(adapter, Mapping):
        adapter = {name: folder for name, folder in adapter.items() if name in names}
    choice = adapter if names else None
    folders = choose_folders(choice, other.folder or Path(), kind.declared())
    loaded = other.adapters_by_folder
    new = {name: folder for name, folder in folders.items() if folder not in loaded}
    place = backbone.config, backbone.dtype, backbone.device
    for name, part in _load_parts(kind.declared(), new, *place).items():
        loaded[folders[name]] = part
    decoder = kind(
        backbone,
        adapters={name: loaded[folder] for name, folder in folders.items()},
        backend=other.backend,
        folder=other.folder,
        kv_memory=other.kv_memory,
        graphs=other.graphs,
    )
    decoder.eye = other.eye
    for note in (*_ahead(decoder, only=False), *kind.declared().missing(decoder.model.parts)):
        LOG.warning("%s", note)
    return decoder


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise BackendError(f"device {str(device)!r} is unknown", "use cpu, cuda or cuda:N")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise BackendError("there is no CUDA device that torch can use", "use device cpu")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise BackendError(f"there is no device {place}", f"the last one is cuda:{last}")
    return place


def why_torch(
    device: torch.device,
    dtype: torch.dtype,
    config: ModelConfig | None = None,
    *,
    kernels: bool = True,
) -> str | None:
    """Return why a decoder computes with torch if nobody says otherwise; None: it has kernels.

    `kernels` says whether it was compiled with them. On a CPU they are taken for checkpoints with
    quantised weights; without a `config` it is one of those.
    """
    if device.type == "cpu":
        if config is not None and not config.quantised:
            return "kernels for cpu are for weights of 8 and 4 bits"
        return _why_not_numba(dtype, config)
    if not kernels:
        return "the decoder was compiled without kernels"
    if dtype == torch.float64:
        return "the kernels do not compute in float64"
    return None


def _why_not_numba(dtype: torch.dtype, config: ModelConfig | None) -> str | None:
    if dtype not in NUMBERS:
        return f"the kernels do not compute in {str(dtype).removeprefix('torch.')}"
    return why_not() if config is None else why_not(NUMBERS[dtype], config.head_dim)


def _backend(
    backend: Backend | None,
    device: torch.device,
    dtype: torch.dtype,
    config: ModelConfig,
    *,
    kernels: bool,
) -> Backend:
    if backend is None:
        if why_torch(device, dtype, config, kernels=kernels) is not None:
            return "torch"
        return "numba" if device.type == "cpu" else "triton"
    if backend == "torch":
        return backend
    if backend == "numba":
        if device.type != "cpu":
            raise BackendError(f"numba has no kernels for {device}", "use device cpu, or triton")
        why = _why_not_numba(dtype, config)
        if why is not None:
            remedy = "use backend torch"
            raise BackendError(why, remedy if dtype in NUMBERS else f"{remedy}, or dtype float32")
        return backend
    if backend != "triton":
        raise BackendError(f"backend {backend!r} is unknown", "use torch, triton or numba")
    if not kernels:
        raise BackendError(
            "the decoder was compiled without kernels", "compile it with kernels, or use torch"
        )
    from nldc.runtime.kernels.device import check_device

    check_device(device)
    if dtype == torch.float64:
        raise BackendError("the kernels do not compute in float64", "use backend torch")
    return backend


def backend_of(backend: Backend, backbone: Backbone) -> ModelBackend[Any]:
    """Return what computes with the weights of a backbone, by its name."""
    if backend == "torch":
        return TorchBackend(backbone)
    if backend == "numba":
        from nldc.runtime.model.numba_backend import NumbaBackend

        return NumbaBackend(backbone)
    from nldc.runtime.model.triton_backend import TritonBackend

    return TritonBackend(backbone)
