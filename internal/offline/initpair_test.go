package offline

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/discovery"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// pairMachine is the first router of examples/pair: a line with a fixed address, a leased one, and a LAN.
func pairMachine() *rules.Observed {
	obs := machineWith("eth1", "eth2")
	obs.Routes[1].Nexthops[0].Gateway = netip.MustParseAddr("203.0.113.1")
	obs.Routes = append(obs.Routes, netcfg.Route{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: rules.IPv6.Default(), Metric: 1024, Protocol: 4,
		Nexthops: []netcfg.Nexthop{{Device: "eth1", Gateway: netip.MustParseAddr("fe80::1"), Weight: 1}}})
	obs.Links = append(obs.Links, rules.Link{Index: 9, Name: "br-lan", Kind: "bridge", Up: true, Carrier: true})
	obs.Addrs = []rules.Addr{
		{Device: "eth1", Prefix: netip.MustParsePrefix("198.51.100.2/26")},
		{Device: "eth1", Prefix: netip.MustParsePrefix("2001:db8:a::2/64")},
		{Device: "eth2", Prefix: netip.MustParsePrefix("203.0.113.10/26"), Dynamic: true},
		{Device: "br-lan", Prefix: netip.MustParsePrefix("192.168.7.2/24")},
	}
	return obs
}

var pairOptions = PairOptions{Virtual: netip.MustParseAddr("192.168.7.1"), Peer: netip.MustParseAddr("192.168.7.3")}

func TestAPairIsProposedAsTheExamplesAre(t *testing.T) {
	list, err := proposePair(pairMachine(), discovery.Machine{}, nil, pairOptions)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]pairFile)
	for _, f := range list {
		files[f.name] = f
	}
	for _, name := range []string{"keepalived.conf", "conntrackd.conf", "pair-flows"} {
		want, err := os.ReadFile("../../examples/pair/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), files["first/"+name].text); diff != "" {
			t.Errorf("%s, -example +proposed:\n%s", name, diff)
		}
	}
	if files["first/keepalived.conf"].text != files["second/keepalived.conf"].text || files["first/pair-flows"].mode != 0o755 {
		t.Error("keepalived.conf differs, or pair-flows cannot be run")
	}
	swapped := strings.NewReplacer("192.168.7.2", "192.168.7.3", "192.168.7.3", "192.168.7.2")
	if diff := cmp.Diff(swapped.Replace(files["first/conntrackd.conf"].text), files["second/conntrackd.conf"].text); diff != "" {
		t.Error(diff)
	}
	key := files["first/pair.key"]
	if key.text != files["second/pair.key"].text || key.mode != 0o600 || len(key.text) != 45 {
		t.Errorf("%+v", key)
	}
	if again, _ := proposePair(pairMachine(), discovery.Machine{}, nil, pairOptions); again[1].text == key.text {
		t.Error("the key is always the same")
	}
	for name, peer := range map[string]string{"first": "192.168.7.3:9276", "second": "192.168.7.2:9276"} {
		text := files[name+"/uplinkd.toml"].text
		for _, whole := range []string{text, uncommented(text)} {
			c, err := config.Parse(name, []byte(whole))
			if err != nil {
				t.Fatalf("%v\n%s", err, whole)
			}
			got := fmt.Sprintf("%v %s %v %v", c.Pair.Virtual, c.Pair.Device, c.Pair.Peer, c.Pair.Prepare)
			for _, u := range c.Uplinks {
				got += fmt.Sprintf("; %s %d %t %t %s", u.Device, u.ID, u.Shared, u.PrimaryOnly, u.IPv4.Method)
			}
			want := "[192.168.7.1 fe80::7:1] br-lan " + peer + " [/etc/uplinkd/pair-flows prepare]; eth1 1 true false auto; eth2 2 false true dhcp"
			if got != want {
				t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
			}
		}
	}
}

func TestWhatAPairNeedsIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		change func(obs *rules.Observed, o *PairOptions)
		want   string
	}{
		"no such LAN":    {func(_ *rules.Observed, o *PairOptions) { o.Virtual = netip.MustParseAddr("192.168.8.1") }, "no device of a LAN has an address in a network with 192.168.8.1"},
		"another device": {func(_ *rules.Observed, o *PairOptions) { o.LAN = "br-guests" }, "br-guests has no address in a network with 192.168.7.1"},
		"the address is its own": {func(obs *rules.Observed, _ *PairOptions) {
			obs.Addrs[3].Prefix = netip.MustParsePrefix("192.168.7.1/24")
		}, "192.168.7.1 is this router's own address on br-lan, and becomes the one that moves: say by --own"},
		"own is virtual":      {func(_ *rules.Observed, o *PairOptions) { o.Own = o.Virtual }, "--own 192.168.7.1 is the virtual address"},
		"own is elsewhere":    {func(_ *rules.Observed, o *PairOptions) { o.Own = netip.MustParseAddr("192.168.8.2") }, "--own 192.168.8.2 is not in 192.168.7.0/24, the network of br-lan"},
		"peer is elsewhere":   {func(_ *rules.Observed, o *PairOptions) { o.Peer = netip.MustParseAddr("192.168.8.3") }, "--peer 192.168.8.3 is not in 192.168.7.0/24, the network of br-lan"},
		"peer is this router": {func(_ *rules.Observed, o *PairOptions) { o.Peer = netip.MustParseAddr("192.168.7.2") }, "--peer 192.168.7.2 must be the other router's own address"},
		"no lines":            {func(obs *rules.Observed, _ *PairOptions) { obs.Routes = nil }, "no device of this machine has a default route now"},
		"two such networks": {func(obs *rules.Observed, _ *PairOptions) {
			obs.Addrs = append(obs.Addrs, rules.Addr{Device: "br-guests", Prefix: netip.MustParsePrefix("192.168.7.9/24")})
		}, "192.168.7.1 is in the networks of br-lan and br-guests: name the LAN with --lan"},
	} {
		obs, o := pairMachine(), pairOptions
		c.change(obs, &o)
		if _, err := proposePair(obs, discovery.Machine{}, nil, o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want: %s", name, err, c.want)
		}
	}
}

func TestLinesOfAPairHaveTheirOwnNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "lines")
		var devices []string
		known := make(map[string]int)
		for i := range n {
			devices = append(devices, fmt.Sprintf("wan%d", i))
		}
		for i, id := range rapid.SliceOfNDistinct(rapid.IntRange(1, 8), 0, n, rapid.ID).Draw(t, "ids of before") {
			known[devices[i]] = id
		}
		obs := machineWith(devices...)
		obs.Links = append(obs.Links, rules.Link{Index: 90, Name: "br-lan", Up: true})
		obs.Addrs = []rules.Addr{{Device: "br-lan", Prefix: netip.MustParsePrefix("192.168.7.2/24")}}
		for i, device := range devices {
			if rapid.Bool().Draw(t, "has an address") {
				obs.Addrs = append(obs.Addrs, rules.Addr{Device: device, Dynamic: rapid.Bool().Draw(t, "leased"), Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i*8 + 2)}), 29)})
			}
		}
		list, err := proposePair(obs, discovery.Machine{}, known, pairOptions)
		if err != nil {
			t.Fatal(err)
		}
		var before []string
		for _, f := range list {
			if filepath.Base(f.name) != "uplinkd.toml" {
				continue
			}
			c, err := config.Parse(f.name, []byte(f.text))
			if err != nil || len(c.Uplinks) != n {
				t.Fatalf("%v\n%s", err, f.text)
			}
			var lines []string
			seen := make(map[int]bool)
			for _, u := range c.Uplinks {
				if seen[u.ID] || u.Shared == u.PrimaryOnly || known[u.Name] != 0 && known[u.Name] != u.ID {
					t.Fatalf("%+v", u)
				}
				seen[u.ID] = true
				lines = append(lines, fmt.Sprint(u.Name, u.ID, u.Shared))
			}
			if before != nil && cmp.Diff(before, lines) != "" {
				t.Fatal("the two differ")
			}
			before = lines
		}
	})
}

func TestFilesOfAPairOverwriteNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pair")
	content := []pairFile{{"first/a", "one", 0o600}, {"second/b", "two", 0o755}}
	written, err := writePair(dir, content)
	if err != nil || len(written) != 2 {
		t.Fatal(written, err)
	}
	for _, f := range content {
		info, err := os.Stat(filepath.Join(dir, f.name))
		if err != nil || info.Mode().Perm() != f.mode {
			t.Error(info, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "first/a")); err != nil {
		t.Fatal(err)
	}
	written, err = writePair(dir, []pairFile{{"first/a", "other", 0o600}, {"second/b", "other", 0o755}})
	if err == nil || len(written) != 0 || !strings.Contains(err.Error(), "second/b is there already, and nothing is overwritten") {
		t.Error(written, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "first/a")); err == nil {
		t.Error("a part was written")
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "second/b")); string(text) != "two" {
		t.Errorf("overwritten: %s", text)
	}
}
