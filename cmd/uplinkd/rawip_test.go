package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// rawIPModem is a mobile network behind a modem that carries no Ethernet frames (qmi_wwan, cdc_mbim): its device has neither a link-layer address
// nor neighbours, and the default routes name no gateway. It appears as wwan0 on the router, and as modem0 at the second provider.
type rawIPModem struct {
	*router
	ends   []*os.File
	relays sync.WaitGroup
}

// plugInModem makes the device as ModemManager and NetworkManager leave it, with the address of this connection.
func (r *router) plugInModem(address4, address6 string) *rawIPModem {
	r.Helper()
	m := &rawIPModem{router: r}
	here, there := r.tun("router", "wwan0"), r.tun("isp2", "modem0")
	m.ends = []*os.File{here, there}
	for _, way := range [][2]*os.File{{here, there}, {there, here}} {
		m.relays.Go(func() {
			packet := make([]byte, 1<<16)
			for {
				n, err := way[0].Read(packet)
				if errors.Is(err, os.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = way[1].Write(packet[:n]) // a device that is down takes none
				}
			}
		})
	}
	r.Cleanup(m.pullOut)
	r.sh("isp2", fmt.Sprintf(`ip link set modem0 up; ip route replace %[1]s/32 dev modem0; ip -6 route replace %[2]s/128 dev modem0
		nft 'table netdev modem { counter foreign {
			}; chain in { type filter hook ingress device modem0 priority 0; ip saddr %[1]s accept; ip6 saddr { %[2]s, fe80::/10 } accept; counter name foreign drop; }; }'`, address4, address6))
	r.sh("router", fmt.Sprintf(`ip link set wwan0 up mtu 1430; ip address add %s/32 dev wwan0 noprefixroute; ip -6 address add %s/64 dev wwan0 nodad noprefixroute
		ip route add default dev wwan0 proto static metric 700; ip -6 route add default dev wwan0 proto static metric 700`, address4, address6))
	return m
}

// pullOut takes the device away, with its addresses and routes.
func (m *rawIPModem) pullOut() {
	for _, end := range m.ends {
		_ = end.Close()
	}
	m.ends = nil
	m.relays.Wait()
	_, _ = m.Host("isp2").Run("nft", "delete", "table", "netdev", "modem")
}

// foreign is how many packets the provider has dropped because of their source.
func (m *rawIPModem) foreign() string {
	m.Helper()
	return m.sh("isp2", "nft list counter netdev modem foreign | grep packets")
}

// tun makes a device on a host that carries bare packets, to and from a file.
func (r *router) tun(host, device string) (end *os.File) {
	r.Helper()
	err := r.Host(host).Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(device)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		end = os.NewFile(uintptr(fd), device)
		return nil
	})
	if err != nil {
		r.Fatalf("a tun device (needs /dev/net/tun): %v", err)
	}
	return end
}

// TestARawIPModemComesBackWithAnotherAddress has the second line be such a modem. It is pulled out and plugged in again: another interface index, another
// address. Packets leave by it with the address of the day, and callers are answered.
func TestARawIPModemComesBackWithAnotherAddress(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{DNAT: true}, strings.ReplaceAll(dualWAN, `"wan2"`, `"wwan0"`))
	r.serve()
	r.sh("router", "ip link set wan2 down")
	modem := r.plugInModem("203.0.113.2", "2001:db8:b::2")
	r.start()
	r.awaitState("fiber", uplink.Up)
	v4, v6 := r.lanProbes()
	for day, address := range [][2]string{{"203.0.113.2", "2001:db8:b::2"}, {"203.0.113.6", "2001:db8:b::6"}} {
		if day > 0 {
			modem.pullOut()
			r.awaitState("lte", uplink.Down)
			modem = r.plugInModem(address[0], address[1])
		}
		r.awaitState("lte", uplink.Up)
		r.await("callers to be answered", func() error {
			for _, at := range address {
				for _, s := range services[:2] {
					if err := r.ask("inet", s, netip.MustParseAddr(at), unhurried); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err := r.Break(lab.Blackhole, "fiber"); err != nil {
			t.Fatal(err)
		}
		r.awaitFlow(v4, "lte")
		r.awaitFlow(v6, "lte")
		r.awaitState("fiber", uplink.Down)
		for i, target := range []string{other4, other6} {
			r.await("a LAN host to be seen as "+address[i], func() error { // a port that is used again may still be fiber's
				source, err := r.seenAs("lan", target)
				if err == nil && source.String() != address[i] {
					err = fmt.Errorf("seen as %v", source)
				}
				return err
			})
		}
		r.kill()
		r.start()
		r.awaitBy("lan", other6, "lte")
		if err := r.Heal(); err != nil {
			t.Fatal(err)
		}
		r.awaitState("fiber", uplink.Up)
		r.awaitFlow(v4, "fiber")
		r.awaitFlow(v6, "fiber")
		if n := modem.foreign(); !strings.Contains(n, "packets 0 ") {
			t.Errorf("left with a foreign source: %s", n)
		}
	}
	if n := r.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, r.foreignSources())
	}
	if findings, _ := r.doctor(); slices.ContainsFunc(findings, func(f doctor.Finding) bool { return f.Severity != doctor.Notice }) {
		t.Errorf("doctor says %+v", findings)
	}
}
