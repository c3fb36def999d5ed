#!/usr/bin/env bash
# Build the images with podman or docker, and write the list of packages of each to dist/. `make images` runs it.
#
#     infra/docker/build.sh [airflow jobs worker]
#
# CONTAINER_ENGINE names the program (default: podman, else docker), CONTAINER_OPTIONS its options before the command, BUILD_OPTIONS those of `build`.
set -euo pipefail
cd "$(dirname "$0")/../.."
engine=${CONTAINER_ENGINE:-$(command -v podman || command -v docker || true)}
test -n "$engine" || { echo "error: Neither podman nor docker is installed. Install one: apt-get install podman" >&2; exit 1; }
read -ra engine <<< "$engine ${CONTAINER_OPTIONS:-}"
read -ra options <<< "${BUILD_OPTIONS:-}"
# Podman's own format stores no health check.
[[ ${engine[0]} != *podman ]] || options+=(--format docker)
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' alchemist_core/__init__.py)
code_version=${CODE_VERSION:-$version+$(git describe --always --dirty --abbrev=12 --exclude "*")}
created=$(git show --no-patch --format=%cI)
mkdir -p dist
for name in "${@:-airflow jobs worker}"; do for image in $name; do
	echo "alchemist-$image:$version is built from $code_version."
	"${engine[@]}" build --quiet "${options[@]}" --file "infra/docker/$image.Dockerfile" --tag "alchemist-$image:$version" \
		--build-arg CODE_VERSION="$code_version" --build-arg VERSION="$version" --build-arg CREATED="$created" . > /dev/null
	"${engine[@]}" run --rm --interactive --network none --entrypoint python "alchemist-$image:$version" - --debian < infra/sbom.py > "dist/$image.cdx.json"
	"${engine[@]}" images --format '{{.Repository}}:{{.Tag}} {{.Size}}' "alchemist-$image:$version"
done; done
