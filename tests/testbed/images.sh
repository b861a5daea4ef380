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

take_lock
scratch=$(mktemp -d "$STATE/build.XXXXXX")
case ${1:-base} in
  base)
    build_busybox
    build_python
    push_private
    ;;
  *)
    printf 'usage: %s base|physics\n' "$0" >&2
    exit 2
    ;;
esac
