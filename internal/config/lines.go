package config

// Lines says on which line of its file a key stands: "kernel.mark_mask", "uplink/fiber" for the section of
// an uplink, "uplink/fiber.tier", "uplink/fiber.ipv4", "policy/voice". Keys that the file leaves out are not there.
type Lines map[string]int

// Of returns the line that decides about a key of an uplink, or of another section where uplink is "": that
// of the key, else that of the section; 0 when the file says nothing about either.
func (l Lines) Of(uplink, key string) int {
	if uplink == "" {
		return l[key]
	}
	if line := l["uplink/"+uplink+"."+key]; line != 0 {
		return line
	}
	return l["uplink/"+uplink]
}

// linesOf reads the positions out of a document without mistakes.
func linesOf(src *source, root *table) Lines {
	lines := make(Lines)
	for _, name := range root.names {
		v := root.values[name]
		switch {
		case name == "uplink", name == "policy", name == "tproxy", name == "forward":
			for _, e := range v.elems {
				lines.add(src, name+"/"+e.table.values["name"].text, e)
			}
		case v.table != nil:
			lines.add(src, name, v)
		}
	}
	return lines
}

func (l Lines) add(src *source, prefix string, section *value) {
	l[prefix], _ = src.position(section.table.off)
	for _, key := range section.table.names {
		l[prefix+"."+key], _ = src.position(section.table.values[key].key)
	}
}
