package config

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is what a value is in TOML.
type kind uint8

const (
	kindString kind = iota
	kindInteger
	kindFloat
	kindBool
	kindTime
	kindList
	kindTable
)

// String returns the kind with its article.
func (k kind) String() string {
	switch k {
	case kindString:
		return "a string"
	case kindInteger:
		return "an integer"
	case kindFloat:
		return "a float"
	case kindBool:
		return "a boolean"
	case kindTime:
		return "a date or time"
	case kindList:
		return "a list"
	default:
		return "a table"
	}
}

// value is a value of the document and where it stood.
type value struct {
	kind  kind
	key   int    // offset of its key or header; of the list for a list's elements
	off   int    // offset of the value itself, of the header for tables with one
	text  string // content of a string, source text of other scalars
	elems []*value
	table *table
	bad   bool // a mistake was reported: what depends on the value is not checked any more
}

// origin is how a table came to be, which decides what may be added to it later (TOML 1.0, section "Table").
type origin uint8

const (
	originImplicit origin = iota // by a header of a table below it
	originHeader                 // [name]
	originElement                // [[name]]
	originDotted                 // by a dotted key
	originInline                 // { ... }
)

// table is a table of the document, its keys in the order of the file.
type table struct {
	origin     origin
	off        int
	names      []string
	values     map[string]*value
	misspelled map[string]bool // keys that a misspelt one was probably meant to be
}

func newTable(o origin, off int) *table {
	return &table{origin: o, off: off, values: make(map[string]*value)}
}

func (t *table) put(name string, v *value) *value {
	t.names = append(t.names, name)
	t.values[name] = v
	return v
}

// usable reports whether what depends on the key may be checked: it is absent, or present without a mistake.
func (t *table) usable(name string) bool {
	v := t.values[name]
	return v == nil || !v.bad
}

// offset returns where the key's value stands, or the table if there is none.
func (t *table) offset(name string) int {
	if v := t.values[name]; v != nil {
		return v.off
	}
	return t.off
}

// document builds the tree. Headers that mix [x] and [[x]] are kept as elements of one list, with their origin:
// the schema knows which of the two was meant, and says so.
type document struct {
	*source
	root    *table
	current *table
	base    int
}

// readDocument returns the tree of the source's text, or nil if it is no TOML. Keys that are given twice are reported
// in both cases.
func readDocument(src *source) *table {
	d := &document{source: src, root: newTable(originHeader, 0)}
	d.current = d.root
	ok := scan(src, func(base int, n *unstable.Node) {
		d.base = base
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			d.header(n)
		case unstable.KeyValue:
			d.keyValue(d.current, n)
		}
	})
	if !ok {
		return nil
	}
	return d.root
}

// part is one part of a dotted key.
type part struct {
	name     string
	off, end int
}

func (d *document) keyParts(n *unstable.Node) []part {
	var parts []part
	for it := n.Key(); it.Next(); {
		k := it.Node()
		off := d.base + int(k.Raw.Offset)
		parts = append(parts, part{name: string(k.Data), off: off, end: off + int(k.Raw.Length)})
	}
	return parts
}

func joinParts(parts []part) string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return clip(strings.Join(names, "."))
}

// header opens the table of [a.b] or [[a.b]].
func (d *document) header(n *unstable.Node) {
	parts := d.keyParts(n)
	off := d.bracket(parts[0].off)
	t := d.root
	for i, p := range parts[:len(parts)-1] {
		v := t.values[p.name]
		if v == nil {
			v = t.put(p.name, &value{kind: kindTable, key: off, off: off, table: newTable(originImplicit, off)})
		}
		if t = v.last(); t == nil {
			d.clash(off, parts[:i+1], v)
			return
		}
	}
	last := parts[len(parts)-1].name
	made := newTable(originHeader, off)
	if n.Kind == unstable.ArrayTable {
		made.origin = originElement
	}
	wrapped := &value{kind: kindTable, key: off, off: off, table: made}
	v := t.values[last]
	d.current = made
	switch {
	case v == nil && n.Kind == unstable.ArrayTable:
		t.put(last, &value{kind: kindList, key: off, off: off, elems: []*value{wrapped}})
	case v == nil:
		t.put(last, wrapped)
	case v.last() == nil:
		d.clash(off, parts, v)
	case v.kind == kindList:
		v.elems = append(v.elems, wrapped)
	case n.Kind == unstable.ArrayTable:
		first := *v
		*v = value{kind: kindList, key: v.key, off: v.off, elems: []*value{&first, wrapped}}
	case v.table.origin == originImplicit:
		v.table.origin, v.table.off, v.key, v.off = originHeader, off, off, off
		d.current = v.table
	default:
		d.errorf(off, "[%s] is already defined at %s: merge the two", joinParts(parts), d.where(v.off))
		d.current = v.table
	}
}

