#!/usr/bin/env bash
# Bring Slurm up on this machine: one controller, and two nodes that both are this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=common.sh
. ./common.sh

HOME_OF_SLURM=$STATE/slurm
CONFIGURATION=/etc/slurm/slurm.conf
MARK='# Written by tests/testbed/slurm.sh'

configure() {
  mkdir -p "$HOME_OF_SLURM"/{state,farm1,farm2} /run/slurm /etc/slurm
  touch "$HOME_OF_SLURM/jobs.txt"
  local host memory_mib
  host=$(hostname -s)
  memory_mib=$(awk '/^MemTotal:/{print int($2 / 1024)}' /proc/meminfo)
  # More processors than there are: what a test's tasks ask for is small, and none computes. Memory
  # and processors are handed out, so that what a job asks for shows in its record; a job that
  # uses more memory than that is killed.
  cat >"$CONFIGURATION.part" <<CONF
$MARK
ClusterName=testbed
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$HOME_OF_SLURM/state
SlurmdSpoolDir=$HOME_OF_SLURM/%n
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/%n.pid
SlurmctldLogFile=$HOME_OF_SLURM/slurmctld.log
SlurmdLogFile=$HOME_OF_SLURM/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc=$HOME_OF_SLURM/jobs.txt
MpiDefault=none
GresTypes=gpu
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
MinJobAge=3600
DefMemPerCPU=256
NodeName=farm1 NodeHostname=$host NodeAddr=127.0.0.1 Port=6818 CPUs=8 RealMemory=$((memory_mib / 2)) Gres=gpu:2
NodeName=farm2 NodeHostname=$host NodeAddr=127.0.0.1 Port=6819 CPUs=8 RealMemory=$((memory_mib / 2))
PartitionName=short Nodes=ALL Default=YES MaxTime=60 State=UP
PartitionName=long Nodes=ALL MaxTime=1-00:00:00 State=UP
CONF
  # GPUs to be asked for, and none behind them.
  local number
  for number in 0 1; do
    [ -e "$HOME_OF_SLURM/gpu$number" ] || mknod "$HOME_OF_SLURM/gpu$number" c 1 3
  done
  printf '%s\nNodeName=farm1 Name=gpu File=%s\n' "$MARK" "$HOME_OF_SLURM/gpu[0-1]" \
    >/etc/slurm/gres.conf
  mv "$CONFIGURATION.part" "$CONFIGURATION"
}

start_munged() {
  munge -n >/dev/null 2>&1 && return 0
  say 'starting munged'
  install -d -o munge -g munge /run/munge /var/log/munge /var/lib/munge
  [ -s /etc/munge/munge.key ] ||
    install -o munge -g munge -m 400 <(head -c 1024 /dev/urandom) /etc/munge/munge.key
  start munged runuser -u munge -- munged --foreground
  wait_for munged 20 munge -n
}

both_are_up() { [ "$(sinfo --noheader --partition=short --states=idle,alloc,mix --format=%D)" = 2 ]; }

[ "$(id -u)" -eq 0 ] || { say 'needs root' >&2; exit 1; }
if [ -e "$CONFIGURATION" ] && ! grep -qxF "$MARK" "$CONFIGURATION"; then
  say "Slurm: $CONFIGURATION is not of ours, and is left alone"
  exit 0
fi
take_lock
install_packages slurm-wlm munge
if [ "$(sinfo --version 2>/dev/null)" ] && both_are_up 2>/dev/null; then
  exit 0
fi
say 'starting Slurm'
configure
start_munged
scontrol ping 2>/dev/null | grep -q UP || start slurmctld slurmctld -D
for node in farm1 farm2; do
  pgrep -f "^slurmd -D -N $node\$" >/dev/null || start "$node" slurmd -D -N "$node"
done
wait_for slurmctld 30 both_are_up
