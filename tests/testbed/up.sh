#!/usr/bin/env bash
# Bring podman, docker, apptainer, charliecloud, two registries, Slurm and HTCondor up on a Debian
# machine, as root. Quick when they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=common.sh
. ./common.sh

install_engines() {
  local wanted=(podman runc catatonit iptables docker-registry apache2-utils busybox-static
    mmdebstrap ca-certificates charliecloud-runtime squashfs-tools squashfuse fuse3 uidmap
    patchelf xrootd-server strace libfaketime)
  # A daemon from elsewhere (docker-ce) does as well, and conflicts with Debian's.
  command -v dockerd >/dev/null || wanted+=(docker.io)
  # Of ch-convert and ch-image. It wants Debian's docker, and apt would throw out another for it.
  if ! command -v ch-image >/dev/null; then
    if command -v dockerd >/dev/null && ! dpkg-query -s docker.io >/dev/null 2>&1; then
      say 'no ch-convert and no ch-image: another docker is in the way of their package'
    else
      wanted+=(charliecloud-builders)
    fi
  fi
  install_packages "${wanted[@]}"
}

configure_podman() {
  mkdir -p /etc/containers/containers.conf.d /etc/containers/registries.conf.d
  # crun refuses hybrid cgroups; the default ulimits need a capability that may be missing.
  cat >/etc/containers/containers.conf.d/50-fasthep-flow-testbed.conf <<'CONF'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
CONF
  cat >/etc/containers/registries.conf.d/50-fasthep-flow-testbed.conf <<CONF
[[registry]]
location = "$REGISTRY"
insecure = true

[[registry]]
location = "$PRIVATE_REGISTRY"
insecure = true
CONF
}

# Debian 12 has no apptainer: sid's, with the libraries that it was linked against.
install_apptainer() {
  apptainer --version >/dev/null 2>&1 && return 0
  say 'installing apptainer from sid'
  local root=$STATE/sid.part libraries=$STATE/apptainer-lib library program
  local multiarch
  multiarch=$(uname -m)-linux-gnu
  rm -rf "$root"
  mkdir -p "$libraries" "$root"
  mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=apptainer sid - "deb $(mirror) sid main" 9>&- | tar -C "$root" --exclude=./dev -xf -
  for library in libc libm libseccomp libsqlite3; do
    cp -L "$root/usr/lib/$multiarch/$library".so.[0-9] "$libraries/"
  done
  cp -L "$root/usr/lib/$multiarch"/ld-linux-*.so.* "$libraries/"
  for program in "$root/usr/bin/apptainer" "$root/usr/lib/$multiarch/apptainer/bin/starter"; do
    patchelf --set-interpreter "$(echo "$libraries"/ld-linux-*)" \
      --force-rpath --set-rpath "$libraries" "$program"
  done
  # There is no systemd to ask for cgroups.
  sed -i 's/^systemd cgroups = yes/systemd cgroups = no/' "$root/etc/apptainer/apptainer.conf"
  mkdir -p /var/lib/apptainer/mnt/session
  cp -a "$root/etc/apptainer" /etc/
  cp -a "$root/usr/lib/$multiarch/apptainer" "/usr/lib/$multiarch/"
  # It finds the others from where it stands itself: the last one, and only in /usr/bin.
  cp -a "$root/usr/bin/apptainer" /usr/bin/apptainer.part
  mv /usr/bin/apptainer.part /usr/bin/apptainer
  rm -rf "$root"
  apptainer --version >/dev/null
}

# ch-image runs on whatever python3 comes first on PATH, which need not have Debian's packages.
fix_charliecloud() {
  local program
  program=$(command -v ch-image) || return 0
  [ "$(head -n 1 "$program")" = '#!/usr/bin/python3' ] ||
    sed -i '1s|.*|#!/usr/bin/python3|' "$program"
}

# Some clients exit 0 although no daemon answers: ask for what the daemon says.
docker_answers() { [ -n "$(docker version --format '{{.Server.Version}}' 2>/dev/null)" ]; }

start_dockerd() {
  docker_answers && return 0
  say 'starting dockerd'
  # What a machine that was switched off leaves behind keeps the next daemon from starting.
  if [ -f /var/run/docker.pid ] && ! kill -0 "$(cat /var/run/docker.pid)" 2>/dev/null; then
    rm -f /var/run/docker.pid
  fi
  start dockerd dockerd --iptables=false --bridge=none
  wait_for dockerd 60 docker_answers
}

start_registry() { # name address auth-block
  listens "$2" && return 0
  say "starting the registry on $2"
  mkdir -p "$STATE/$1"
  cat >"$STATE/$1.yml" <<CONF
version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: $STATE/$1
http:
  addr: $2
$3
CONF
  start "$1" docker-registry serve "$STATE/$1.yml"
  wait_for "$1" 20 listens "$2"
}

[ "$(id -u)" -eq 0 ] || { say 'needs root' >&2; exit 1; }
take_lock
install_engines
install_apptainer
fix_charliecloud
configure_podman
start_dockerd
start_registry registry "$REGISTRY" ''
[ -s "$STATE/htpasswd" ] ||
  htpasswd -Bbn "$PRIVATE_USER" "$PRIVATE_PASSWORD" >"$STATE/htpasswd"
start_registry private-registry "$PRIVATE_REGISTRY" "auth:
  htpasswd:
    realm: testbed
    path: $STATE/htpasswd"
wait_for podman 20 podman info
flock -u 9
bash ./images.sh base
bash ./slurm.sh
bash ./htcondor.sh
say "podman $(podman version --format '{{.Version}}')," \
  "$(apptainer --version)," "charliecloud $(USER=root ch-run --version 2>&1)," \
  "docker $(docker version --format '{{.Client.Version}} (client) {{.Server.Version}} (daemon)')," \
  "registries on $REGISTRY and $PRIVATE_REGISTRY," "$(sinfo --version)," \
  "HTCondor $(condor_version | awk 'NR == 1 {print $2}')"
