package config

import "strings"

// Reference is what may stand in a section of the file: what [Parse] itself goes by.
type Reference struct {
	Title string // as the file has it, such as "[[uplink]]"; "peers" is the list of tables of [uplink.wireguard]
	Keys  []ReferenceKey
}

// ReferenceKey is a key of a section.
type ReferenceKey struct {
	Name  string
	Takes string // what may be written: `"auto", "dhcp" or "off"`, "1 to 256", `a string, such as "eth1"`
}

// Sections lists all sections with their keys, for the manual page.
func Sections() []Reference {
	var list []Reference
	for _, s := range append(sections(), peerSection(new(Peer))) {
		r := Reference{Title: s.title}
		for _, f := range s.fields {
			if f.takes != "" { // else a section of its own
				r.Keys = append(r.Keys, ReferenceKey{f.name, strings.TrimSpace(f.takes)})
			}
		}
		list = append(list, r)
	}
	return list
}
