#!/bin/sh
# Install the public clients that `make test-serve` runs into a folder of their own: what they need
# must not change what the project is tested with. Without npm, one of them is left out.
set -eu
PYTHON=${PYTHON:-python3}
FOLDER=$1

"$PYTHON" -m venv "$FOLDER"
"$FOLDER/bin/pip" install -q --disable-pip-version-check 'schemathesis==4.32.5' 'lm-eval[api]==0.4.13' 'transformers==5.24.0'
if command -v npm >/dev/null 2>&1; then
    npm install --silent --no-fund --no-audit --prefix "$FOLDER" compatcanary@0.2.2
else
    echo 'npm is not there: compatcanary is left out' >&2
fi
