#!/bin/sh
# Make the virtual environment. Where there is no CUDA device, torch's CPU build is pinned first,
# so that the open range in pyproject.toml has nothing left to fetch.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TORCH_CPU=${TORCH_CPU:-2.13.0}

"$PYTHON" - <<'CHECK' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"nldc needs Python 3.11 or later, this is {sys.version.split()[0]}: set PYTHON=...")
CHECK

"$PYTHON" -m venv "$VENV"
if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
        echo "fetching torch with CUDA, some gigabytes"
        "$VENV/bin/pip" install -q 'torch>=2.11'
    else
        echo "fetching torch $TORCH_CPU for the CPU"
        "$VENV/bin/pip" install -q "torch==$TORCH_CPU"
    fi
fi
echo "installing nldc and what its tests and its server need: a few minutes"
"$VENV/bin/pip" install -q -e '.[dev]'
if "$VENV/bin/python" -c 'import triton, sys; sys.exit(not triton.__version__.startswith("3.6."))'
then
    "$VENV/bin/pip" install -q 'numpy<2.4'  # with a newer one triton 3.6 interprets no loops
fi
"$VENV/bin/nldc" doctor
