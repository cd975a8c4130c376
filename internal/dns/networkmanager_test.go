package dns

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/config"
)

// manager is a NetworkManager that knows two devices.
type manager struct{}

func (manager) GetDeviceByIpIface(name string) (dbus.ObjectPath, *dbus.Error) {
	paths := map[string]dbus.ObjectPath{"wan1": networkManagerPath + "/Devices/2", "wan2": networkManagerPath + "/Devices/3"}
	if p, known := paths[name]; known {
		return p, nil
	}
	return "", dbus.NewError("org.freedesktop.NetworkManager.UnknownDevice", nil)
}

// What NetworkManager 1.42 gives for a line that it has configured by DHCP and from router advertisements, for one without a connection,
// and for one that it does not know.
func TestNetworkManagerIsAskedForTheServersOfEachDevice(t *testing.T) {
	c, err := config.Parse("x.toml", []byte(`
[[uplink]]
name = "fiber"
device = "wan1"
[[uplink]]
name = "lte"
device = "wan2"
[[uplink]]
name = "other"
device = "wan3"
[[uplink]]
name = "ours"
device = "wan4"
  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "off"
`))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	e := New(Options{Root: root})
	bus := systemBus(t)
	seen := func() map[string][]string {
		words := make(map[string][]string)
		for name, list := range e.readForeign(c) {
			for _, r := range list {
				words[name] = append(words[name], string(r.From)+" "+r.Addr.String())
			}
		}
		return words
	}
	if got := seen(); len(got) != 0 {
		t.Errorf("where it never ran: %v", got)
	}
	if err := os.MkdirAll(filepath.Join(root, networkManagerRun), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := seen(); len(got) != 0 {
		t.Errorf("while it does not run: %v", got)
	}
	own(t, bus, networkManager1)
	if err := bus.Export(manager{}, networkManagerPath, networkManager1); err != nil {
		t.Fatal(err)
	}
	at := func(what string) dbus.ObjectPath { return networkManagerPath + dbus.ObjectPath(what) }
	properties{"Ip4Config": at("/IP4Config/5"), "Ip6Config": at("/IP6Config/6")}.export(t, bus, at("/Devices/2"))
	properties{"Ip4Config": noObject, "Ip6Config": noObject}.export(t, bus, at("/Devices/3"))
	properties{"NameserverData": []map[string]dbus.Variant{{"address": dbus.MakeVariant("192.0.2.53")}, {"address": dbus.MakeVariant("192.0.2.54")}, {"other": dbus.MakeVariant(7)}}}.export(t, bus, at("/IP4Config/5"))
	properties{"Nameservers": [][]byte{{0x20, 1, 0x0d, 0xb8, 15: 0x53}, {1, 2, 3}}}.export(t, bus, at("/IP6Config/6"))
	want := map[string][]string{"fiber": {"NetworkManager 192.0.2.53", "NetworkManager 192.0.2.54", "NetworkManager 2001:db8::53"}}
	if diff := cmp.Diff(want, seen()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := bus.ReleaseName(networkManager1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, seen()); diff != "" {
		t.Errorf("while it restarts (-want +got):\n%s", diff)
	}
	e.manager.at = e.manager.at.Add(-2 * networkManagerRestarts)
	if got := seen(); len(got) != 0 {
		t.Errorf("it is gone, and has left %v", got)
	}
	own(t, bus, networkManager1)
	// A line with servers of its own is not asked about.
	c.Uplinks[0].DNS.Auto = false
	if got := seen(); len(got) != 0 {
		t.Errorf("with servers that are configured: %v", got)
	}
}
