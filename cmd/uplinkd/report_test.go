package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/uplink"
)

// report is what the command says of an uplink's IPv4.
func (r *router) report(uplink string) (status.ReportedFamily, error) {
	r.Helper()
	u, err := r.reportOf(uplink)
	for _, f := range u.Families {
		if f.Family == "ipv4" {
			return f, nil
		}
	}
	return status.ReportedFamily{}, errors.Join(err, fmt.Errorf("nothing is said of the IPv4 of %s", uplink))
}

func (r *router) reportOf(uplink string) (status.ReportedUplink, error) {
	r.Helper()
	var report status.Report
	if err := json.Unmarshal([]byte(r.command("report", "--json", "--socket", filepath.Join(r.dir, "s"))), &report); err != nil {
		r.Fatal(err)
	}
	for _, u := range report.Uplinks {
		if u.Name == uplink {
			return u, nil
		}
	}
	return status.ReportedUplink{}, fmt.Errorf("nothing is said of %s", uplink)
}

// The report counts connections from either end, and none that the daemon makes to look whether a line works.
func TestTheReportHasTheFlows(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.up()
	expect := func(when string, out, in int64) {
		t.Helper()
		u, err := r.reportOf("fiber")
		if err != nil || u.FlowsOut != out || u.FlowsIn != in {
			t.Errorf("%s: %d out, %d in, %v; want %d and %d", when, u.FlowsOut, u.FlowsIn, err, out, in)
		}
	}
	before, err := r.reportOf("fiber")
	if err != nil {
		t.Fatal(err)
	}
	out, in := before.FlowsOut, before.FlowsIn
	far, near := r.Uplink("fiber"), netip.MustParseAddr("192.0.2.1")
	for n := range 20 {
		conn, err := r.Host("lan").Dial(r.Context(), "udp", "", netip.AddrPortFrom(near, uint16(4000+n)).String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		_ = conn.Close()
	}
	for n := range 7 {
		conn, err := r.Host(lab.Internet).Dial(r.Context(), "udp", "", netip.AddrPortFrom(far.Address4.Addr(), uint16(4000+n)).String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		_ = conn.Close()
	}
	expect("after 20 and 7", out+20, in+7)
	r.sh("router", "nft flush ruleset")
	r.await("our table", func() error { _, err := r.Host("router").Run("nft", "list", "table", "inet", "uplinkd"); return err })
	expect("after a flush by somebody", out+20, in+7)
}

// TestTheReportHasOutagesOverKillsAndDamage kills the daemon within an outage of the fiber, and again while all is well, and damages its document.
func TestTheReportHasOutagesOverKillsAndDamage(t *testing.T) {
	t.Parallel()
	r := newRouter(t, lab.Options{}, dualWAN)
	r.up()
	if err := r.Break(lab.Upstream, "fiber"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.awaitState("fiber", uplink.Down)
	r.await("the outage in the report", func() error {
		f, err := r.report("fiber")
		if err == nil && (len(f.Outages) != 1 || !f.Outages[0].End.IsZero() || f.DownS == 0) {
			err = fmt.Errorf("%+v", f)
		}
		return err
	})
	r.kill()
	r.start()
	r.awaitElapsed(time.Now(), 6*time.Second) // the verdict is one of this run
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	var outage status.Outage
	r.await("its end in the report", func() error {
		f, err := r.report("fiber")
		if err != nil || len(f.Outages) != 1 || f.Outages[0].End.IsZero() {
			return errors.Join(err, fmt.Errorf("%+v", f.Outages))
		}
		outage = f.Outages[0]
		return nil
	})
	ended := time.Now()
	if late := outage.Begin.Sub(began); late < 0 || late > 30*time.Second || outage.End.After(ended) || !outage.EndSeen || outage.Code != string(uplink.CodeSilence) || len(outage.Evidence) == 0 ||
		outage.LengthS < 5 || outage.LengthS > outage.End.Sub(outage.Begin.Time).Seconds() {
		t.Errorf("%+v, broken at %v and whole before %v", outage, began, ended)
	}
	if lte, err := r.report("lte"); err != nil || len(lte.Outages) != 0 || lte.DownS != 0 || lte.Availability == nil || *lte.Availability != 1 || lte.RTTp50ms == 0 {
		t.Errorf("of lte: %+v, %v", lte, err)
	}
	r.awaitState("fiber", uplink.Up)
	r.kill()
	r.start()
	r.awaitState("fiber", uplink.Up)
	if f, err := r.report("fiber"); err != nil || len(f.Outages) != 1 || !f.Outages[0].Begin.Equal(outage.Begin.Time) {
		t.Errorf("after a kill while all is well: %+v, %v", f, err)
	}
	for option, want := range map[string]string{"--csv": "fiber,ipv4,", "--html": "<h2>fiber</h2>", "--month=2026-01": "nothing was seen in this month", "--socket=" + filepath.Join(r.dir, "s"): "fiber: received"} {
		if text := r.command("report", option, "--socket", filepath.Join(r.dir, "s")); !strings.Contains(text, want) {
			t.Errorf("%s says\n%s", option, text)
		}
	}
	r.stop()
	if err := os.WriteFile(filepath.Join(r.dir, "state", "availability.json"), []byte("{\"months\": ["), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await("a report that starts afresh", func() error {
		f, err := r.report("fiber")
		if err == nil && (f.UpS == 0 || len(f.Outages) != 1) { // the log is another file
			err = fmt.Errorf("%+v", f)
		}
		return err
	})
	if s := r.status(); len(s.Problems) == 0 || s.Problems[0].Code != "state-damaged" {
		t.Errorf("%+v", s.Problems)
	}
}
