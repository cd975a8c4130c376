package rules

import (
	"net/netip"
	"slices"

	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// Origin points into the configuration. The zero value is somewhere else: the kernel, or another program.
type Origin struct {
	Uplink string // name of an uplink,
	Policy string // or of a policy
	Key    string // a key of that uplink or, without one, a key like "kernel.rule_priority"
}

// ConfigKey is the key as config.Lines know it.
func (o Origin) ConfigKey() string {
	if o.Policy != "" {
		return "policy/" + o.Policy
	}
	return o.Key
}

// OriginOfRule says what in the configuration made a rule of ours.
func (c *Config) OriginOfRule(r *netcfg.Rule) Origin {
	k := c.Kernel
	if r.Protocol != k.Protocol || k.Protocol == 0 {
		return Origin{}
	}
	at := r.Priority - k.RulePriority
	name := func(id int) string {
		for i := range c.Uplinks {
			if c.Uplinks[i].ID == id {
				return c.Uplinks[i].Name
			}
		}
		return ""
	}
	switch {
	case at > prefMark && at <= prefMark+MaxUplinks:
		return Origin{Uplink: name(at - prefMark), Key: "name"}
	case at > prefDevice && at <= prefDevice+MaxUplinks:
		return Origin{Uplink: name(at - prefDevice), Key: "device"}
	case at > prefSource && at <= prefSource+MaxUplinks:
		return Origin{Uplink: name(at - prefSource), Key: r.Family.String()}
	case at == prefTwinResolver || at == prefNearResolver || at == prefResolver:
		return Origin{Uplink: name(int(r.Table - k.TableBase)), Key: "dns"}
	case at >= prefPolicy && at <= prefPolicyLast:
		return c.originOfPolicyRule(r)
	}
	return Origin{Key: "kernel.rule_priority"}
}

// originOfPolicyRule finds the policy that made a rule: several may share a preference.
func (c *Config) originOfPolicyRule(r *netcfg.Rule) Origin {
	for i := range c.Policies {
		policy := &c.Policies[i]
		at := slices.IndexFunc(c.Groups, func(g Group) bool { return g.ID == policy.Group })
		if at < 0 || c.Groups[at].leads(c.Kernel) != r.Table {
			continue
		}
		like := *r
		like.From, like.To, like.IIF, like.Mark, like.Mask, like.Selectors = netip.Prefix{}, netip.Prefix{}, "", 0, 0, netcfg.RuleSelectors{}
		if policy.Select.inRules(r.Family).cannot == "" && slices.Contains(policy.Select.appendRules(nil, like), *r) {
			return Origin{Policy: policy.Name}
		}
	}
	return Origin{Key: "kernel.rule_priority"}
}

// OriginOfRoute says what in the configuration made a route of ours; of a table that policies share, the first of those.
func (c *Config) OriginOfRoute(r *netcfg.Route) Origin {
	k := c.Kernel
	if r.Protocol != k.Protocol || k.Protocol == 0 {
		return Origin{}
	}
	if r.Table == k.TableBase || r.Table == netcfg.TableMain {
		if len(r.Nexthops) == 1 {
			if u := c.UplinkOn(r.Nexthops[0].Device); u != nil {
				return Origin{Uplink: u.Name, Key: "tier"}
			}
		}
		return Origin{Key: "uplink.weight"}
	}
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; k.Table(u.ID) == r.Table {
			return Origin{Uplink: u.Name, Key: r.Family.String()}
		}
	}
	i := slices.IndexFunc(c.Policies, func(p Policy) bool { return k.Table(p.Group) == r.Table })
	if i < 0 {
		return Origin{}
	}
	return Origin{Policy: c.Policies[i].Name}
}

// UplinkNamed returns the uplink of a name, of one with a translator the line, nil for none.
func (c *Config) UplinkNamed(name string) *Uplink {
	i := slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return u.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Uplinks[i]
}

// UplinkOn returns the uplink of a device, nil for none.
func (c *Config) UplinkOn(device string) *Uplink {
	i := slices.IndexFunc(c.Uplinks, func(u Uplink) bool { return u.Device == device })
	if i < 0 {
		return nil
	}
	return &c.Uplinks[i]
}
