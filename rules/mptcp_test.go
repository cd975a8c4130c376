package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

func TestEndpointsOfMultipathTCPAreThePathsThatWork(t *testing.T) {
	others := func(addresses ...string) (list []netcfg.Endpoint) {
		for i, a := range addresses {
			list = append(list, netcfg.Endpoint{ID: uint8(i + 1), Addr: netip.MustParseAddr(a), Device: "lo"})
		}
		return list
	}
	for name, c := range map[string]struct {
		change func(w *world)
		want   string // address/b for a backup
		limit  uint32
		code   string // of a problem
	}{
		"all well": {func(*world) {}, "198.51.100.2 2001:db8:a::2 203.0.113.2 2001:db8:b::2", 4, ""},
		"a spare":  {func(w *world) { w.cfg.Uplinks[1].Tier = 2 }, "198.51.100.2 2001:db8:a::2 203.0.113.2/b 2001:db8:b::2/b", 4, ""},
		"dead":     {func(w *world) { w.setDown("wan1") }, "203.0.113.2 2001:db8:b::2", 2, ""},
		"drained": {func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv4}] = rules.Verdict{Health: rules.Good, Drained: true}
		}, "2001:db8:a::2 203.0.113.2 2001:db8:b::2", 3, ""},
		"suspect": {func(w *world) {
			w.verdicts[rules.Path{Uplink: 1, Family: rules.IPv4}] = rules.Verdict{Health: rules.Doubtful}
		}, "198.51.100.2/b 2001:db8:a::2 203.0.113.2 2001:db8:b::2", 4, ""},
		"off":             {func(w *world) { w.cfg.MPTCP = false }, "", 2, ""},
		"not in a kernel": {func(w *world) { w.obs.MPTCP = &rules.MPTCP{Impossible: "the kernel has no Multipath TCP"} }, "", 0, "no-mptcp"},
		"somebody's":      {func(w *world) { w.obs.MPTCP.Endpoints = others("203.0.113.2") }, "198.51.100.2 2001:db8:a::2 2001:db8:b::2", 4, ""},
		"little room": {func(w *world) {
			w.cfg.Uplinks[0].Tier = 2
			w.obs.MPTCP.Endpoints = others("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5")
		}, "198.51.100.2/b 203.0.113.2 2001:db8:b::2", 8, "mptcp-room"},
		"no room": {func(w *world) {
			w.obs.MPTCP.Endpoints = others("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8")
		}, "", 8, "mptcp-room"},
	} {
		t.Run(name, func(t *testing.T) {
			w := dual()
			w.cfg.MPTCP, w.obs.MPTCP = true, &rules.MPTCP{Subflows: 2}
			if name == "off" {
				former := uint32(2)
				w.obs.Recorded.MPTCP, w.obs.Recorded.Subflows, w.obs.MPTCP.Subflows = true, &former, 4
			}
			c.change(w)
			want, report := w.plan()
			var got []string
			for _, e := range want.Endpoints {
				text := e.Addr.String()
				if e.Backup {
					text += "/b"
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(strings.Fields(c.want), got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if limit := want.Subflows; (limit == nil) != (c.limit == 0) || limit != nil && *limit != c.limit {
				t.Errorf("limit %v, want %d", limit, c.limit)
			}
			code := ""
			for _, p := range report.Problems {
				if strings.Contains(p.Code, "mptcp") {
					code = p.Code
				}
			}
			if code != c.code {
				t.Errorf("problem %q, want %q", code, c.code)
			}
			if c.code == "" {
				w.converge(t)
			}
		})
	}
}

func TestEndpointsChangeInPlaceWhereTheyCan(t *testing.T) {
	limit := func(n uint32) *uint32 { return &n }
	e := func(id uint8, address string, backup bool) netcfg.Endpoint {
		return netcfg.Endpoint{ID: id, Addr: netip.MustParseAddr(address), Device: "wan1", Backup: backup}
	}
	have := netcfg.State{Endpoints: []netcfg.Endpoint{e(128, "192.0.2.1", false), e(129, "192.0.2.2", false), e(130, "192.0.2.3", true)}, Subflows: limit(2)}
	want := netcfg.State{Endpoints: []netcfg.Endpoint{e(128, "192.0.2.1", true), e(129, "192.0.2.9", false), e(131, "192.0.2.4", true)}, Subflows: limit(3)}
	var got []string
	for _, op := range netcfg.Diff(have, want) {
		got = append(got, op.Command())
	}
	commands := []string{
		"ip mptcp endpoint change id 128 backup",
		"ip mptcp endpoint delete id 129",
		"ip mptcp endpoint delete id 130",
		"ip mptcp limits set subflow 3",
		"ip mptcp endpoint add 192.0.2.9 id 129 dev wan1 subflow",
		"ip mptcp endpoint add 192.0.2.4 id 131 dev wan1 subflow backup",
	}
	if diff := cmp.Diff(commands, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if ops := netcfg.Diff(want, want); len(ops) != 0 {
		t.Errorf("%v", ops)
	}
}
