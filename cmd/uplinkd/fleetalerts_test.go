package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/uplinkd/uplinkd/internal/lab"
)

// TestAFleetsOutageIsOneAlert gives the alerts of examples/alerts.yml and alerts-fleet.yml to an Alertmanager with
// examples/alertmanager.yml, in a namespace of its own, and asks which of them it would tell.
func TestAFleetsOutageIsOneAlert(t *testing.T) {
	t.Parallel()
	ns := fmt.Sprintf("w%d-alerts", worlds.Add(1))
	in := func(name string, args ...string) string {
		t.Helper()
		out, err := netnsCommand(ns, append([]string{name}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	in("ip", "link", "set", "lo", "up")
	const file = examples + "/alertmanager.yml"
	in("amtool", "check-config", file)
	server := netnsCommand(ns, "prometheus-alertmanager", "--config.file="+file, "--storage.path="+t.TempDir(), "--cluster.listen-address=", "--web.listen-address=127.0.0.1:9093")
	var log safeBuffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	amtool := func(args ...string) ([]byte, error) {
		return netnsCommand(ns, append([]string{"amtool", "--alertmanager.url=http://127.0.0.1:9093"}, args...)...).CombinedOutput()
	}
	told := func() (alerts []string, err error) {
		out, err := amtool("alert", "query", "--output=json") // without --inhibited
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		var list []struct{ Labels map[string]string }
		if err := json.Unmarshal(out, &list); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		for _, a := range list {
			alerts = append(alerts, strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["site"]+" "+a.Labels["instance"]))
		}
		slices.Sort(alerts)
		return alerts, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lab.Until(ctx, "Alertmanager to answer", func() error { _, err := told(); return err }); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		alerts []string // that begin
		told   []string // of all until now
	}{
		// The spare is used because the first line is down.
		{[]string{
			"UplinkDown site=office instance=a uplink=fiber family=ipv4",
			"OnSpare site=office instance=a family=ipv4",
			"OnSpare site=warehouse instance=b family=ipv4", // drained, say
		}, []string{"OnSpare warehouse b", "UplinkDown office a"}},
		// Then no line works there, in one family.
		{[]string{
			"NoUplink site=office instance=a family=ipv4",
			"UplinkDown site=office instance=a uplink=lte family=ipv4",
			"UplinkDown site=office instance=a uplink=fiber family=ipv6",
		}, []string{"NoUplink office a", "OnSpare warehouse b", "UplinkDown office a"}},
		// A site is away, with both of its routers.
		{[]string{
			"SiteUnreachable site=warehouse",
			"RouterUnreachable site=warehouse instance=b",
			"RouterUnreachable site=warehouse instance=c",
			"RouterUnreachable site=boat instance=d",
		}, []string{"NoUplink office a", "RouterUnreachable boat d", "SiteUnreachable warehouse", "UplinkDown office a"}},
		// It is this machine that is away.
		{[]string{"ManySitesUnreachable"}, []string{"ManySitesUnreachable", "NoUplink office a", "UplinkDown office a"}},
	} {
		for _, a := range step.alerts {
			if out, err := amtool(append([]string{"alert", "add"}, strings.Fields("alertname="+a)...)...); err != nil {
				t.Fatalf("%s: %v: %s", a, err, out)
			}
		}
		var got []string
		err := lab.Until(ctx, "the alerts", func() (err error) {
			if got, err = told(); err == nil && !slices.Equal(got, step.told) {
				err = fmt.Errorf("%v", got)
			}
			return err
		})
		if err != nil {
			t.Errorf("after %q (-want +got):\n%s", step.alerts, cmp.Diff(step.told, got))
		}
	}
}
