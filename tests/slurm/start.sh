#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests: Debian's slurm-wlm, installed if it is missing; as root.
set -euo pipefail

if ! command -v slurmctld >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

if [ -f /etc/slurm/slurm.conf ] && ! grep -q '^ClusterName=test$' /etc/slurm/slurm.conf; then
  echo "/etc/slurm/slurm.conf is another cluster's: not touched" >&2
  exit 1
fi
host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat >/etc/slurm/slurm.conf <<END
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MinJobAge=300
AccountingStorageType=accounting_storage/none
NodeName=$host CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
mkdir -p /var/spool/slurmctld /var/spool/slurmd /run/munge
chown munge: /run/munge
[ -f /etc/munge/munge.key ] || /usr/sbin/mungekey
pgrep munged >/dev/null || runuser -u munge -- /usr/sbin/munged
pgrep slurmctld >/dev/null || slurmctld
pgrep slurmd >/dev/null || slurmd
for _ in $(seq 30); do
  if sinfo --noheader --format %T 2>/dev/null | grep -q idle; then
    sinfo
    exit 0
  fi
  sleep 1
done
echo "Slurm has no idle node after 30 seconds: see /var/log/slurm*" >&2
exit 1
