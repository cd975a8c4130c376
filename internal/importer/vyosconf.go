package importer

import (
	"strings"
)

// vyNode is a word of VyOS's configuration tree. A value is the child of its leaf: "weight 2" is the node "weight" with the child "2".
type vyNode struct {
	name     string
	from     origin
	children []*vyNode
	used     bool // by the translator: what is not is named in the end
}

// vyosFile is a configuration in either form, braces (config.boot, "show configuration") or "set" commands.
type vyosFile struct {
	root   vyNode
	nodes  int
	broken []brokenLine
}

// maxDepth is how many words a path has: VyOS's longest have about a dozen.
const maxDepth = 24

// add reads a file into the tree. It never fails: what cannot be read is listed.
func (f *vyosFile) add(file File) {
	stack := []*vyNode{&f.root}
	commented := false
	lines := strings.Split(text(string(clip(file.Data))), "\n")
	for n, line := range lines {
		from := origin{file.Name, n + 1}
		fail := func(why string) { f.broken = append(f.broken, brokenLine{from, why}) }
		words, comment, why := vyWords(line, commented)
		commented = comment
		if why != "" {
			fail(why)
		}
		for len(words) > 0 {
			at := stack[len(stack)-1]
			switch first := words[0]; {
			case first.is("}"):
				if len(stack) == 1 {
					fail("a brace that closes nothing: the beginning of the file is missing")
				} else {
					stack = stack[:len(stack)-1]
				}
				words = words[1:]
				continue
			case len(stack) == 1 && command(&words) != "":
				f.run(words, from, fail)
				words = nil
				continue
			case strings.HasPrefix(first.text, "[edit"):
				words = nil
				continue
			}
			end := 0
			for end < len(words) && !words[end].is("{") && !words[end].is("}") {
				end++
			}
			if len(stack)+end > maxDepth {
				fail("more levels than VyOS has")
				return
			}
			node := f.path(at, words[:end], from)
			if node == nil {
				fail("more nodes than VyOS has")
				return
			}
			if end < len(words) && words[end].is("{") {
				stack = append(stack, node)
				end++
			}
			words = words[end:]
		}
	}
	if len(stack) > 1 {
		f.broken = append(f.broken, brokenLine{origin{file.Name, len(lines)}, "braces are open at the end: the file is cut"})
	}
}

// vyWord is a word and whether it was quoted.
type vyWord struct {
	text   string
	quoted bool
}

func (w vyWord) is(s string) bool { return !w.quoted && w.text == s }

// command finds "set" or "delete" at the beginning of a line, or behind a prompt that was copied too, and leaves the rest.
func command(words *[]vyWord) string {
	for i, w := range *words {
		if w.is("set") || w.is("delete") || w.is("comment") {
			*words = (*words)[i:]
			return w.text
		}
		if !strings.HasSuffix(w.text, "#") && !strings.HasSuffix(w.text, "$") {
			return ""
		}
	}
	return ""
}

// run carries a command out.
func (f *vyosFile) run(words []vyWord, from origin, fail func(string)) {
	path := words[1:]
	switch {
	case len(path) == 0:
		fail(words[0].text + " without a path: the line is cut")
	case len(path) > maxDepth:
		fail("more levels than VyOS has")
	case words[0].text == "set":
		if f.path(&f.root, path, from) == nil {
			fail("more nodes than VyOS has")
		}
	case words[0].text == "delete":
		at := &f.root
		for _, w := range path[:len(path)-1] {
			if at = at.find(w.text); at == nil {
				return
			}
		}
		for i, c := range at.children {
			if c.name == path[len(path)-1].text {
				at.children = append(at.children[:i:i], at.children[i+1:]...)
				return
			}
		}
	}
}

// path goes down from a node, making what is not there yet; nil when there would be too many.
func (f *vyosFile) path(at *vyNode, words []vyWord, from origin) *vyNode {
	for _, w := range words {
		next := at.find(w.text)
		if next == nil {
			if f.nodes >= 10*maxSections {
				return nil
			}
			f.nodes++
			next = &vyNode{name: w.text, from: from}
			at.children = append(at.children, next)
		}
		at = next
	}
	return at
}

// vyWords cuts a line into words; commented says whether a comment is open before and behind it.
func vyWords(line string, commented bool) (words []vyWord, open bool, why string) {
	line = strings.TrimRight(line, "\r")
	for {
		if commented {
			_, rest, closed := strings.Cut(line, "*/")
			if !closed {
				return words, true, ""
			}
			line, commented = rest, false
		}
		line = strings.TrimLeft(line, " \t")
		switch {
		case line == "" || strings.HasPrefix(line, "//") || line[0] == '#':
			return words, false, why
		case strings.HasPrefix(line, "/*"):
			line, commented = line[2:], true
		case line[0] == '"' || line[0] == '\'':
			mark := line[0]
			var b strings.Builder
			i := 1
			for ; i < len(line) && line[i] != mark; i++ {
				if line[i] == '\\' && mark == '"' && i+1 < len(line) {
					i++
				}
				b.WriteByte(line[i])
			}
			if i >= len(line) {
				why = "a quotation without an end"
			}
			words = append(words, vyWord{text(b.String()), true})
			line = line[min(len(line), i+1):]
		default:
			end := strings.IndexAny(line, " \t")
			if end < 0 {
				end = len(line)
			}
			words = append(words, vyWord{text: line[:end]})
			line = line[end:]
		}
	}
}

// find returns the child of that name, nil when there is none. It may be asked of nil.
func (n *vyNode) find(name string) *vyNode {
	if n != nil {
		for _, c := range n.children {
			if c.name == name {
				return c
			}
		}
	}
	return nil
}

// child goes down by names, nil when there is no such node, and takes what it passes for translated.
func (n *vyNode) child(names ...string) *vyNode {
	for _, name := range names {
		if n = n.find(name); n == nil {
			return nil
		}
		n.used = true
	}
	return n
}

// all returns the children of a child: the values of a leaf, the members of a tag.
func (n *vyNode) all(names ...string) []*vyNode {
	c := n.child(names...)
	if c == nil {
		return nil
	}
	for _, v := range c.children {
		v.used = true
	}
	return c.children
}

// value returns a leaf's last value, or the default when there is none.
func (n *vyNode) value(name, absent string) string {
	list := n.all(name)
	if len(list) == 0 {
		return absent
	}
	return list[len(list)-1].name
}

// at is where a child stands, or else the node.
func (n *vyNode) at(name string) origin {
	if c := n.find(name); c != nil {
		return c.from
	}
	return n.from
}
