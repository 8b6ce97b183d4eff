#!/usr/bin/env bash
# Creates .venv and installs the project with its development tools: with uv when it is on the machine, else venv and pip.
# Usage: tools/install.sh PYTHON [EXTRA]
set -euo pipefail
cd "$(dirname "$0")/.."
python="$1"
target=".${2:+[$2]}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Sardonyx needs Python 3.11 or newer; $("$python" --version) found. Set PYTHON=/path/to/python3.11." >&2
  exit 2
}
if command -v uv >/dev/null 2>&1; then
  [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
  install=(uv pip install --quiet --python .venv/bin/python)
  # uv does not read pip's settings: a local folder of wheels named there is passed on.
  [ -z "${PIP_FIND_LINKS:-}" ] || install+=(--find-links "$PIP_FIND_LINKS")
else
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
  install=(.venv/bin/python -m pip install --quiet)
fi
# Setuptools announces the editable install with a page of warnings; a failure still stops here with its reason.
PYTHONWARNINGS=ignore "${install[@]}" -c constraints.txt --group dev -e "$target" --config-settings editable_mode=strict
