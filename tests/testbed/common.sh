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
