# A Debian of its own, whose systemd runs in namespaces, for tests: sourced by root, at the top of the sources. Nothing of this machine is
# changed but a cache of that Debian.
# shellcheck shell=sh
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
cgroups=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
group=$cgroups/uplinkd-packages-test.$$
pid=
halt() {
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true # which ends all that is in there
	pid=
	i=0
	while [ -d "$group" ] && [ $i -lt 50 ]; do
		find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
		i=$((i + 1))
	done
}
trap 'halt; rm -rf "$work"' EXIT
step() { echo "=== $*"; }
fail() {
	echo "FAIL: $*" >&2
	cat "$work/console" >&2 2>/dev/null || true
	[ -z "$pid" ] || in_it journalctl --no-pager -n 40 -u uplinkd >&2 || true
	exit 1
}

step "a Debian"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/uplinkd-packages/bookworm-3-$arch.tar
if [ ! -e "$cache" ]; then
	mkdir -p "$(dirname "$cache")"
	mmdebstrap --quiet --format=tar --variant=essential --include=systemd,systemd-sysv,dbus,iproute2,nftables,iputils-ping,man-db,passwd,ifupdown,isc-dhcp-client,dnsmasq-base,less,procps,openssh-server,python3,python3-apt bookworm "$cache.new"
	mv "$cache.new" "$cache"
fi
root=$work/root
mkdir "$root"
tar -C "$root" -xf "$cache"

cat >"$work/boot" <<'END'
#!/bin/sh
# The first process of new namespaces: makes the root a machine, and is systemd then.
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do touch dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
hostname router
pivot_root . mnt
umount -l /mnt
exec env -i container=uplinkd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target --show-status=0
END
# The script "$work/world" makes what is around the machine.
boot() {
	mkdir "$group"
	sh -c 'echo $$ >"$1/cgroup.procs"; exec unshare --mount --pid --fork --cgroup --net --ipc --uts sh "$2/boot" "$2/root"' - "$group" "$work" 2>"$work/console" &
	until pid=$(pgrep -P "$(pgrep -P $$ -x unshare | head -n 1)" 2>/dev/null) && in_it systemctl is-system-running 2>/dev/null | grep -Eq 'running|degraded'; do sleep 0.2; done
	in_it sh <"$work/world"
}
in_it() { nsenter --target "$pid" --mount --pid --net --cgroup --ipc --uts --root --wd "$@"; }
expect() { # what it should be, then a command
	want=$1
	shift
	got=$(in_it "$@" 2>&1) || true
	[ "$got" = "$want" ] || fail "$* says: $got; expected: $want"
}
await() {
	i=0
	until in_it "$@" >/dev/null 2>&1; do
		i=$((i + 1))
		[ $i -lt 150 ] || fail "in vain: $*"
		sleep 0.2
	done
}