// last returns the table that a header below v continues: v itself or the last element of a [[list]]; nil if a value
// stands there that no header may add to.
func (v *value) last() *table {
	t := v.table
	if v.kind == kindList && len(v.elems) > 0 {
		t = v.elems[len(v.elems)-1].table
	}
	if t == nil || t.origin == originInline {
		return nil
	}
	return t
}

// clash reports a header over a key that holds a value; the header's keys are read into a table that nobody sees.
func (d *document) clash(off int, parts []part, v *value) {
	d.errorf(off, "%s already has a value, at %s: it cannot be a section as well", joinParts(parts), d.where(v.off))
	d.current = newTable(originHeader, off)
}

// keyValue adds key = value to t.
func (d *document) keyValue(t *table, n *unstable.Node) {
	parts := d.keyParts(n)
	key := parts[0].off
	for i, p := range parts[:len(parts)-1] {
		v := t.values[p.name]
		if v == nil {
			v = t.put(p.name, &value{kind: kindTable, key: key, off: key, table: newTable(originDotted, key)})
		}
		if v.table == nil || v.table.origin != originDotted {
			if v.table == nil {
				d.errorf(key, "%s already has a value, at %s: it cannot have keys below it as well",
					joinParts(parts[:i+1]), d.where(v.off))
				return
			}
			d.errorf(key, "%s is already defined at %s: put this key there", joinParts(parts[:i+1]), d.where(v.off))
			return
		}
		t = v.table
	}
	last := parts[len(parts)-1]
	v := d.value(n.Value(), key, d.valueStart(last.end))
	if first := t.values[last.name]; first != nil {
		d.errorf(key, "%s is given twice, first at %s", joinParts(parts), d.where(first.key))
		return
	}
	t.put(last.name, v)
}

// value converts a value that stands at off, for the key at key.
func (d *document) value(n *unstable.Node, key, off int) *value {
	v := &value{key: key, off: off, text: string(n.Data)}
	switch n.Kind {
	case unstable.String:
		v.kind = kindString
	case unstable.Integer:
		v.kind = kindInteger
	case unstable.Float:
		v.kind = kindFloat
	case unstable.Bool:
		v.kind = kindBool
	case unstable.Array:
		v.kind = kindList
		for it := n.Children(); it.Next(); {
			e := it.Node()
			at := off // a list within a list carries no range of its own
			if e.Raw.Length > 0 {
				at = d.base + int(e.Raw.Offset)
			}
			v.elems = append(v.elems, d.value(e, off, at))
		}
	case unstable.InlineTable:
		v.kind, v.table = kindTable, newTable(originInline, off)
		for it := n.Children(); it.Next(); {
			d.keyValue(v.table, it.Node())
		}
	default:
		v.kind = kindTime
	}
	return v
}

// valueStart returns where the value of a key that ends at off begins: lists have no range in the parser's tree.
func (d *document) valueStart(off int) int {
	for off < len(d.data) && strings.IndexByte(" \t=", d.data[off]) >= 0 {
		off++
	}
	return off
}

// bracket returns the offset of the bracket that opens the header whose key is at off.
func (d *document) bracket(off int) int {
	for off > 0 && strings.IndexByte(" \t[", d.data[off-1]) >= 0 {
		off--
	}
	for d.data[off] != '[' {
		off++
	}
	return off
}
