#!/usr/bin/env bash
# Build the test images from Debian packages and push them to the loopback registry.
#   images.sh base       busybox and python, their odd relatives, and the same as files
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

# One static program under two names, and nothing that could run a script.
build_noshell() {
  is_pushed registry testbed/noshell 1 && return 0
  say 'building noshell'
  local root=$scratch/noshell
  mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp}
  chmod 1777 "$root/tmp"
  cp /bin/busybox "$root/bin/echo"
  ln -s echo "$root/bin/true"
  tar -C "$root" -cf "$scratch/noshell.tar" .
  podman import --quiet --change "$PATH_SETTING" --change 'CMD ["/bin/true"]' \
    "$scratch/noshell.tar" "$REGISTRY/testbed/noshell:1" >/dev/null
  podman push --quiet "$REGISTRY/testbed/noshell:1"
}

build_pythononly() {
  is_pushed registry testbed/pythononly 1 && return 0
  say 'building pythononly'
  local context=$scratch/pythononly
  mkdir -p "$context"
  cat >"$context/Containerfile" <<CONF
FROM $REGISTRY/testbed/python:3.11
RUN ["python3", "-c", "import os; [os.remove('/bin/' + name) for name in ('sh', 'dash', 'bash', 'rbash')]"]
CMD ["/usr/bin/python3"]
CONF
  podman build --quiet --network none --tag "$REGISTRY/testbed/pythononly:1" "$context" >/dev/null
  podman push --quiet "$REGISTRY/testbed/pythononly:1"
}

# It says arm64, and would run here all the same: nothing on these machines emulates another
# processor, and what reads the architecture cannot tell.
build_foreign() {
  is_pushed registry testbed/foreign 1 && is_pushed registry testbed/multi 1 && return 0
  say 'building foreign and multi'
  local own=$REGISTRY/testbed/busybox:1 foreign=$REGISTRY/testbed/foreign:1 list
  tar -C "$FILES/busybox-root" -cf "$scratch/foreign.tar" .
  podman import --quiet --os linux --arch arm64 --change "$PATH_SETTING" \
    --change 'CMD ["/bin/sh"]' "$scratch/foreign.tar" "$foreign" >/dev/null
  podman push --quiet "$foreign"
  list=localhost/testbed-multi-$$
  podman manifest create "$list" >/dev/null
  podman manifest add "$list" "docker://$own" >/dev/null
  podman manifest add "$list" "docker://$foreign" >/dev/null
  podman manifest push --quiet --all "$list" "docker://$REGISTRY/testbed/multi:1"
  # Here they would stand in the way of what a pull says of them.
  podman manifest rm "$list" >/dev/null
  podman rmi "$foreign" >/dev/null
}

# An image that is in the registry, in podman's own store too.
have_image() { podman image exists "$1" || podman pull --quiet "$1" >/dev/null; }

build_sif() { # image file
  [ -e "$FILES/$2" ] && return 0
  say "building $2"
  # Pressed as hard as usual, python takes four times as long and is a tenth smaller.
  APPTAINER_CACHEDIR=$scratch/cache APPTAINER_TMPDIR=$scratch apptainer --quiet build \
    --mksquashfs-args '-Xcompression-level 1' "$scratch/$2" "docker://$1"
  mv "$scratch/$2" "$FILES/$2"
}

push_sif() {
  is_pushed registry testbed/sif 1 && return 0
  apptainer --quiet push "$FILES/busybox.sif" "oras://$REGISTRY/testbed/sif:1"
}

save_archive() { # format name
  [ -e "$FILES/$2" ] && return 0
  have_image "$REGISTRY/testbed/busybox:1"
  podman save --quiet --format "$1" --output "$scratch/$2" "$REGISTRY/testbed/busybox:1"
  mv "$scratch/$2" "$FILES/$2"
}

unpack_image() { # image folder
  [ -e "$FILES/$2" ] && return 0
  say "unpacking $2"
  have_image "$1"
  local container
  container=$(podman create --network none "$1")
  mkdir "$scratch/$2"
  podman export "$container" | tar -C "$scratch/$2" --exclude='dev/*' -xf -
  podman rm "$container" >/dev/null
  mv "$scratch/$2" "$FILES/$2"
}

# As the folders of unpacked.cern.ch are: the image's name is a link to its content.
build_cvmfs() {
  [ -e "$FILES/cvmfs" ] && return 0
  local image=$REGISTRY/testbed/python:3.11 id
  have_image "$image"
  id=$(podman image inspect --format '{{.Id}}' "$image")
  local flat=unpacked.cern.ch/.flat/${id:0:2} names=unpacked.cern.ch/registry.hub.docker.com/testbed
  mkdir -p "$scratch/cvmfs/$flat" "$scratch/cvmfs/$names"
  cp -al "$FILES/python-root" "$scratch/cvmfs/$flat/$id"
  ln -s "../../.flat/${id:0:2}/$id" "$scratch/cvmfs/$names/python:3.11"
  mv "$scratch/cvmfs" "$FILES/cvmfs"
}

build_files() {
  mkdir -p "$FILES"
  build_sif "$REGISTRY/testbed/busybox:1" busybox.sif
  build_sif "$REGISTRY/testbed/python:3.11" python.sif
  push_sif
  save_archive docker-archive busybox-docker.tar
  save_archive oci-archive busybox-oci.tar
  save_archive oci-dir busybox-oci
  unpack_image "$REGISTRY/testbed/busybox:1" busybox-root
  unpack_image "$REGISTRY/testbed/python:3.11" python-root
  build_cvmfs
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
    build_noshell
    build_pythononly
    build_files
    build_foreign
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
