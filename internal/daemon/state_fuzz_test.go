package daemon

import (
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/addressing"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/counters"
	"github.com/uplinkd/uplinkd/internal/kernel/fakekernel"
	"github.com/uplinkd/uplinkd/internal/monitor"
	"github.com/uplinkd/uplinkd/internal/planinput"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/internal/store"
	"github.com/uplinkd/uplinkd/internal/store/storetest"
	"github.com/uplinkd/uplinkd/internal/usage"
	"github.com/uplinkd/uplinkd/probe"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
	"github.com/uplinkd/uplinkd/uplink"
)

const stateConfig = `
[[uplink]]
name = "fiber"
device = "wan1"
  [uplink.ipv4]
  method = "dhcp"
  [uplink.ipv6]
  method = "ra"
  delegation = true
[[uplink]]
name = "lte"
device = "wan2"
tier = 2
metered = true
quota = "20GB"
[[lan]]
device = "lan0"
prefixes_from = ["fiber"]
delegate_length = 62
`

// stateSeeds are documents as a daemon writes them, by name.
var stateSeeds = map[string]string{
	"ids":         `{"fiber":1,"lte":2}`,
	"recorded":    `{"sysctls":{"net/ipv4/conf/wan1/rp_filter":"1"},"groups":{"wan1":0},"addrs":[{"device":"wan1","prefix":"198.51.100.7/24"}],"main_owners":{"ipv4":186},"qdiscs":["wan1"]}`,
	"identity":    `{"duid":"AAQAAQIDBAUGBwgJCgsMDQ4P","secret":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","ula":"fd12:3456:789a::/48"}`,
	"leases4":     `{"fiber":{"address":"198.51.100.7/24","gateway":"198.51.100.1","routes":[{"dst":"10.0.0.0/8","gateway":"198.51.100.9"}],"server":"198.51.100.1","mtu":1400,"renew":"2030-01-01T00:00:00Z","rebind":"2030-01-01T00:00:00Z","expires":"2030-01-02T00:00:00Z"}}`,
	"leases6":     `{"fiber":{"server":"AAMAAQIAAAAAAQ==","heard":"2026-01-01T00:00:00Z","renew":"2030-01-01T00:00:00Z","rebind":"2030-01-01T00:00:00Z","prefixes":[{"iaid":1,"prefix":"2001:db8:f000:100::/56","preferred":"2030-01-01T00:00:00Z","valid":"2030-01-02T00:00:00Z"}]}}`,
	"routers6":    `{"fiber":{"routers":[{"addr":"fe80::1","preference":0,"default":true,"expires":"2030-01-01T00:00:00Z","mtu":1492,"heard":"2026-01-01T00:00:00Z"}],"prefixes":[{"prefix":"2001:db8:a::/64","on_link":true,"autonomous":true,"preferred":"2030-01-01T00:00:00Z","valid":"2030-01-01T00:00:00Z","routers":["fe80::1"]}],"addresses":[{"address":"2001:db8:a::7/64","preferred":"2030-01-01T00:00:00Z","valid":"2030-01-01T00:00:00Z","routers":["fe80::1"]}],"routes":[{"prefix":"2001:db8:9::/48","router":"fe80::1","preference":0,"expires":"2030-01-01T00:00:00Z"}],"chosen":"fe80::1"}}`,
	"lans6":       `{"lan0":{"entries":[{"prefix":"2001:db8:f000:100::/64","uplink":"fiber","delegation":"2001:db8:f000:100::/56"}]}}`,
	"downstream6": `[{"link":"lan0","client":"00:03:00:01:02:00:00:00:00:01","iaid":1,"router":"fe80::9","number":0,"parts":[{"prefix":"2001:db8:f000:1fc::/62","valid":"2030-01-01T00:00:00Z"},{"prefix":"2001:db8:e000:fc::/62","valid":"2030-01-01T00:00:00Z"}],"heard":"2026-01-01T00:00:00Z"}]`,
	"verdicts":    `{"fiber/ipv4":{"state":"down","since":"2026-01-01T00:00:00Z","memory":{"bursts":{"loss":0.01,"lost":3,"answered":100,"spacing":1,"runs":2},"damping":{"penalty":1000,"at":"2026-01-01T00:00:00Z","since":"0001-01-01T00:00:00Z","until":"0001-01-01T00:00:00Z","downs":1,"touched":"2026-01-01T00:00:00Z"}}}}`,
	"drained":     `{"lte":true}`,
	"awaits":      `{"lte/ipv4":true}`,
	"spent":       `{"day":"2026-01-01","bytes":{"lte":12345}}`,
	"volumes":     `{"lte":{"days":{"2026-01-01":5},"months":{"2026-01":5}}}`,
}

