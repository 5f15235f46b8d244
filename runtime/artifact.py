"""The check of a generated folder against its manifest, before any of its code runs.

An artifact belongs to one version of the compiler and is not edited: the strategy file is. Imports
no torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from nldc import __version__
from nldc.runtime.abi import ABI_VERSION, MANIFEST
from nldc.runtime.errors import ArtifactError
from nldc.runtime.json_file import read_json

COMPILE = "compile the strategy first: nldc compile STRATEGY.yaml -o FOLDER"
AGAIN = "compile the strategy again: nldc compile STRATEGY.yaml -o FOLDER"


def check_artifact(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of the artifact in `folder`.

    Raises:
        ArtifactError: no artifact, one of another compiler version, or a file that is missing or
            not as it was generated.
    """
    path = Path(folder) / MANIFEST
    if Path(folder).is_file():
        raise ArtifactError(f"{folder} is a file; an artifact is a folder", COMPILE)
    try:
        manifest = read_json(path)
        compiler, abi, files = manifest["compiler"], manifest["abi"], dict(manifest["files"])
        missing = {"strategy", "guarantee"} - set(manifest)
        if missing or not all(isinstance(name, str) and name.isprintable() for name in files):
            raise ValueError(f"it lacks {', '.join(sorted(missing)) or 'names of files'}")
    except FileNotFoundError:
        raise ArtifactError(f"{folder} holds no artifact: {MANIFEST} is missing", COMPILE) from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        reason = f"it lacks {problem}" if isinstance(problem, KeyError) else problem
        raise ArtifactError(f"{path} is damaged: {reason}", AGAIN) from problem
    if compiler != __version__:
        raise ArtifactError(
            f"{folder} was compiled by nldc {compiler}; this is nldc {__version__}", AGAIN
        )
    if abi != ABI_VERSION:
        raise ArtifactError(
            f"{folder} was compiled for runtime interface {abi}; this runtime has {ABI_VERSION}",
            AGAIN,
        )
    for file in sorted(Path(folder).rglob("*.py")):
        if file.relative_to(folder).as_posix() not in files:
            raise ArtifactError(f"{file} is not among the files of {path}", AGAIN)
    for name, digest in sorted(files.items()):
        file = Path(folder) / name
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise ArtifactError(f"{file} is missing", AGAIN) from None
        except OSError as problem:
            raise ArtifactError(f"{file} cannot be read: {problem}", AGAIN) from problem
        if found != digest:
            raise ArtifactError(
                f"{file} was edited by hand after it was generated",
                "change the strategy file and compile again; generated code is overwritten",
            )
    return dict(manifest)
