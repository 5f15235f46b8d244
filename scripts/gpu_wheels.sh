#!/bin/sh
# Fetch the wheels that a bare GPU machine (Python 3.12, torch, no network) may lack into a folder,
# for `scripts/gpu_report.py --wheels` and `scripts/bare_tests.py --wheels`. Torch, triton and numpy come with the machine.
set -eu
PYTHON=${PYTHON:-python3}
FOLDER=${1:-.wheels}
mkdir -p "$FOLDER"
rm -f "$FOLDER"/*.whl
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$FOLDER" \
    annotated-types click execnet gguf hypothesis iniconfig jinja2 markdown-it-py markupsafe \
    mdurl networkx packaging pluggy pydantic pygments pytest pytest-xdist pyyaml rich safetensors \
    sortedcontainers tokenizers tqdm typing-extensions typing-inspection
# pydantic wants one version of its core exactly.
core=$(unzip -p "$FOLDER"/pydantic-*.whl '*/METADATA' |
    sed -n 's/^Requires-Dist: pydantic-core *\(==[0-9.]*\).*/\1/p' | head -n 1)
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$FOLDER" "pydantic-core$core"
du -sh "$FOLDER"
