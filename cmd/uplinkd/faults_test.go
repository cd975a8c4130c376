package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/uplinkd/uplinkd/internal/lab"
)

func nothing(*chaos) {}

// scripted is a fault that is done, and undone, by commands on the router. What it does may be there or gone already.
func scripted(name, uplink, do, undo string) fault {
	run := func(text string) func(c *chaos) {
		if text == "" {
			return nothing
		}
		return func(c *chaos) { c.sh("router", "set +e; "+text+"\ntrue") }
	}
	return fault{name: name, uplink: uplink, do: run(do), undo: run(undo)}
}

// commonFaults are those of links, of other programs, of the configuration, and of the daemon.
func (c *chaos) commonFaults() []fault {
	list := append(c.linkFaults("lte"), c.linkFaults("fiber")...)
	list = append(list, programFaults()...)
	return append(list, c.ownFaults()...)
}

func (c *chaos) linkFaults(uplink string) []fault {
	var list []fault
	for _, kind := range []string{lab.Carrier, lab.Blackhole, lab.Upstream, lab.Gateway, "loss=40"} {
		list = append(list, fault{name: kind + " of " + uplink, uplink: uplink,
			do: func(c *chaos) { c.must(c.Break(kind, uplink)) },
			// Healing one way of breaking heals all, so what else is broken is broken again.
			undo: func(c *chaos) { c.renumber(uplink, func() error { return c.HealOne(uplink) }) }})
	}
	device := c.Uplink(uplink).Device
	set := func(state string) string { return fmt.Sprintf("ip link set dev %s %s", device, state) }
	down := scripted("set down "+uplink, uplink, set("down"), set("up"))
	if uplink == "lte" || c.provider == nil {
		list = append(list, fault{name: "renumbering of " + uplink, uplink: uplink,
			do:   func(c *chaos) { c.renumber(uplink, func() error { return c.Break(lab.Prefix, uplink) }) },
			undo: func(c *chaos) { c.renumber(uplink, func() error { return c.HealOne(uplink) }) }})
		for _, lost := range []struct{ name, what string }{
			{"address lost at ", "ip address flush dev %s scope global"},
			{"default lost at ", "ip route del default dev %s proto dhcp"},
			{"IPv6 default lost at ", "ip -6 route del ::/0 dev %s proto static"},
		} {
			f := scripted(lost.name+uplink, uplink, fmt.Sprintf(lost.what, device), "")
			f.undo = func(c *chaos) { c.restore(uplink) }
			list = append(list, f)
		}
		up := down.undo
		down.undo = func(c *chaos) { up(c); c.restore(uplink) }
	}
	return append(list, down,
		scripted("an alias at "+uplink, "", fmt.Sprintf("ip address add 192.168.100.2/24 dev %s", device), fmt.Sprintf("ip address del 192.168.100.2/24 dev %s", device)),
		scripted("a narrow MTU at "+uplink, "", set("mtu 1400"), set("mtu 1500")))
}

// renumber has a provider give other addresses. It refuses the former ones before the router has changed its own: what it
// counts meanwhile is nobody's fault. A device that is set down has no routes and IPv6 addresses to change: it is set up again before.
func (c *chaos) renumber(uplink string, change func() error) {
	before := c.foreign()
	device := c.Uplink(uplink).Device
	if flags := strings.TrimSpace(c.sh("router", "cat /sys/class/net/"+device+"/flags")); !strings.HasSuffix(flags, "3") { // IFF_UP
		c.sh("router", "ip link set dev "+device+" up")
	}
	if uplink == "lte" || c.provider == nil { // its addresses may be lost; leased ones come by themselves
		c.restore(uplink)
	}
	c.must(change())
	rest(context.Background(), 300*time.Millisecond)
	c.foreign0 += c.foreign() - before
}

// restore gives a device what its DHCP client, and whoever has configured its IPv6, gave it.
func (c *chaos) restore(uplink string) {
	u := c.Uplink(uplink)
	c.sh("router", fmt.Sprintf(`set +e
		ip address replace %[1]s dev %[3]s; ip address replace %[2]s dev %[3]s nodad
		ip route replace default via %[4]s dev %[3]s proto dhcp metric %[6]d
		ip -6 route replace ::/0 via %[5]s dev %[3]s proto static metric %[6]d
		true`, u.Address4, u.Address6, u.Device, u.Gateway4, u.Gateway6, u.Metric))
}