// stateBox is the machine that the documents are read on: fiber has no address yet, lte all that it needs.
func stateBox() rules.Observed {
	p := netip.MustParsePrefix
	o := rules.Observed{Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}, SeenUp: map[int]bool{},
		Links: []rules.Link{{Index: 1, Name: "lo", Up: true, Carrier: true, MTU: 65536, Loopback: true}},
		Addrs: []rules.Addr{{Device: "wan2", Prefix: p("203.0.113.2/24")}, {Device: "lan0", Prefix: p("192.168.7.1/24")}, {Device: "lan0", Prefix: p("2001:db8:7::1/64")}},
		Routes: []netcfg.Route{
			{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p("203.0.113.0/24"), Protocol: 2, Scope: 253, Src: netip.MustParseAddr("203.0.113.2"), Nexthops: []netcfg.Nexthop{{Device: "wan2"}}},
			{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p("192.168.7.0/24"), Protocol: 2, Scope: 253, Src: netip.MustParseAddr("192.168.7.1"), Nexthops: []netcfg.Nexthop{{Device: "lan0"}}},
			{Family: rules.IPv6, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p("2001:db8:7::/64"), Protocol: 2, Metric: 256, Nexthops: []netcfg.Nexthop{{Device: "lan0"}}},
			{Family: rules.IPv4, Table: netcfg.TableMain, Type: netcfg.Unicast, Dst: p("0.0.0.0/0"), Protocol: 3, Nexthops: []netcfg.Nexthop{{Device: "wan2", Gateway: netip.MustParseAddr("203.0.113.1")}}},
		}}
	for i, name := range []string{"wan1", "wan2", "lan0"} {
		o.Links = append(o.Links, rules.Link{Index: 2 + i, Name: name, Up: true, Carrier: true, MTU: 1500, Hardware: [6]byte{2, 0, 0, 0, 0, byte(i)}})
		for _, key := range []string{"rp_filter", "src_valid_mark", "arp_ignore", "arp_announce", "promote_secondaries"} {
			o.Sysctls["net/ipv4/conf/"+name+"/"+key] = "0"
		}
	}
	return o
}

