package offline

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/uplinkd/uplinkd/internal/clat"
	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/doctor"
	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/programs"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/encap"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// DoctorOptions say what the doctor looks at.
type DoctorOptions struct {
	ConfigFile     string
	Root           string          // directory that holds etc, run and usr; "" for /
	DaemonProblems []rules.Problem // what the running daemon says
	Running        []string        // the uplinks that it manages; nil: none runs
	// Quiet keeps it from sending packets: the checks for MTU and for probes that are kept from leaving.
	Quiet bool
	// Confined is for who may not make a namespace: what the kernel can do is not tried.
	Confined bool
}

// Doctor gathers what the checks look at and returns what they find. It changes nothing, and sends a few echo
// requests to the configured targets. It also returns the known programs that are here.
func Doctor(ctx context.Context, o DoctorOptions) ([]doctor.Finding, []programs.Found, error) {
	in, err := open(o.ConfigFile)
	if err != nil {
		return nil, nil, err
	}
	defer in.kernel.Close()
	if err := sameUplinks(in.config, o.Running); err != nil {
		return nil, nil, err
	}
	obs := &doctor.Observation{Config: in.cfg, DaemonProblems: o.DaemonProblems}
	if obs.Routing, err = in.kernel.Routing(); err != nil {
		return nil, nil, err
	}
	var present []string
	for _, l := range obs.Routing.Links {
		present = append(present, l.Name)
	}
	for _, a := range in.config.AbsentDevices(present) {
		obs.Absent = append(obs.Absent, doctor.AbsentDevice{User: a.User, Device: a.Device, Like: a.Like, Cause: config.NoDevice(a.Device, a.There)})
	}
	obs.NoTranslator = noTranslator(in.config)
	planned, state, report, err := in.plan()
	if err != nil {
		return nil, nil, err
	}
	if !state.Table.Matches(planned.Table) {
		state.Table = nil // not in force: packets pass without it
	}
	report.Problems = append(report.Problems, report.Absent...)
	obs.State, obs.Report = &state, report
	root := o.Root
	if root == "" {
		root = "/"
	}
	if obs.Networkd, err = doctor.ReadNetworkd(os.DirFS(root)); err != nil {
		return nil, nil, err
	}
	drops, err := in.kernel.InvalidDrops()
	if err != nil {
		return nil, nil, err
	}
	for _, d := range drops {
		obs.Drops = append(obs.Drops, doctor.InvalidDrop(d))
	}
	invalid, err := in.kernel.InvalidPackets() // without them nothing is known: a kernel that cannot say is a finding of its own
	obs.NoneInvalid = err == nil && invalid == 0
	liberal, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
	obs.Liberal = err == nil && strings.TrimSpace(string(liberal)) != "0"
	if !o.Confined {
		missing, err := kernel.MissingFeatures(in.cfg.Kernel, kindsToMake(in.config, present))
		if err != nil {
			return nil, nil, err
		}
		for _, m := range missing {
			obs.Missing = append(obs.Missing, doctor.MissingFeature{What: m.What, Module: m.Module, Err: m.Err.Error()})
		}
	}
	if obs.Refused, err = notForwarded(in, obs); err != nil {
		return nil, nil, err
	}
	routes := make([]netcfg.Route, 0, len(obs.Routing.Tables))
	for _, r := range obs.Routing.Tables {
		routes = append(routes, r.Route)
	}
	if obs.RefusedTranslations, err = translationsRefused(in); err != nil {
		return nil, nil, err
	}
	if obs.Neighbours, err = programsHere(in.kernel, in.cfg.Kernel.Protocol, obs.Routing.Observed, routes); err != nil {
		return nil, nil, err
	}
	obs.Pair = pairFiles(in.config, root)
	if obs.RefusedForwards, err = forwardsRefused(in, obs); err != nil {
		return nil, nil, err
	}
	if !o.Quiet {
		obs.MTUProbes, err = mtuProbes(ctx, in, obs)
	}
	return doctor.Examine(obs), obs.Neighbours, err
}

// noTranslator says what is missing for uplinks whose IPv4 is translated.
func noTranslator(c *config.Config) string {
	if !slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.IPv4.Method == config.MethodCLAT }) {
		return ""
	}
	err := clat.Missing()
	if err == nil {
		return ""
	}
	return err.Error()
}

