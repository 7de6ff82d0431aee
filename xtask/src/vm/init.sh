#!/bin/busybox sh
# First program of the guest: puts a writable layer over the host's file system and moves there.
# It runs with -e: a step that fails ends process 1, the kernel panics, and the host shows these last lines.
set -e
/bin/busybox --install -s /bin
export PATH=/bin
. /r2c/settings

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

# The host is read-only and must not change under a guest, so what was once read may be kept (cache=loose):
# without it every exec reads the whole program through the host again, ten times slower.
mkdir -p /host /rw /new
shared=trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000,access=any
mount -t 9p -o $shared host /host
mount -t tmpfs -o size=75% rw /rw
mkdir /rw/upper /rw/work
cp -a /r2c /rw/upper/r2c
mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work root /new

ifconfig lo up

# Files that are no whole system's, only some packages', lack these.
mkdir -p /new/lib/modules /new/proc /new/sys /new/dev /new/run /new/root /new/tmp /new/etc
chmod 1777 /new/tmp
[ -e /new/bin/sh ] || busybox --install -s /new/bin 2>/dev/null || :
mount -t 9p -o $shared modules /new/lib/modules
for name in proc sys dev; do mount --move "/$name" "/new/$name"; done
exec switch_root /new /bin/sh /r2c/guest
