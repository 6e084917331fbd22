#!/usr/bin/env bash
# A real Slurm on this machine for tests: controller and one node. Usage: tests/batch/slurm.sh start|stop, as root.
# start says on stdout what hinders it and ends with 1. A slurm.conf that is not its own is left alone.
set -uo pipefail
conf=/etc/slurm/slurm.conf mark="# made by tests/batch/slurm.sh" state=/tmp/vtlib-slurm

no() { echo "$1"; exit 1; }

stop() {
  local name pid
  for name in slurmd slurmctld munged; do
    [ -s "$state/$name.pid" ] || continue
    pid=$(cat "$state/$name.pid")
    kill "$pid" 2>/dev/null && for _ in $(seq 40); do [ -d "/proc/$pid" ] && ! grep -qs "^State:.Z" "/proc/$pid/status" && sleep 0.25; done
  done
  rm -rf "$state"
  grep -qsF "$mark" "$conf" && rm "$conf"
  return 0
}

start() {
  [ "$(id -u)" = 0 ] || no "Slurm's daemons need root"
  for name in slurmctld slurmd munged sbatch; do
    command -v "$name" >/dev/null || no "$name is not installed: apt-get install slurm-wlm munge"
  done
  [ ! -e "$conf" ] || grep -qF "$mark" "$conf" || no "$conf is there and not made by this script"
  stop
  mkdir -p "$state" /run/munge /etc/slurm
  chown munge: /run/munge
  [ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key && chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key; }
  local host cores memory
  host=$(hostname -s) cores=$(getconf _NPROCESSORS_ONLN) memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024))
  cat >"$conf" <<END
$mark
ClusterName=vtlib
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
MpiDefault=none
MinJobAge=300
NodeName=$host CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
  if ! munge -n >/dev/null 2>&1; then
    su munge -s /bin/sh -c "munged --pid-file=/run/munge/munged.pid" || no "munged does not start"
    ln -s /run/munge/munged.pid "$state/munged.pid"
  fi
  slurmctld >"$state/out" 2>&1 || no "slurmctld does not start: $(tail -1 "$state/out")"
  slurmd >"$state/out" 2>&1 || no "slurmd does not start: $(tail -1 "$state/out")"
  for _ in $(seq 40); do
    sinfo -h -o %t 2>/dev/null | grep -qE "idle|mix|alloc" && exit 0
    sleep 0.5
  done
  no "the node does not come up: $(sinfo -h -o '%t %E' 2>&1)"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) echo "usage: tests/batch/slurm.sh start|stop" >&2; exit 2 ;;
esac
