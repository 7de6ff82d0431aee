# Process 1 of the guest after init: makes it look like a node, runs the one command, says how it ended.
set -e
. /r2c/settings

mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A kernel that is locked down has none.
mount -t tracefs tracefs /sys/kernel/tracing || :
mount -t debugfs debugfs /sys/kernel/debug || :
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
# As udev has it: opening it loads the module.
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
# As systemd has it on a node: mounts travel between namespaces.
mount --make-rshared /
echo guest >/proc/sys/kernel/hostname

# One opener at a time is all a virtio port allows, and /dev/stdout must be openable: hence a pipe and cat.
# The port is the only one; its number depends on the order in which the kernel found its devices.
until set -- /dev/vport*p1 && [ -e "$1" ]; do sleep 0.1; done
mkfifo -m 666 /run/r2c-output
cat </run/r2c-output >"$1" &
exec 3>/run/r2c-output

export HOME=/root TERM=dumb LANG=C.UTF-8
unset PWD OLDPWD
echo "$MARK began" >&3
set +e
/bin/sh /r2c/command </dev/null >/run/r2c-output 2>&1
# In the same pipe as the output, so that it cannot overtake it. The host ends the guest when it reads this.
echo "$MARK exit $?" >&3
sleep 60