// programFaults are what other programs do, and what somebody does by mistake.
func programFaults() []fault {
	const firewallAgain = "nft list table inet firewall >/dev/null 2>&1 || nft -f /run/firewall.nft"
	saved := func(do string) string {
		return "[ -e /run/firewall.nft ] || nft list table inet firewall > /run/firewall.nft; " + do
	}
	tunnel := scripted("a full tunnel", "", `ip link add wgx type veth peer name wgy; ip link set wgx up; ip link set wgy up
		ip address add 198.51.100.241/28 dev wgx; ip route add default via 198.51.100.242 dev wgx table 51820
		ip rule add not fwmark 0xca6c lookup 51820; ip rule add lookup main suppress_prefixlength 0`,
		`ip rule del not fwmark 0xca6c lookup 51820; ip rule del lookup main suppress_prefixlength 0; ip link del wgx`)
	tunnel.silences = true // it takes what probes are answered by, until the filter of sources is loose
	return []fault{
		tunnel,
		scripted("flush ruleset", "", saved("nft flush ruleset"), firewallAgain),
		scripted("our table deleted", "", "nft delete table inet uplinkd", ""),
		scripted("our policies' table deleted", "", "nft delete table inet uplinkd_policy", ""),
		scripted("our rules deleted", "", "for f in -4 -6; do ip $f rule flush protocol 117; done", ""),
		scripted("a rule of ours deleted", "", "ip rule del pref 10010; ip -6 rule del pref 10201", ""),
		scripted("a table of ours flushed", "", "ip route flush table 11701; ip -6 route flush table 11702", ""),
		scripted("the default flushed", "", "ip route flush table 11700", ""),
		scripted("link groups taken away", "", "ip link set wan1 group default; ip link set wan2 group default", ""),
		scripted("conntrack -F", "", "conntrack -F 2>/dev/null", ""),
		scripted("a VPN's half routes", "", "ip link add tunx type veth peer name tuny; ip link set tunx up; ip link set tuny up; ip route add 0.0.0.0/1 dev tunx; ip route add 128.0.0.0/1 dev tunx; ip -6 route add 2000::/3 dev tunx",
			"ip link del tunx"),
		scripted("a container's bridge", "", `ip link add brx type bridge; ip link set brx up; ip address add 198.51.100.209/28 dev brx
			nft 'table ip boxes { chain p { type nat hook postrouting priority srcnat; ip saddr 198.51.100.208/28 oifname != "brx" masquerade; }; }'`,
			"ip link del brx; nft delete table ip boxes"),
		scripted("a firewall that masquerades", "", `nft 'table ip masq { chain p { type nat hook postrouting priority srcnat; oifname { "wan1", "wan2" } masquerade; }; }'`, "nft delete table ip masq"),
		scripted("marks of others", "", `nft 'table inet qos { chain p { type filter hook prerouting priority mangle; meta mark set meta mark | 0x40; }; chain o { type route hook output priority mangle; udp dport 9 meta mark set 0x7; }; }'`, "nft delete table inet qos"),
		scripted("somebody's rules", "", "ip rule add pref 5270 lookup 52; ip rule add pref 10150 from 192.0.2.77 lookup 52; ip rule add ipproto tcp lookup 53", "ip rule del pref 5270; ip rule del pref 10150; ip rule del ipproto tcp lookup 53"),
		scripted("somebody's default", "", "ip route add default via 203.0.113.1 dev wan2 proto static", "ip route del default via 203.0.113.1 dev wan2 proto static"),
		scripted("rp_filter changed", "", "sysctl -qw net.ipv4.conf.all.rp_filter=2", "sysctl -qw net.ipv4.conf.all.rp_filter=1"),
		scripted("a LAN's address changed", "", "ip address add 203.0.113.150/25 dev lan0", "ip address del 203.0.113.150/25 dev lan0"),
	}
}

// ownFaults are changes of the configuration, and what befalls the daemon.
func (c *chaos) ownFaults() []fault {
	reload := func(name, config string) fault {
		return fault{name: "reload: " + name, do: func(c *chaos) { c.reconfigure(config) }, undo: func(c *chaos) { c.reconfigure(c.plain) }}
	}
	return []fault{
		reload("tiers changed", strings.Replace(c.plain, `device = "wan1"`, "device = \"wan1\"\ntier = 3", 1)),
		reload("one tier", strings.Replace(c.plain, "tier = 2", "tier = 1\nweight = 3", 1)),
		reload("no policy", c.plain[:strings.Index(c.plain, "[[policy]]")]),
		reload("another policy", c.plain+"\n[[policy]]\nname = \"more\"\nprotocol = \"udp\"\ndport = 7\nuplinks = [\"lte\", \"fiber\"]\n"),
		reload("for policies alone", strings.Replace(c.plain, `device = "wan1"`, "device = \"wan1\"\ndefault = false", 1)),
		reload("a mistake", c.plain+"\n[[uplink]]\nname = \"fiber\"\n"),
		{name: "kill -9", do: func(c *chaos) { c.kill() }, undo: func(c *chaos) { c.launchIfStopped() }},
		{name: "kill -9 and start", do: func(c *chaos) { c.kill(); c.launch() }, undo: nothing},
		{name: "stop", do: func(c *chaos) { c.stop() }, undo: func(c *chaos) { c.launchIfStopped() }},
		{name: "stand still", do: func(c *chaos) { c.signal(syscall.SIGSTOP) }, undo: func(c *chaos) { c.signal(syscall.SIGCONT) }},
	}
}

func (c *chaos) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// reconfigure writes a configuration and has a daemon that runs read it. One with a mistake is refused.
func (c *chaos) reconfigure(config string) {
	c.configure(config)
	if c.process == nil {
		return
	}
	c.await("the daemon to catch SIGHUP, which ends a process that has hardly begun", func() error {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.process.Process.Pid))
		if err == nil && !catchesHangup.Match(status) {
			err = errors.New("not yet")
		}
		return err
	})
	c.signal(syscall.SIGHUP)
}

// catchesHangup finds the lowest bit of a mask of signals (proc_pid_status(5)).
var catchesHangup = regexp.MustCompile(`SigCgt:\s*[0-9a-f]*[13579bdf]\n`)

// launchIfStopped starts the daemon unless it runs.
func (c *chaos) launchIfStopped() {
	if c.process == nil {
		c.launch()
	}
}

func (c *chaos) signal(s syscall.Signal) {
	if c.process != nil {
		_ = c.process.Process.Signal(s)
	}
}

// sortFaults puts faults that came out of maps into the same order each time, or a seed would mean nothing.
func sortFaults(list []fault) {
	slices.SortFunc(list, func(a, b fault) int { return strings.Compare(a.name, b.name) })
}
