# shellcheck shell=bash disable=SC2034
# Sourced by the scripts beside it: where things are kept, and what the images are called.

# Loopback never goes through a proxy.
export NO_PROXY="localhost,127.0.0.1${NO_PROXY:+,$NO_PROXY}"
export no_proxy="$NO_PROXY"

STATE=${FASTHEP_TESTBED_STATE:-/var/lib/fasthep-flow-testbed}
FILES=$STATE/files
REGISTRY=127.0.0.1:5000
PRIVATE_REGISTRY=127.0.0.1:5001
PRIVATE_USER='test'
PRIVATE_PASSWORD='test'

say() { printf 'testbed: %s\n' "$*"; }

# One script at a time; the daemons that are started must not inherit the lock.
take_lock() {
  mkdir -p "$STATE"
  exec 9>"$STATE/lock"
  flock 9
}

# The first Debian mirror that this machine itself uses.
mirror() {
  local found=''
  if [ -f /etc/apt/sources.list.d/debian.sources ]; then
    found=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources)
  fi
  if [ -z "$found" ] && [ -f /etc/apt/sources.list ]; then
    found=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\//) {print $i; exit}}' \
      /etc/apt/sources.list)
  fi
  [ -n "$found" ] || { say 'no Debian mirror in the apt sources' >&2; return 1; }
  printf '%s\n' "$found"
}

# A tag stands in the registry's own storage: cheaper to look there than to ask over HTTP.
is_pushed() { # folder repository tag
  [ -s "$STATE/$1/docker/registry/v2/repositories/$2/_manifests/tags/$3/current/link" ]
}

# Nothing is asked of apt where they are there already.
install_packages() { # package...
  local missing=()
  local package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  say "installing ${missing[*]}"
  # Packages start their daemons with settings of their own, on the same port: not here.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  export DEBIAN_FRONTEND=noninteractive
  # A foreign source that does not answer is no reason to stop: the install decides.
  apt-get update -q >"$STATE/apt.log" 2>&1 || true
  apt-get install -y -q --no-install-recommends "${missing[@]}" >>"$STATE/apt.log" 2>&1 9>&- || {
    tail -n 30 "$STATE/apt.log" >&2
    return 1
  }
}

# A daemon of ours, in its own session, so that it outlives this script and its terminal.
start() { # name command...
  local name=$1
  shift
  setsid nohup "$@" >>"$STATE/$name.log" 2>&1 </dev/null 9>&- &
  disown
}

wait_for() { # name seconds command...
  local name=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      say "$name does not answer; the end of $STATE/$name.log:" >&2
      tail -n 20 "$STATE/$name.log" >&2 || true
      return 1
    fi
    sleep 0.1
  done
}

listens() { (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null; }