// FuzzState reads documents of whatever content and meaning, as a start does, and plans. Nothing of it takes the LAN's traffic or
// changes what is not ours, and the kernel can be brought into that state.
func FuzzState(f *testing.F) {
	for name, text := range stateSeeds {
		f.Add(name, text)
	}
	for name, texts := range map[string][]string{
		"ids":         {`{"fiber":1,"lte":1}`, `{"fiber":63,"lte":-5}`, `{"fiber":2,"lte":1,"x":3}`},
		"recorded":    {`{"sysctls":{"net/ipv4/ip_forward":"0","../../tmp/x":"1"},"groups":{"wan2":4294967295},"addrs":[{"device":"wan1","prefix":"192.168.7.1/24"}],"qdiscs":["lan0",""]}`},
		"identity":    {`{"duid":"","secret":"AA==","ula":"::/48"}`, `{"duid":"AA==","secret":"","ula":"192.168.0.0/48"}`},
		"leases4":     {`{"fiber":{"address":"192.168.7.9/1","gateway":"192.168.7.1","server":"1.1.1.1","expires":"9999-12-31T23:59:59Z"},"lte":{}}`, `{"fiber":{"address":"198.51.100.7/24","gateway":"127.0.0.1","server":"1.1.1.1","mtu":65535,"routes":[{"dst":"192.168.7.0/24"}],"expires":"2030-01-01T00:00:00Z"}}`},
		"leases6":     {`{"fiber":{"prefixes":[{"iaid":1,"prefix":"::/0","valid":"9999-12-31T23:59:59Z"},{"iaid":1,"prefix":"2001:db8:7::/48","preferred":"9999-12-31T23:59:59Z","valid":"9999-12-31T23:59:59Z"}]}}`},
		"routers6":    {`{"fiber":{"routers":[{"addr":"2001:db8:7::1","default":true}],"prefixes":[{"prefix":"2000::/3","on_link":true}],"addresses":[{"address":"2001:db8:7::1/64"}],"routes":[{"prefix":"2001:db8:7::/64","router":"fe80::1"}]}}`},
		"lans6":       {`{"lan0":null}`, `{"lan0":{"entries":[{"prefix":"::/0","uplink":"x"}]}}`},
		"downstream6": {`[{"link":"lan0","client":"00:03:00:01","iaid":1,"router":"fe80::9","number":-1,"parts":[{"prefix":"2001:db8:7::/62","valid":"9999-12-31T23:59:59Z"},{"prefix":"2000::/3","valid":"9999-12-31T23:59:59Z"}]}]`, `[{"link":"lan0","client":"00:03:00:01","router":"fe80::9","parts":[{"prefix":"2001:db8:7::/62","valid":"9999-12-31T23:59:59Z"},{"prefix":"2000::/16","valid":"9999-12-31T23:59:59Z"}]}, null]`},
		"verdicts":    {`{"fiber/ipv4":{"state":"weird","memory":{"bursts":{"loss":-1,"lost":-1,"answered":-1,"spacing":1e-320,"runs":-5},"damping":{"penalty":1e308,"downs":9223372036854775807}}}}`},
		"spent":       {`{"day":"9999-99-99","bytes":{"lte":-9223372036854775808}}`},
		"volumes":     {`{"lte":null}`, `{"lte":{"days":{"9999-12-31":9223372036854775807}}}`},
	} {
		for _, text := range texts {
			f.Add(name, text)
		}
	}
	dir := f.TempDir()
	c, err := config.Parse("uplinkd.toml", []byte(stateConfig))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		if stateSeeds[name] == "" || len(text) > 1<<16 {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(filepath.Join(dir, name+".json")) }()
		now := time.Now()
		readState(t, c, store.View(dir), now)
	})
}

// FuzzStateByMeaning reads whole documents with values of the right kind that cannot be: addresses that are the LAN's, ends in the far
// future, ids that others have.
func FuzzStateByMeaning(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed)
	}
	dir := f.TempDir()
	c, err := config.Parse("uplinkd.toml", []byte(stateConfig))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		for _, name := range slices.Sorted(maps.Keys(stateSeeds)) {
			var doc any
			if err := json.Unmarshal([]byte(stateSeeds[name]), &doc); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(storetest.Hostile(r, doc, 0.2))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name+".json"), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		readState(t, c, store.View(dir), time.Now())
	})
}

