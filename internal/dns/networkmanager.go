package dns

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/uplinkd/uplinkd/internal/lease"
)

const (
	networkManager1    = "org.freedesktop.NetworkManager"
	networkManagerPath = "/org/freedesktop/NetworkManager"
	// networkManagerRun is there while NetworkManager runs, and after it: without it no bus is asked.
	networkManagerRun = "/run/NetworkManager"
	// networkManagerTimeout is how long it may take to answer for all devices; a start waits for it.
	networkManagerTimeout = time.Second
	// networkManagerRestarts is how long what it had counts while it is not there: devices keep what it has configured.
	networkManagerRestarts = time.Minute
	// noObject is the path of what a device does not have.
	noObject = dbus.ObjectPath("/")
)

// managed is what NetworkManager has, or had until a moment ago.
func (e *Engine) managed(devices []string, now time.Time) map[string][]netip.Addr {
	found, running := e.askNetworkManager(devices)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case running:
		e.manager.had, e.manager.at = found, now
	case now.Sub(e.manager.at) > networkManagerRestarts:
		e.manager.had = nil
	}
	return e.manager.had
}

// askNetworkManager returns the servers that NetworkManager has for devices: learned by its DHCP clients, from routers and modems, and what
// its connections name. It keeps no file of them that names a device.
func (e *Engine) askNetworkManager(devices []string) (found map[string][]netip.Addr, running bool) {
	if _, err := os.Stat(filepath.Join("/", e.o.Root, networkManagerRun)); err != nil || len(devices) == 0 {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), networkManagerTimeout)
	defer cancel()
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, false
	}
	defer conn.Close()
	// Whoever has stopped it does not want the bus to start it.
	if conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, networkManager1).Store(&running) != nil || !running {
		return nil, false
	}
	found = make(map[string][]netip.Addr, len(devices))
	for _, device := range devices {
		var path dbus.ObjectPath
		manager := conn.Object(networkManager1, networkManagerPath)
		if manager.CallWithContext(ctx, networkManager1+".GetDeviceByIpIface", dbus.FlagNoAutoStart, device).Store(&path) != nil {
			continue
		}
		found[device] = append(configured4(ctx, conn, path), configured6(ctx, conn, path)...)
	}
	return found, true
}

// configured4 reads the servers of a device's Ip4Config; nil when it has none.
func configured4(ctx context.Context, conn *dbus.Conn, device dbus.ObjectPath) []netip.Addr {
	var config dbus.ObjectPath
	var servers []map[string]dbus.Variant
	if property(ctx, conn.Object(networkManager1, device), networkManager1+".Device", "Ip4Config", &config) != nil || config == noObject ||
		property(ctx, conn.Object(networkManager1, config), networkManager1+".IP4Config", "NameserverData", &servers) != nil {
		return nil
	}
	var words []string
	for _, s := range servers {
		if word, is := s["address"].Value().(string); is {
			words = append(words, word)
		}
	}
	return lease.Addresses(words)
}

// configured6 reads those of Ip6Config, which are bytes.
func configured6(ctx context.Context, conn *dbus.Conn, device dbus.ObjectPath) []netip.Addr {
	var config dbus.ObjectPath
	var servers [][]byte
	if property(ctx, conn.Object(networkManager1, device), networkManager1+".Device", "Ip6Config", &config) != nil || config == noObject ||
		property(ctx, conn.Object(networkManager1, config), networkManager1+".IP6Config", "Nameservers", &servers) != nil {
		return nil
	}
	var list []netip.Addr
	for _, s := range servers {
		if a, ok := netip.AddrFromSlice(s); ok {
			list = append(list, a.Unmap())
		}
	}
	return list
}