// kindsToMake lists the kinds of tunnels of which a device is not there. What is there needs nothing of the kernel: it may be in user
// space, as wireguard-go's is.
func kindsToMake(c *config.Config, present []string) (kinds []*encap.Kind) {
	for _, k := range encap.Kinds() {
		if slices.ContainsFunc(c.Uplinks, func(u config.Uplink) bool { return u.Kind == k.Name && !slices.Contains(present, u.Device) }) ||
			slices.ContainsFunc(c.Tunnels, func(t config.Tunnel) bool { return t.Kind == k.Name && !slices.Contains(present, t.Device) }) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// notForwarded asks the packet filters of others about each local network and uplink.
func notForwarded(in *session, obs *doctor.Observation) (refused []doctor.Refused, err error) {
	firewall, err := in.kernel.Firewall()
	if err != nil {
		return nil, err
	}
	for _, family := range rules.Families {
		ways, devices := obs.Forwarded(family)
		for _, device := range devices {
			for _, u := range ways {
				by, err := firewall.Refuses(family, device, u.Device)
				if err != nil {
					return nil, err
				}
				if by != "" {
					refused = append(refused, doctor.Refused{Device: device, Uplink: u.Name, Family: family, By: by})
				}
			}
		}
	}
	return refused, nil
}

// translationsRefused asks them about what each translator sends.
func translationsRefused(in *session) (refused []doctor.Refused, err error) {
	firewall, err := in.kernel.Firewall()
	if err != nil {
		return nil, err
	}
	for i := range in.cfg.Uplinks {
		u := &in.cfg.Uplinks[i]
		if u.CLAT == nil || u.IsCLAT() {
			continue
		}
		by, err := firewall.Refuses(rules.IPv6, u.CLAT.Device, u.Device)
		if err != nil {
			return nil, err
		}
		if by != "" {
			refused = append(refused, doctor.Refused{Device: u.CLAT.Device, Uplink: u.Name, Family: rules.IPv6, By: by})
		}
	}
	return refused, nil
}

// sameUplinks refuses to examine one configuration while the daemon works by another: what it has made for that
// one would look like traps.
func sameUplinks(c *config.Config, running []string) error {
	if running == nil {
		return nil
	}
	names := make([]string, len(c.Uplinks))
	for i := range c.Uplinks {
		names[i] = c.Uplinks[i].Name
	}
	if !slices.Equal(names, running) {
		return fmt.Errorf("the running daemon manages %s, but this configuration has %s: name the daemon's file with -c",
			strings.Join(running, ", "), strings.Join(names, ", "))
	}
	return nil
}

// mtuProbes sends a few packets by every path that could carry any, all at once.
func mtuProbes(ctx context.Context, in *session, obs *doctor.Observation) ([]doctor.MTUProbe, error) {
	var paths []doctor.Path
	for i := range in.config.Uplinks {
		u := &in.config.Uplinks[i]
		for _, family := range rules.Families {
			link, _ := obs.Routing.Link(u.DeviceOf(family))
			id := in.saved.ids[u.Name]
			info := obs.Report.Paths[rules.Path{Uplink: id, Family: family}]
			target := echoTarget(u, family)
			if !info.Carrier || !info.HasDefault || !info.HasAddress() || !target.IsValid() {
				continue
			}
			paths = append(paths, doctor.Path{Uplink: u.Name, Device: link.Name, Mark: in.cfg.Kernel.Mark(id), Family: family, Target: target, MTU: link.MTU})
		}
	}
	found, failed := make([]doctor.MTUProbe, len(paths)), make([]error, len(paths))
	var group sync.WaitGroup
	for i, p := range paths {
		group.Go(func() { found[i], failed[i] = doctor.ProbeMTU(ctx, p) })
	}
	group.Wait()
	for _, err := range failed {
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// echoTarget is the first of an uplink's targets of a family: any of them may be asked for an echo, and one that
// gives none tells nothing.
func echoTarget(u *config.Uplink, family rules.Family) netip.Addr {
	for _, t := range u.Probe.Targets {
		if rules.FamilyOf(t.Addr()) == family {
			return t.Addr()
		}
	}
	return netip.Addr{}
}
