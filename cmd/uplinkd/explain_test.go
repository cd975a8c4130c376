package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/api"
	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// TestExplainSaysWhereEachPacketGoesAndWhichLineMadeItSo asks the running daemon about what its admin wonders, and
// has every answer confirmed by the kernel.
func TestExplainSaysWhereEachPacketGoesAndWhichLineMadeItSo(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.start()
	r.awaitState("fiber", uplink.Up)
	r.awaitState("lte", uplink.Up)
	explain := func(args ...string) api.Explanation {
		t.Helper()
		var e api.Explanation
		out := r.command(append([]string{"explain", "--json", "--socket", filepath.Join(r.dir, "s")}, args...)...)
		if err := json.Unmarshal([]byte(out), &e); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !e.Kernel.Asked || !e.Kernel.Agrees {
			t.Errorf("%v: the kernel says %+v", args, e.Kernel)
		}
		return e
	}
	for _, c := range []struct {
		asked                  string
		outcome, uplink, table string
		step, key              string
	}{
		{"--to 192.0.2.1", "leaves", "fiber", "11701", "from 198.51.100.2/32 lookup 11701", "ipv4"},
		{"--to 192.0.2.1 --from 203.0.113.2 --proto tcp --dport 443", "leaves", "lte", "11702", "from 203.0.113.2/32 lookup 11702", "ipv4"},
		{"--to 192.0.2.1 --from 203.0.113.130 --iif lan0", "leaves", "fiber", "11700", "lookup 11700", "kernel.rule_priority"},
		{"--to 203.0.113.130 --from 192.0.2.9 --iif wan2", "leaves", "", "254", "nftables chain prerouting", "device"},
		{"--to 2001:db8:ffff::1 --oif wan2", "leaves", "lte", "11702", "oif wan2 lookup 11702", "device"},
		{"--to 2001:db8:1::2 --mark 0x02000000", "leaves", "", "254", "lookup 254 suppress_prefixlength 3 suppress_ifgroup 117", "kernel.rule_priority"},
		{"--to 203.0.113.129", "local", "", "", "", ""},
	} {
		e := explain(strings.Fields(c.asked)...)
		if string(e.Outcome) != c.outcome {
			t.Errorf("%s: %s, %s", c.asked, e.Outcome, e.Reason)
			continue
		}
		if c.outcome == "leaves" && (len(e.Egresses) != 1 || e.Egresses[0].Uplink != c.uplink) {
			t.Errorf("%s: it leaves by %+v", c.asked, e.Egresses)
		}
		found := c.step == ""
		for _, s := range e.Steps {
			if s.Counts && strings.Contains(s.What, c.step) && s.Key == c.key {
				found = true
				if s.Uplink != "" && s.Line == 0 {
					t.Errorf("%s: %q has no line", c.asked, s.What)
				}
			}
		}
		if !found {
			t.Errorf("%s: no step %q, %q: %+v", c.asked, c.step, c.key, e.Steps)
		}
	}
	// What will happen when this cable is linkDown, and what does.
	linkDown := func(args ...string) api.Explanation {
		t.Helper()
		var e api.Explanation
		if err := json.Unmarshal([]byte(r.command(append([]string{"explain", "--json", "--socket", filepath.Join(r.dir, "s"), "--without", "fiber"}, args...)...)), &e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := linkDown("--to", "192.0.2.1"); len(e.Egresses) != 1 || e.Egresses[0].Uplink != "lte" || e.Kernel.Asked || e.Without != "fiber" {
		t.Errorf("without fiber it would leave by %+v", e.Egresses)
	}
	if e := linkDown("--to", "192.0.2.1", "--from", "203.0.113.130", "--iif", "lan0"); len(e.Egresses) != 1 || e.Egresses[0].Uplink != "lte" {
		t.Errorf("without fiber the LAN would leave by %+v", e.Egresses)
	}
	if err := r.Break(lab.Carrier, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitState("fiber", uplink.Down)
	r.await("the kernel to follow", r.converged)
	if e := explain("--to", "192.0.2.1"); len(e.Egresses) != 1 || e.Egresses[0].Uplink != "lte" {
		t.Errorf("without fiber it leaves by %+v", e.Egresses)
	}
	if e := explain("--to", "192.0.2.1", "--mark", "0x01000000"); e.Outcome != "refused" && e.Egresses[0].Uplink != "fiber" {
		t.Errorf("what is pinned to fiber: %s %+v", e.Outcome, e.Egresses)
	}
}
