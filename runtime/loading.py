"""From a checkpoint's folder to a decoder: its weights, its adapters, where they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.checkpoint.parts import LOG, AdapterChoice, choose_folders
from nldc.runtime.checkpoint.tensors import dtype_of
from nldc.runtime.checkpoint.weights import Progress, load_weights, own_dtype
from nldc.runtime.errors import BackendError
from nldc.runtime.invariant.quantised_ways import pack_for_kernels, pack_weight
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Backend as ModelBackend
from nldc.runtime.model.torch_backend import TorchBackend

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

Backend = Literal["torch", "triton"]
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
    chosen = _backend(backend, place, number, kernels=kind.KERNELS)
    folders = choose_folders(adapter, folder, kind.declared())
    adapters = {
        name: Adapter.load(source, config, number, place) for name, source in folders.items()
    }
    form = pack_for_kernels if chosen == "triton" else pack_weight
    weights = load_weights(folder, config, number, place, form=form, progress=progress)
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
    for note in _ahead(decoder, only=ahead_only):
        LOG.warning("%s", note)
    for note in decoder.notes:
        LOG.warning("%s", note)
    return decoder


def _ahead(decoder: Decoder, *, only: bool) -> tuple[str, ...]:
    """Let a decoder use the kernels that its artifact carries; see `ahead.use`."""
    if decoder.backend != "triton":
        if only:
            raise BackendError("the decoder computes with torch, not with kernels", AHEAD_ONLY)
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
    for folder in folders.values():
        if folder not in loaded:
            loaded[folder] = Adapter.load(folder, backbone.config, backbone.dtype, backbone.device)
    decoder = kind(
        backbone,
        adapters={name: loaded[folder] for name, folder in folders.items()},
        backend=other.backend,
        folder=other.folder,
        kv_memory=other.kv_memory,
        graphs=other.graphs,
    )
    for note in (*_ahead(decoder, only=False), *kind.declared().missing(decoder.model.adapters)):
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


def why_torch(device: torch.device, dtype: torch.dtype, *, kernels: bool = True) -> str | None:
    """Return why a decoder computes with torch if nobody says otherwise; None: it has kernels.

    `kernels` says whether it was compiled with them.
    """
    if device.type != "cuda":
        return f"there are no kernels for {device.type}"
    if not kernels:
        return "the decoder was compiled without kernels"
    if dtype == torch.float64:
        return "the kernels do not compute in float64"
    return None


def _backend(
    backend: Backend | None, device: torch.device, dtype: torch.dtype, *, kernels: bool
) -> Backend:
    if backend is None:
        return "triton" if why_torch(device, dtype, kernels=kernels) is None else "torch"
    if backend == "torch":
        return backend
    if backend != "triton":
        raise BackendError(f"backend {backend!r} is unknown", "use torch or triton")
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
    from nldc.runtime.model.triton_backend import TritonBackend

    return TritonBackend(backbone)