// readState does what New does with a state directory.
func readState(t *testing.T, c *config.Config, state *store.Dir, now time.Time) {
	log := slog.New(slog.DiscardHandler)
	ids := make(map[string]int)
	var recorded rules.Recorded
	var saved monitor.Saved
	kept := make(map[string]any)
	save := func(document string, read func() any) { kept[document] = read() }
	a := addressing.New(addressing.Options{Log: log, Save: save, Changed: func() {}, OnEvent: func(status.Event) {}, ProbeNow: func(rules.Path) {},
		Verdict: func(rules.Path) (v uplink.Verdict, whole, ok bool) { return v, false, false }})
	var m *monitor.Monitor
	meter := usage.New(usage.Options{Log: log, Counters: func(map[int]counters.Device) (time.Time, error) { return now, nil }, Devices: func() map[string]int { return nil },
		Flows:    func() (map[string]rules.Flows, error) { return nil, nil },
		Verdicts: func() []status.PathVerdict { return nil }, Wake: func() {}, OnEvent: func(status.Event) {}, Save: save})
	documents := a.Documents()
	maps.Copy(documents, saved.Documents())
	maps.Copy(documents, meter.Documents())
	maps.Copy(documents, map[string]any{store.IDs: &ids, store.Recorded: &recorded})
	for name, v := range documents {
		_ = state.Load(name, v) // it starts afresh
	}
	a.Identify()
	a.Restore(now)
	m = monitor.New(monitor.Options{Prober: probe.New(), Log: log, Phase: now, Saved: saved, Counters: func(map[int]counters.Device) (time.Time, error) { return now, nil },
		OverQuota: meter.OverQuota, Save: save, OnTransition: func(uplink.Transition) {}, OnRTT: func(string, rules.Family, time.Duration) {}, OnEvent: func(status.Event) {}, Wake: func() {}})
	if _, err := planinput.AssignIDs(c, ids); err != nil {
		t.Fatal(err)
	}
	if ids["fiber"] == ids["lte"] || min(ids["fiber"], ids["lte"]) < 1 || max(ids["fiber"], ids["lte"]) > rules.MaxUplinks {
		t.Fatalf("ids %v", ids)
	}
	m.Configure(c, ids)
	meter.Configure(c)
	meter.Usage()
	if r, ok := meter.Report(""); ok {
		for _, u := range r.Uplinks {
			for _, f := range u.Families {
				if f.UpS < 0 || f.DownS < 0 || f.UnwatchedS < 0 {
					t.Fatalf("a report of %+v", f)
				}
			}
		}
	}
	for _, p := range m.Statuses() {
		if math.IsNaN(p.Loss) || p.Loss < 0 || p.Loss > 1 {
			t.Fatalf("loss %v", p.Loss)
		}
	}
	cfg := planinput.Build(c, ids, a.Learned(now), a.ULA(c.Daemon.ULA))
	a.AddTo(&cfg, now)
	obs := stateBox()
	obs.Recorded = recorded.Usable()
	k := fakekernel.New(cfg.Kernel, obs)
	for pass := range 3 {
		seen, err := k.Snapshot(rules.Query{})
		if err != nil {
			t.Fatal(err)
		}
		seen.Recorded = obs.Recorded
		want, report := rules.Plan(cfg, seen, m.Verdicts(rules.ReadPaths(cfg, seen)))
		ops := netcfg.Diff(rules.Ours(cfg.Kernel, seen), want)
		judge(t, ops, &report)
		if pass == 2 && len(ops) > 0 {
			t.Fatalf("it does not settle: %v", ops[0].Command())
		}
		obs.Recorded.Record(ops)
		if err := k.Apply(ops); err != nil {
			t.Fatalf("the kernel refuses: %v", err)
		}
	}
}

// judge looks for changes that harm the LAN, or what is not ours.
func judge(t *testing.T, ops []netcfg.Op, report *rules.Report) {
	lans := []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("2001:db8:7::/64")}
	for _, op := range ops {
		if strings.Contains(op.Command(), "invalid ") { // as package netip writes what is none
			t.Fatalf("it plans with nothing: %s", op.Command())
		}
		switch op := op.(type) {
		case netcfg.PutRoute:
			if slices.ContainsFunc(lans, func(lan netip.Prefix) bool { return lan.Overlaps(op.Route.Dst) && op.Route.Dst.Bits() >= lan.Bits() }) &&
				slices.ContainsFunc(op.Route.Nexthops, func(n netcfg.Nexthop) bool { return n.Device != "lan0" }) && op.Route.Table == netcfg.TableMain {
				t.Fatalf("it takes the LAN's traffic: %s", op.Command())
			}
		case netcfg.AddAddr:
			if slices.ContainsFunc(lans, func(lan netip.Prefix) bool { return lan.Contains(op.Prefix.Addr()) }) && op.Device != "lan0" && !op.Prefix.IsSingleIP() {
				t.Fatalf("it has an address of the LAN elsewhere: %s", op.Command())
			}
		case netcfg.SetSysctl:
			if !strings.HasPrefix(op.Name, "net/ipv") || strings.Contains(op.Name, "..") || strings.Contains(op.Name, "forward") {
				t.Fatalf("it sets what is not ours: %s", op.Command())
			}
		}
	}
	if c := report.Defaults[rules.IPv4]; len(c.Members) == 0 {
		t.Fatalf("nobody carries IPv4: %s", c.Reason)
	}
}
