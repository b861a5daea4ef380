#!/usr/bin/env bash
# Bring HTCondor up on this machine: Debian 12 has none, so trixie's runs in a folder of its own,
# while its jobs run on this machine itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=common.sh
. ./common.sh

ROOT=$STATE/htcondor-root
HERE=$STATE/htcondor
MARK='# Written by tests/testbed/htcondor.sh'
COMMANDS=(condor_submit condor_q condor_rm condor_hold condor_release condor_vacate_job
  condor_history condor_status condor_version)

install_root() {
  [ -x "$ROOT/usr/bin/condor_submit" ] && return 0
  say 'installing HTCondor from trixie'
  rm -rf "$ROOT.part"
  mkdir -p "$ROOT.part"
  mmdebstrap --quiet --variant=extract --include=base-files,dash,coreutils,util-linux,condor \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    trixie - "deb [trusted=yes] $(mirror) trixie main" 9>&- |
    tar -C "$ROOT.part" --exclude=./dev -xf -
  mv "$ROOT.part" "$ROOT"
}

# HTCondor takes no jobs of root's, and tests run as root. So it is told that it is somebody else,
# who runs an HTCondor of their own: that one changes no user at all, and its jobs are root's.
install_somebody() {
  [ -e "$ROOT/etc/somebody.so" ] && return 0
  printf 'int %s(void) { return 1000; }\n' getuid geteuid getgid getegid |
    gcc -shared -fPIC -O1 -fno-builtin -x c - -o "$ROOT/etc/somebody.so.part"
  mv "$ROOT/etc/somebody.so.part" "$ROOT/etc/somebody.so"
}

configure() {
  mkdir -p "$HERE"/{log,lock,run,spool,execute,credentials}
  printf 'root:x:0:0::/root:/bin/sh\nsomebody:x:1000:1000::/tmp:/bin/sh\n' >"$ROOT/etc/passwd"
  printf 'root:x:0:\nsomebody:x:1000:\n' >"$ROOT/etc/group"
  cp /etc/hosts /etc/resolv.conf "$ROOT/etc/"
  # A job enters the machine's own tree of files: it finds what the driver finds, at the same
  # paths, and the container engines work as they do there.
  sed "s|HERE|$HERE|" >"$ROOT/etc/condor/job" <<'JOB'
#!/bin/sh
read -r machine <HERE/machine.pid
exec nsenter --target "$machine" --mount --wdns="$PWD" -- "$@"
JOB
  chmod 755 "$ROOT/etc/condor/job"
  # More processors than there are: what a test's tasks ask for is small, and none computes.
  # A job that uses more memory than it asked for is put on hold, as at many sites.
  cat >"$ROOT/etc/condor/condor_config" <<CONF
$MARK
RELEASE_DIR = /usr
BIN = /usr/bin
SBIN = /usr/sbin
LIB = /usr/lib/condor
LIBEXEC = /usr/libexec/condor
SHARE = /usr/share/condor
LOCAL_DIR = $HERE
LOG = $HERE/log
LOCK = $HERE/lock
RUN = $HERE/run
SPOOL = $HERE/spool
EXECUTE = $HERE/execute
CRED_STORE_DIR = $HERE/credentials
DAEMON_LIST = MASTER, COLLECTOR, NEGOTIATOR, SCHEDD, STARTD

# Nobody is asked who they are: it listens on the loopback interface alone.
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
SEC_DEFAULT_AUTHENTICATION_METHODS = CLAIMTOBE
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_ADMINISTRATOR = *
UID_DOMAIN = testbed
TRUST_UID_DOMAIN = True
FILESYSTEM_DOMAIN = testbed

NUM_CPUS = 16
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
NUM_SLOTS_TYPE_1 = 1
MACHINE_RESOURCE_GPUS = CUDA0, CUDA1
START = True
SUSPEND = False
PREEMPT = False
KILL = False
RunBenchmarks = False
USER_JOB_WRAPPER = /etc/condor/job
use policy : HOLD_IF_MEMORY_EXCEEDED
MachineMaxVacateTime = 5

NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
STARTER_INITIAL_UPDATE_INTERVAL = 2
STARTER_UPDATE_INTERVAL = 2
PERIODIC_EXPR_INTERVAL = 2
PROCD_MAX_SNAPSHOT_INTERVAL = 2
CONF
}

# The commands of an HTCondor, which enter its folder where its daemons see it.
install_commands() {
  cat >"$HERE/command" <<SH
#!/bin/sh
$MARK
if ! read -r master <"$HERE/master.pid" || [ ! -d "/proc/\$master" ]; then
  echo "HTCondor does not run: tests/testbed/up.sh starts it" >&2
  exit 1
fi
exec nsenter --target "\$master" --mount --root --wdns="\$PWD" -- /usr/bin/env \
  LD_PRELOAD=/etc/somebody.so CONDOR_CONFIG=/etc/condor/condor_config \
  "/usr/bin/\${0##*/}" "\$@"
SH
  chmod 755 "$HERE/command"
  local name
  for name in "${COMMANDS[@]}"; do
    ln -sfn "$HERE/command" "/usr/local/bin/$name"
  done
}

# Waits outside, for jobs to find the way back: process 1 may be one that nobody can follow.
stay() {
  echo $$ >"$HERE/machine.pid"
  unshare --mount --propagation slave bash ./htcondor.sh run-master
}

# In a mount namespace of its own: everything of this machine but what makes up a Debian.
run_master() {
  local folder
  for folder in /* /var/tmp "$STATE"; do
    [ -d "$folder" ] && [ ! -L "$folder" ] || continue
    case $folder in /bin | /boot | /etc | /lib* | /sbin | /usr | /var) continue ;; esac
    mkdir -p "$ROOT$folder"
    mount --rbind "$folder" "$ROOT$folder"
  done
  cd /
  exec chroot "$ROOT" /usr/bin/env -i PATH=/usr/sbin:/usr/bin LD_PRELOAD=/etc/somebody.so \
    CONDOR_CONFIG=/etc/condor/condor_config condor_master -f -pidfile "$HERE/master.pid"
}

hands_out_slots() { [ -n "$(condor_status -startd -af Name 2>/dev/null)" ]; }
takes_jobs() { condor_q -totals 2>/dev/null | grep -q '^Total for query'; }
is_up() { hands_out_slots && takes_jobs; }

[ "$(id -u)" -eq 0 ] || { say 'needs root' >&2; exit 1; }
case ${1-} in
  '') ;;
  stay | run-master)
    "${1//-/_}"
    exit
    ;;
esac
if found=$(command -v condor_submit) && [ "$(readlink "$found")" != "$HERE/command" ]; then
  say "HTCondor: $found is not of ours, and is left alone"
  exit 0
fi
take_lock
is_up && exit 0
install_packages mmdebstrap gcc libc6-dev
install_root
install_somebody
configure
install_commands
say 'starting HTCondor'
if ! { read -r master <"$HERE/master.pid" && [ -d "/proc/$master" ]; } 2>/dev/null; then
  start htcondor bash ./htcondor.sh stay
fi
wait_for htcondor 60 is_up
