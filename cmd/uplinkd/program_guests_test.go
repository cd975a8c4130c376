package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// guest is a container or virtual machine: a network namespace whose id is in a file of the world.
func (h *house) guest() (pid string) {
	h.Helper()
	file := filepath.Join(h.dir, "guest")
	if text, err := os.ReadFile(file); err == nil {
		return string(text)
	}
	pid = h.unshareNet("router")
	if err := os.WriteFile(file, []byte(pid), 0o600); err != nil {
		h.Fatal(err)
	}
	return pid
}

// guestOnline asks whether the guest reaches the Internet.
func guestOnline(h *house) error {
	if by, err := h.byFrom(h.guest()); err != nil || by != "fiber" && by != "lte" {
		return fmt.Errorf("the guest by %q: %w", by, err)
	}
	return nil
}

// TestBesidePodman has netavark, which is what Podman's networks are made by.
func TestBesidePodman(t *testing.T) {
	config := `{"container_id":"0123456789ab0123456789ab","container_name":"box","networks":{"podman":{"static_ips":["10.88.0.2"],"interface_name":"eth0"}},
"network_info":{"podman":{"name":"podman","id":"53ce4390f2adb1681eb1a90ec8b48c49c015e0a8d336c197637e7f65e365fa9e","driver":"bridge","network_interface":"podman0",
"subnets":[{"subnet":"10.88.0.0/16","gateway":"10.88.0.1"}],"ipv6_enabled":false,"internal":false,"dns_enabled":false,"ipam_options":{"driver":"host-local"}}}}`
	netavark := func(h *house, do string) {
		h.in(fmt.Sprintf("/usr/lib/podman/netavark --config /run/netavark %s /proc/%s/ns/net <<'X'\n%s\nX\n", do, h.guest(), config))
	}
	playBeside(t, besideScene{
		program: "Podman", version: "/usr/lib/podman/netavark --version", Options: lab.Options{DNAT: true},
		prepare: "mkdir -p /run/netavark",
		start:   func(h *house) { netavark(h, "setup") },
		stop:    func(h *house) { netavark(h, "teardown") },
		works:   guestOnline,
	})
}

// TestBesideLibvirt has libvirtd with its default network.
func TestBesideLibvirt(t *testing.T) {
	playBeside(t, besideScene{
		program: "libvirt", version: "libvirtd --version | sed 's/.* //'", Options: lab.Options{DNAT: true},
		prepare: `echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >>/etc/passwd
for g in libvirt-qemu:64055 kvm:64056; do grep -q ^${g%:*}: /etc/group || echo ${g%:*}:x:${g#*:}: >>/etc/group; done
cat >/run/default.xml <<'X'
<network><name>default</name><bridge name='virbr0'/><forward/><ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>
X`,
		start: func(h *house) {
			h.serve("libvirtd")
			h.await("libvirtd", func() error {
				_, err := h.try("virsh -c network:///system version || virsh -c qemu:///system net-list")
				return err
			})
			h.in("export LIBVIRT_DEFAULT_URI=qemu:///system; virsh net-info default >/dev/null 2>&1 || virsh net-define /run/default.xml; virsh net-start default || virsh net-info default | grep -q 'Active: *yes'")
			if pid := h.guest(); !strings.Contains(h.sh("router", "ip -br link"), "guest0") {
				h.in("ip link add guest0 type veth peer name guest1; ip link set guest0 master virbr0 up; ip link set guest1 netns " + pid + "; nsenter -t " + pid +
					" -n sh -ec 'ip link set guest1 up; ip address add 192.168.122.7/24 dev guest1; ip route add default via 192.168.122.1'")
			}
			h.in("ip link set guest0 master virbr0")
		},
		stop:  func(h *house) { h.in("virsh -c qemu:///system net-destroy default") },
		works: guestOnline,
	})
}

// TestBesideDocker has dockerd; a network namespace on its bridge is the container.
func TestBesideDocker(t *testing.T) {
	playBeside(t, besideScene{
		program: "Docker", version: "dockerd --version | sed 's/Docker version \\([^+,]*\\).*/\\1/'", Options: lab.Options{DNAT: true},
		prepare: `mkdir -p /run/docker
old=$(awk '$2 > 0 && !/^#/ { print $1 }' /proc/cgroups)
[ -n "$old" ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
[ -z "$old" ] || mount -t tmpfs tmpfs /sys/fs/cgroup
for c in $old; do mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c; done`,
		start: func(h *house) {
			h.serve("dockerd", "--data-root=/run/docker-data", "--exec-root=/run/docker", "-p", "/run/docker.pid", "-H", "unix:///run/docker.sock", "--storage-driver=vfs", "--iptables=true")
			h.await("docker0", func() error { _, err := h.try("test -S /run/docker.sock && iptables -S DOCKER-USER"); return err })
			h.in("iptables -C DOCKER-USER -i lan0 -j ACCEPT || for r in '-i lan0' '-o lan0'; do iptables -I DOCKER-USER $r -j ACCEPT; done")
			pid := h.guest()
			h.in("[ -e /sys/class/net/guest0 ] || ip link show guest0 >/dev/null 2>&1 || { ip link add guest0 type veth peer name guest1; ip link set guest1 netns " + pid + "; nsenter -t " + pid +
				" -n sh -ec 'ip link set guest1 up; ip address add 172.17.0.7/16 dev guest1; ip route add default via 172.17.0.1'; }; ip link set guest0 master docker0 up")
		},
		works: guestOnline,
	})
}
