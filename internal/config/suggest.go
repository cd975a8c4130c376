package config

import (
	"slices"
	"strconv"
	"strings"
)

// synonyms are words that people bring along from other programs, for keys that spelling alone would not lead to.
var synonyms = map[string]string{
	"interface": "device", "iface": "device", "ifname": "device", "dev": "device",
	"metric": "tier", "priority": "tier",
	"nat": "masquerade", "snat": "masquerade", "masq": "masquerade",
	"ip": "address", "addr": "address", "gw": "gateway", "via": "gateway",
	"hosts": "targets", "trackip": "targets",
	"token": "token_file", "type": "kind", "wan": "uplink",
	"proto": "protocol", "protocols": "protocol",
	"destport": "dport", "dstport": "dport", "destinationport": "dport", "srcport": "sport", "sourceport": "sport",
	"dest": "to", "destination": "to", "dst": "to", "destip": "to", "dstip": "to", "source": "from", "src": "from", "srcip": "from", "sourceip": "from",
	"srcmac": "mac", "hwaddr": "mac", "user": "uid", "mark": "fwmark", "tos": "dscp", "indevice": "iif", "useuplinks": "uplinks",
}

// nearest returns the one of names that word was probably meant to be, or "". What people know from other programs goes
// before spelling: dest_port is nearer to sport than to dport.
func nearest(word string, names []string) string {
	w := fold(word)
	if meant := synonyms[w]; slices.Contains(names, meant) && !slices.Contains(names, word) {
		return meant
	}
	best, dist := "", 1+min(3, (len(w)+1)/3)
	for _, n := range names {
		f := fold(n)
		if f == w {
			return n
		}
		if d := distance(w, f, dist); d < dist {
			best, dist = n, d
		}
	}
	return best
}

// fold makes names equal that differ only in case, hyphens and underscores.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance returns how many bytes must be inserted, deleted, replaced, or swapped with their neighbour to turn a into
// b (optimal string alignment), or limit if it is that many or more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return min(prev[len(b)], limit)
}

// maxQuoted bounds what a message repeats of the file, in bytes.
const maxQuoted = 64

// clip makes words of the file fit to stand in a message: short, on one line, nothing that a terminal obeys.
func clip(s string) string {
	cut := s
	if len(s) > maxQuoted {
		cut = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	q := strconv.Quote(cut)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// quote is clip in double quotes, as the text would stand in the file.
func quote(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	return strconv.Quote(s)
}

// orList joins words for a sentence: a, b or c.
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
