package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/uplink"
)

// ownTiers are the lines of an example that would stand behind the tables which the lab adds, or that name a kind of
// device which the lab has not.
var ownTiers = regexp.MustCompile(`(?m)^(tier|weight|kind) .*$`)

// promised is a world whose router has an example's configuration, on the lab's devices and with its targets. The
// lab calls the first uplink fiber and the second lte, whatever the example does.
func promised(t *testing.T, example string) *router {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, example))
	if err != nil {
		t.Fatal(err)
	}
	config := ownTiers.ReplaceAllString(string(text), "")
	config = strings.NewReplacer(`"eth1"`, `"wan1"`, `"eth2"`, `"wan2"`, `"wg0"`, `"wan2"`, `"br-lan"`, `"lan0"`).Replace(config)
	config = strings.NewReplacer(`device = "wan1"`, "device = \"wan1\"\nweight = 3\n"+families,
		`device = "wan2"`, "device = \"wan2\"\ntier = 2\n"+families).Replace(config)
	r := newRouter(t, lab.Options{}, config)
	for _, target := range []string{selected4, selected6} {
		if err := errors.Join(r.Host("inet").ServeUDPEcho(context.Background(), addrPort(target)),
			r.Host("inet").ServeTCPEcho(context.Background(), addrPort(target))); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// up starts the daemon and waits until all is up.
func (r *router) up() {
	r.Helper()
	r.start()
	r.await("the uplinks to be up", func() error {
		for _, u := range r.status().Uplinks {
			if u.IPv4.State != uplink.Up || u.IPv6.State != uplink.Up {
				return fmt.Errorf("%s is %s and %s", u.Name, u.IPv4.State, u.IPv6.State)
			}
		}
		return nil
	})
}

// over opens one new flow of any network and returns the uplink that it took.
func (r *router) over(from, network, target string) (string, error) {
	probe := &lab.FlowProbe{From: r.Host(from), Network: network, Target: addrPort(target)}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // one flow
	if err := probe.Run(ctx); err != nil {
		return "", err
	}
	flow := probe.Flows()[0]
	return r.UplinkOf(flow.Source.Addr()), flow.Err
}

// want is a new flow and the uplink that it is to take; "" for none.
type want struct{ from, network, target, uplink string }

func (r *router) awaitAll(wants []want) {
	r.Helper()
	for _, w := range wants {
		r.await(fmt.Sprintf("%+v", w), func() error {
			got, err := r.over(w.from, w.network, w.target)
			switch {
			case w.uplink == "" && err == nil:
				return fmt.Errorf("by %q", got)
			case w.uplink != "" && err == nil && got != w.uplink:
				return fmt.Errorf("by %q", got)
			case w.uplink == "":
				return nil
			}
			return err
		})
	}
}

// TestEveryExampleOfPoliciesKeepsItsPromise checks who carries what, while all is well, when the policy's uplink is
// dead, and after its return. Packets that must never take the other uplink are counted at its provider.
func TestEveryExampleOfPoliciesKeepsItsPromise(t *testing.T) {
	t.Parallel()
	both := func(from, network string, well, dead string, targets ...string) (up, down []want) {
		for _, target := range targets {
			up = append(up, want{from, network, target, well})
			down = append(down, want{from, network, target, dead})
		}
		return up, down
	}
	type promise struct {
		from, network string
		targets       []string
		well, dead    string // uplink
	}
	for example, c := range map[string]struct {
		breaks   string // the policy's uplink
		promises []promise
		never    []string // destinations of which the other uplink's provider must see nothing
	}{
		"policy-destinations.toml": {breaks: "lte", promises: []promise{
			{"lan", "udp", []string{selected4, selected6}, "lte", "fiber"},
			{"router", "tcp", []string{selected4, selected6}, "lte", "fiber"},
			{"lan", "udp", []string{other4, other6}, "fiber", "fiber"},
		}},
		"policy-tcp-tunnel.toml": {breaks: "lte", promises: []promise{
			{"lan", "tcp", []string{other4, other6}, "lte", "fiber"},
			{"lan", "tcp", []string{selected4}, "fiber", "fiber"}, // excepted
			{"lan", "udp", []string{other4, other6}, "fiber", "fiber"},
			{"router", "tcp", []string{other4, other6}, "fiber", "fiber"},
		}},
		"policy-host.toml": {breaks: "lte", never: []string{selected4, selected6, other4, other6}, promises: []promise{
			{"lan", "udp", []string{selected4, selected6, other4, other6}, "lte", ""},
		}},
		"policy-share.toml": {breaks: "fiber", promises: []promise{
			{"router", "udp", []string{other4, other6}, "fiber", "lte"},
		}},
	} {
		t.Run(example, func(t *testing.T) {
			r := promised(t, example)
			leaked := func() int { return 0 }
			if c.never != nil {
				other := map[string]string{"fiber": "lte", "lte": "fiber"}[c.breaks]
				leaked = r.watch(other, c.never...)
			}
			r.up()
			var well, dead []want
			for _, p := range c.promises {
				up, down := both(p.from, p.network, p.well, p.dead, p.targets...)
				well, dead = append(well, up...), append(dead, down...)
			}
			r.awaitAll(well)
			if err := r.Break(lab.Blackhole, c.breaks); err != nil {
				t.Fatal(err)
			}
			r.awaitAll(dead)
			if err := r.Heal(); err != nil {
				t.Fatal(err)
			}
			r.awaitAll(well)
			if n := leaked(); n != 0 {
				t.Errorf("%d packets leaked", n)
			}
			if n := r.foreign(); n != 0 {
				t.Errorf("%d packets left with a foreign source", n)
			}
			r.await("no problem to be left", func() error { // the other family may need a moment more
				if problems := r.status().Problems; len(problems) != 0 {
					return fmt.Errorf("%+v", problems)
				}
				return nil
			})
		})
	}
}

// What a user's programs send is asked for by a shell of that user.
func TestTheExampleOfAUserKeepsItsPromise(t *testing.T) {
	r := promised(t, "policy-user.toml")
	leaked := r.watch("fiber", selected4, selected6)
	as := func(uid int, target string) (string, error) {
		at := addrPort(target)
		out, err := r.Host("router").Run("timeout", "2", "setpriv", fmt.Sprintf("--reuid=%d", uid), "--clear-groups", "bash", "-c",
			fmt.Sprintf("exec 3<>/dev/udp/%v/%d && echo hello >&3 && head -n1 <&3", at.Addr(), at.Port()))
		if err != nil {
			return "", err
		}
		source, err := netip.ParseAddrPort(strings.Fields(out)[0])
		return r.UplinkOf(source.Addr()), err
	}
	r.up()
	check := func(uid int, target, uplink string) {
		t.Helper()
		r.await(fmt.Sprintf("user %d to %s by %q", uid, target, uplink), func() error {
			got, err := as(uid, target)
			if (err == nil) != (uplink != "") || got != uplink {
				return fmt.Errorf("by %q: %w", got, errors.Join(err, errors.New("not yet")))
			}
			return nil
		})
	}
	for _, target := range []string{selected4, selected6} {
		check(1001, target, "lte")
	}
	for _, target := range []string{other4, other6} {
		check(1002, target, "fiber")
	}
	if err := r.Break(lab.Carrier, "lte"); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{selected4, selected6} {
		check(1001, target, "")
	}
	if n := leaked(); n != 0 {
		t.Errorf("%d packets leaked", n)
	}
}

// Mail is what goes to a port, and every other port is free to go by LTE.
func TestTheExampleOfMailKeepsItsPromise(t *testing.T) {
	t.Parallel()
	r := promised(t, "policy-mail.toml")
	if err := r.Host("inet").ServeTCPEcho(context.Background(), addrPort("192.0.2.2:25")); err != nil {
		t.Fatal(err)
	}
	r.sh("isp2", `nft 'table inet watched { counter seen { }
		chain forward { type filter hook forward priority 0; tcp dport 25 counter name seen
		}
		}'`)
	r.up()
	r.awaitAll([]want{{"lan", "tcp", "192.0.2.2:25", "fiber"}, {"router", "tcp", "192.0.2.2:25", "fiber"}})
	if err := r.Break(lab.Blackhole, "fiber"); err != nil {
		t.Fatal(err)
	}
	r.awaitAll([]want{{"lan", "tcp", selected4, "lte"}, {"lan", "tcp", "192.0.2.2:25", ""}, {"router", "tcp", "192.0.2.2:25", ""}})
	if err := r.Heal(); err != nil {
		t.Fatal(err)
	}
	r.awaitAll([]want{{"lan", "tcp", "192.0.2.2:25", "fiber"}})
	if out := r.sh("isp2", "nft list counter inet watched seen"); !strings.Contains(out, "packets 0 ") {
		t.Errorf("mail left by LTE:\n%s", out)
	}
}

// Sources are spread over the uplinks, each always by the same one.
func TestASourceStaysOnItsUplink(t *testing.T) {
	r := promised(t, "policy-share.toml")
	for n := range 24 {
		r.sh("lan", fmt.Sprintf("ip address add 203.0.113.%d/25 dev eth0; ip -6 address add 2001:db8:1::%x/64 dev eth0 nodad", 140+n, 140+n))
	}
	r.up()
	for _, target := range []string{other4, other6} {
		used := make(map[string]int)
		byLTE := "" // a source
		for n := range 24 {
			source := fmt.Sprintf("203.0.113.%d", 140+n)
			if strings.HasPrefix(target, "[") {
				source = fmt.Sprintf("2001:db8:1::%x", 140+n)
			}
			p := &lab.FlowProbe{From: r.Host("lan"), Network: "udp", Source: netip.MustParseAddr(source), Target: addrPort(target), Timeout: unhurried}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			by := ""
			for range 5 {
				if err := p.Run(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for _, flow := range p.Flows() {
				got := r.UplinkOf(flow.Source.Addr())
				if flow.Err != nil || by != "" && got != by {
					t.Errorf("%s went by %q, and then by %q (%v)", source, by, got, flow.Err)
				}
				by = got
			}
			if used[by]++; by == "lte" {
				byLTE = source
			}
		}
		if len(used) != 2 || used["fiber"] < used["lte"] {
			t.Errorf("sources to %s are spread %v, of which fiber should have three quarters", target, used)
		}
		r.voice(byLTE, target)
	}
}

// voice checks that code points take the uplink of their policy, from a source that takes the other one otherwise.
func (r *router) voice(source, target string) {
	r.Helper()
	for _, c := range []struct {
		tos    int
		uplink string
	}{{0, "lte"}, {46 << 2, "fiber"}, {40 << 2, "fiber"}, {10 << 2, "lte"}, {44 << 2, "lte"}} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		conn, err := r.Host("lan").Dial(ctx, "udp", source, target)
		if err != nil {
			r.Fatal(err)
		}
		if strings.HasPrefix(target, "[") {
			err = ipv6.NewConn(conn).SetTrafficClass(c.tos)
		} else {
			err = ipv4.NewConn(conn).SetTOS(c.tos)
		}
		if err != nil {
			r.Fatal(err)
		}
		seen, err := lab.AskUDP(ctx, conn, []byte("hello"))
		if by := r.UplinkOf(seen.Addr()); err != nil || by != c.uplink {
			r.Errorf("from %s to %s with the field %#x by %q (%v), want %s", source, target, c.tos, by, err, c.uplink)
		}
		_ = conn.Close()
		cancel()
	}
}

// A filled set decides from the moment that another program has put an address into it.
func TestASetThatAnotherProgramFillsSelects(t *testing.T) {
	r := promised(t, "policy-destinations.toml")
	r.up()
	r.awaitAll([]want{{"lan", "udp", other4, "fiber"}, {"router", "udp", other6, "fiber"}})
	r.sh("router", "nft add element inet uplinkd_policy streaming4 '{ 192.0.2.1 }'; nft add element inet uplinkd_policy streaming6 '{ 2001:db8:ffff::1 }'")
	filled := []want{{"lan", "udp", other4, "lte"}, {"lan", "tcp", other6, "lte"}, {"router", "tcp", other4, "lte"}}
	r.awaitAll(filled)
	r.kill()
	r.up()
	r.awaitAll(filled)
	// So does a mark that somebody else's packet filter sets.
	r.sh("router", `nft flush set inet uplinkd_policy streaming4; nft 'table inet others { chain marks { type filter hook prerouting priority -170; iifname "lan0" udp dport 7 meta mark set 0x101
		}
		}'`)
	r.awaitAll([]want{{"lan", "udp", other4, "lte"}, {"lan", "tcp", other4, "fiber"}})
}
