#!/usr/bin/env bash
# install.sh VENV EXTRAS: install this checkout with its extras into a virtual environment.
# uv resolves and unpacks several times faster than pip, but it does not read pip's configuration: indexes, folders of wheels and
# constraints that this machine's owner has set are handed over to it.
set -euo pipefail
venv=$1 extras=$2
pip() { "$venv/bin/pip" --disable-pip-version-check "$@"; }
setting() { pip config get "global.$1" 2>/dev/null || true; }
export UV_LINK_MODE=copy UV_HTTP_TIMEOUT=300 VIRTUAL_ENV=$venv
find_links=${PIP_FIND_LINKS:-$(setting find-links)} index=${PIP_INDEX_URL:-$(setting index-url)}
extra_index=${PIP_EXTRA_INDEX_URL:-$(setting extra-index-url)} constraint=${PIP_CONSTRAINT:-$(setting constraint)}
[ -z "$find_links" ] || export UV_FIND_LINKS="${find_links// /,}"
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
[ -z "$extra_index" ] || export UV_INDEX="$extra_index"
[ -z "$constraint" ] || export UV_CONSTRAINT="$constraint"
pip install --quiet --root-user-action=ignore -c constraints.txt uv
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -c constraints.txt -e ".[$extras]"
