#!/usr/bin/env bash
# Print a tar of Debian with this machine's Python under /usr/local: a stand-in for the image that the Dockerfiles begin with.
#
#     python_base.sh FOLDER PYTHON_PREFIX
set -euo pipefail
folder=$1 python=$2
# One of both files is missing on most machines.
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2> /dev/null || true; } | grep -m 1 -oE 'https?://[^ ]+/debian/?( |$)' || true)
debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata trixie "$folder" "${mirror:-http://deb.debian.org/debian}" >&2
tar -C "$python" -cf - --exclude=site-packages --exclude=test --exclude=__pycache__ --exclude='*.a' \
	bin/python3.11 lib/python3.11 $(cd "$python" && ls -d lib/libpython3* 2> /dev/null) | tar -C "$folder/usr/local" -xf -
# How this machine reaches the registries of packages.
cp /etc/resolv.conf "$folder/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
for file in /etc/pip.conf /etc/uv/uv.toml /etc/apt/sources.list.d/debian.sources /etc/apt/apt.conf.d/*proxy*; do
	if test -e "$file"; then mkdir -p "$folder$(dirname "$file")" && cp "$file" "$folder$file"; fi
done
# A folder of wheels that pip is told to look into, for uv.
if test -n "${PIP_FIND_LINKS:-}"; then mkdir -p "$folder/etc/uv" && printf 'find-links = ["%s"]\n' "$PIP_FIND_LINKS" > "$folder/etc/uv/uv.toml"; fi
chroot "$folder" bash -euo pipefail >&2 << 'INSIDE'
apt-get update -qq
apt-get install -y -qq --no-install-recommends libbz2-1.0 libexpat1 libffi8 liblzma5 libreadline8t64 libsqlite3-0 libssl3t64 libuuid1 zlib1g
ldconfig
mkdir -p /usr/local/lib/python3.11/site-packages
ln -sf python3.11 /usr/local/bin/python3
ln -sf python3.11 /usr/local/bin/python
python -m ensurepip --default-pip
apt-get clean
rm -rf /var/lib/apt/lists/* /tmp/*
INSIDE
tar -C "$folder" -c .
