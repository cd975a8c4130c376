package config

import "slices"

// Disabled are the sections with enabled = false: known, shown, unused. Nothing else of a [Config] names them.
type Disabled struct {
	Uplinks  []Uplink
	Policies []Policy
}

// disable takes out what is not enabled, when all is known that names it. What would mean something else without it is a mistake.
func (r *reader) disable(root *table, c *Config) {
	off := make(map[string]bool)
	c.Uplinks = slices.DeleteFunc(c.Uplinks, func(u Uplink) bool {
		if !u.Enabled {
			off[u.Name] = true
			c.Disabled.Uplinks = append(c.Disabled.Uplinks, u)
		}
		return !u.Enabled
	})
	isOff := func(name string) bool { return off[name] }
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		enabled := slices.DeleteFunc(slices.Clone(u.Underlay), isOff)
		if off[u.Over] || len(u.Underlay) > 0 && len(enabled) == 0 {
			r.errorf(nameOffset(root, "uplink", u.Name), "uplink %s cannot be carried: what carries it has enabled = false; write that here too", quote(u.Name))
		}
	}
	c.Policies = slices.DeleteFunc(c.Policies, func(p Policy) bool {
		if !p.Enabled {
			c.Disabled.Policies = append(c.Disabled.Policies, p)
		}
		return !p.Enabled
	})
	c.without(off)
}

// without takes uplinks that are used no more out of what names them.
func (c *Config) without(off map[string]bool) {
	isOff := func(name string) bool { return off[name] }
	for i := range c.Uplinks {
		if u := &c.Uplinks[i]; len(u.Underlay) > 0 {
			u.Underlay = slices.DeleteFunc(u.Underlay, isOff)
		}
	}
	for i := range c.LANs {
		c.LANs[i].PrefixesFrom = slices.DeleteFunc(c.LANs[i].PrefixesFrom, isOff)
	}
	c.Forwards = slices.DeleteFunc(c.Forwards, func(f Forward) bool {
		return f.Uplinks != nil && !slices.ContainsFunc(f.Uplinks, func(name string) bool { return !off[name] })
	})
	for i := range c.Forwards {
		c.Forwards[i].Uplinks = slices.DeleteFunc(c.Forwards[i].Uplinks, isOff)
	}
	for i := range c.Policies {
		p := &c.Policies[i]
		for j := range p.Uplinks {
			p.Uplinks[j] = slices.DeleteFunc(p.Uplinks[j], isOff)
		}
		p.Uplinks = slices.DeleteFunc(p.Uplinks, func(tier []string) bool { return len(tier) == 0 })
	}
}

// nameOffset returns where the section of a name stands.
func nameOffset(root *table, kind, name string) int {
	v := root.values[kind]
	if v == nil {
		return 0
	}
	for _, e := range append([]*value{v}, v.elems...) {
		if e.table != nil && e.table.values["name"] != nil && e.table.values["name"].text == name {
			return e.table.off
		}
	}
	return v.off
}
