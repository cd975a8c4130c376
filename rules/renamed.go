package rules

import (
	"maps"
	"slices"
	"strings"
)

// Renamed finds a device that has been renamed since it was put into our link group, which stays with it: udev puts names
// right late. It is in the group and recorded under no name of its own, while a device of a recorded name is missing.
func (o *Observed) Renamed(k Kernel) (from, to string, ok bool) {
	i := slices.IndexFunc(o.Links, func(l Link) bool {
		_, recorded := o.Recorded.Groups[l.Name]
		return l.Group == k.LinkGroup && !recorded
	})
	if i < 0 {
		return "", "", false
	}
	for _, name := range slices.SortedFunc(maps.Keys(o.Recorded.Groups), strings.Compare) {
		if _, present := o.Link(name); !present {
			return name, o.Links[i].Name, true
		}
	}
	return "", "", false
}

// RenameDevice has what is recorded of a device count under its new name.
func (r *Recorded) RenameDevice(from, to string) {
	if group, ok := r.Groups[from]; ok {
		delete(r.Groups, from)
		r.Groups[to] = group
	}
	if hardware, ok := r.Hardware[from]; ok {
		delete(r.Hardware, from)
		r.Hardware[to] = hardware
	}
	for name, value := range maps.Clone(r.Sysctls) {
		if now := strings.Replace(name, "/conf/"+from+"/", "/conf/"+to+"/", 1); now != name {
			delete(r.Sysctls, name)
			r.Sysctls[now] = value
		}
	}
	for i := range r.Addrs {
		if r.Addrs[i].Device == from {
			r.Addrs[i].Device = to
		}
	}
}
