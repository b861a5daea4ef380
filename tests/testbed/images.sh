#!/usr/bin/env bash
# Build the test images from Debian packages and push them to the loopback registry.
#   images.sh base       busybox and python
#   images.sh physics    physics-select, physics-stats and physics-plot: large, on request only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=common.sh
. ./common.sh

PATH_SETTING='ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
scratch=''
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT

# Both engines get it from the registry, so they agree on its digest.
publish() { # tarball name tag
  local image=$REGISTRY/testbed/$2:$3
  podman import --quiet --change "$PATH_SETTING" --change 'CMD ["/bin/sh"]' "$1" "$image" >/dev/null
  podman push --quiet "$image"
}

build_busybox() {
  is_pushed registry testbed/busybox 1 && return 0
  say 'building busybox'
  local root=$scratch/busybox
  mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp,usr/bin,var/tmp}
  chmod 1777 "$root/tmp" "$root/var/tmp"
  cp /bin/busybox "$root/bin/busybox"
  local applet
  for applet in $(/bin/busybox --list); do
    case $applet in busybox | bash | python*) continue ;; esac
    ln -s busybox "$root/bin/$applet"
  done
  ln -s ../../bin/env "$root/usr/bin/env"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  tar -C "$root" -cf "$scratch/busybox.tar" .
  publish "$scratch/busybox.tar" busybox 1
}

build_python() {
  is_pushed registry testbed/python 3.11 && return 0
  say 'building python (Debian 12, minbase, python3)'
  # python3, not python3-minimal, which lacks json.
  mmdebstrap --quiet --variant=minbase --include=python3 \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$STATE/python.part.tar" "$(mirror)"
  mv "$STATE/python.part.tar" "$STATE/python.tar"
  publish "$STATE/python.tar" python 3.11
}

push_private() {
  is_pushed private-registry testbed/busybox 1 && return 0
  podman push --quiet --creds "$PRIVATE_USER:$PRIVATE_PASSWORD" \
    "$REGISTRY/testbed/busybox:1" "$PRIVATE_REGISTRY/testbed/busybox:1"
}

# What the examples import, at the versions of uv.lock: one layer on top of python.
build_physics() { # name package...
  local name=$1 context=$scratch/$1 versions=$STATE/$1.versions
  shift
  "$uv" export --quiet --frozen --only-group examples --no-hashes --no-header --no-annotate \
    --directory ../.. --output-file "$scratch/locked.txt" >/dev/null
  # The stamp stands for what was asked for: a newer lock builds anew.
  { printf '%s\n' "$@"; cat "$scratch/locked.txt"; } >"$scratch/versions"
  if cmp -s "$scratch/versions" "$versions" && is_pushed registry "testbed/$name" 1; then
    return 0
  fi
  say "building $name"
  mkdir -p "$context"
  "$uv" pip install --quiet --only-binary :all: --link-mode copy --target "$context/site" \
    --python-version 3.11 --python-platform "$(uname -m)-unknown-linux-gnu" \
    --constraint "$scratch/locked.txt" "$@"
  rm -rf "$context/site/bin"
  cat >"$context/Containerfile" <<CONF
FROM $REGISTRY/testbed/python:3.11
COPY site /usr/lib/python3/dist-packages
RUN python3 -m compileall -q -j 0 /usr/lib/python3/dist-packages
CONF
  podman build --quiet --squash --network none --tag "$REGISTRY/testbed/$name:1" "$context" \
    >/dev/null
  podman push --quiet "$REGISTRY/testbed/$name:1"
  mv "$scratch/versions" "$versions"
  rm -rf "$context"
}

# The uv that runs this script, if one does; the one that bootstrap.py fetched; or any other.
find_uv() {
  local candidate
  for candidate in "${UV:-}" uv ../../.uv/bin/uv; do
    [ -n "$candidate" ] && command -v "$candidate" && return 0
  done
  say 'no uv found: run bootstrap.py setup' >&2
  return 1
}

take_lock
scratch=$(mktemp -d "$STATE/build.XXXXXX")
case ${1:-base} in
  base)
    build_busybox
    build_python
    push_private
    ;;
  physics)
    uv=$(find_uv)
    build_python
    build_physics physics-select uproot awkward numpy hist vector
    build_physics physics-stats pyhf numpy scipy
    build_physics physics-plot mplhep hist matplotlib scipy
    ;;
  *)
    printf 'usage: %s base|physics\n' "$0" >&2
    exit 2
    ;;
esac
