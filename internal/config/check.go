package config

import (
	"fmt"
	"math/bits"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/uplinkd/uplinkd/probe"
)

// The checks of single values return a message, or "" if the value is right.

// sunPath is the longest path of a Unix socket: sun_path without its NUL, unix(7).
const sunPath = 107

func checkPath(name, s string) string {
	switch {
	case s == "":
		return name + " is empty: write a path"
	case !strings.HasPrefix(s, "/"):
		return fmt.Sprintf("%s must be an absolute path, and %s does not begin with /", name, quote(s))
	case strings.ContainsRune(s, 0):
		return name + " contains a NUL byte, which no path can"
	}
	return ""
}

func checkOptionalPath(name, s string) string {
	if s == "" {
		return ""
	}
	if msg := checkPath(name, s); msg != "" {
		return msg
	}
	if strings.HasSuffix(s, "/") {
		return fmt.Sprintf("%s must be a file, and %s is a directory", name, quote(s))
	}
	return ""
}

func checkDir(name, s string) string {
	if msg := checkPath(name, s); msg != "" {
		return msg
	}
	if path.Clean(s) == "/" {
		return name + " is the root directory: write a directory for uplinkd alone"
	}
	return ""
}

func checkSocket(name, s string) string {
	if s == "" {
		return name + ` is empty: the control socket cannot be turned off, write a path such as "/run/uplinkd/uplinkd.sock"`
	}
	if msg := checkOptionalPath(name, s); msg != "" {
		return msg
	}
	if len(s) > sunPath {
		return fmt.Sprintf("%s is %d bytes long: the path of a socket can have at most %d", name, len(s), sunPath)
	}
	return ""
}

func checkTableNames(name, s string) string {
	if msg := checkOptionalPath(name, s); msg != "" || s == "" {
		return msg
	}
	if !strings.HasSuffix(s, ".conf") {
		return fmt.Sprintf("%s must end in .conf, and %s does not: ip reads no others, and rt_tables itself is not ours "+
			"to write", name, quote(s))
	}
	return ""
}

func samePath(a, b string) bool {
	return path.Clean(a) == path.Clean(b)
}

func checkListen(name, s string) string {
	if s == "" {
		return ""
	}
	host, port, ok := probe.SplitHostPort(s)
	if !ok {
		return fmt.Sprintf(`%s must be an address with a port, and %s is not: write "127.0.0.1:9275" or "[::1]:9275"`,
			name, quote(s))
	}
	if host == "" {
		return fmt.Sprintf(`%s has no address before the port: write "0.0.0.0:%s" to listen on every IPv4 address, `+
			`"[::]:%s" for IPv6 too`, name, clip(port), clip(port))
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return fmt.Sprintf("%s must have an IP address or localhost before the port, and %s is neither", name, quote(host))
	}
	return checkPort(name, port)
}

func checkPort(what, port string) string {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Sprintf("%s has port %s: it must be 1 to 65535", what, quote(port))
	}
	return ""
}

const (
	rulesSpan       = 999 // rules lie in [base, base+999]
	lastPriority    = 32765
	maxRulePriority = lastPriority - rulesSpan // 32766 and 32767 are the rules for main and default
	tablesSpan      = MaxUplinks
	maxTableBase    = 1<<31 - 1 - tablesSpan
)

// firstProtocol is the first number that is neither the kernel's nor made by hand.
const firstProtocol = 5

// protocols are the routing protocol numbers that others use (linux/rtnetlink.h): routes with our tag are ours to
// delete, so that sharing somebody's number would take their routes away.
var protocols = map[int64]string{
	0: "routes of unknown origin", 1: "the kernel's ICMP redirects", 2: "the kernel", 3: "the boot scripts",
	4: "routes made by hand", 8: "gated", 9: "the kernel's router advertisements", 10: "mrt", 11: "zebra", 12: "bird",
	13: "dnrouted", 14: "xorp", 15: "ntk", 16: "DHCP clients", 17: "mrouted", 18: "keepalived", 42: "babel",
	84: "ovn", 99: "openr", 186: "BGP", 187: "IS-IS", 188: "OSPF", 189: "RIP", 192: "EIGRP",
}

func checkProtocol(name string, n int64) string {
	if owner, taken := protocols[n]; taken {
		return fmt.Sprintf("%s = %d belongs to %s: uplinkd deletes routes with its own number, choose one that nobody "+
			"has, %d to 255", name, n, owner, firstProtocol)
	}
	return ""
}

func checkTableBase(name string, n int64) string {
	if n <= 255 && n+tablesSpan >= 253 {
		return fmt.Sprintf("%s = %d would use the tables %d to %d, and 253 to 255 are default, main and local: choose 1 "+
			"to %d, or 256 and above", name, n, n, n+tablesSpan, 253-tablesSpan-1)
	}
	return ""
}

// maskBits is how many bits MaxUplinks ids need.
const maskBits = 6

func parseMask(name, s string) (uint32, string) {
	digits, hex := strings.CutPrefix(strings.ToLower(s), "0x")
	n, err := strconv.ParseUint(digits, 16, 64)
	if !hex || err != nil {
		return 0, fmt.Sprintf(`%s must be a hexadecimal number, and %s is none: write "0x3f000000"`, name, quote(s))
	}
	if n > 1<<32-1 {
		return 0, fmt.Sprintf(`%s = %s has more than 32 bits: write eight digits at most, such as "0x3f000000"`, name, quote(s))
	}
	mask := uint32(n)
	ones := mask >> min(bits.TrailingZeros32(mask), 31)
	if bits.OnesCount32(mask) < maskBits || ones&(ones+1) != 0 {
		return 0, fmt.Sprintf(`%s = %s must be %d or more bits side by side, one number per uplink: write "0x3f000000"`,
			name, quote(s), maskBits)
	}
	return mask, ""
}

// byteUnits are powers of ten, as in the contracts of providers; the longest suffixes first.
var byteUnits = []struct {
	suffix string
	bytes  float64
}{{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

// parseBudget reads how much probes may cost a day.
func parseBudget(name, s string) (int64, string) {
	return parseBytes(name, s, 10e3, 1e12, "10kB to 1TB a day", "0.5MB")
}

// parseBytes reads a number of bytes with its unit, in lo..hi; span and example are for messages.
func parseBytes(name, s string, lo, hi float64, span, example string) (int64, string) {
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || strings.Trim(digits, "0123456789. ") != "" {
			break
		}
		if bytes := n * u.bytes; bytes >= lo && bytes <= hi {
			return int64(bytes), ""
		}
		return 0, fmt.Sprintf("%s = %s is out of range: it must be %s", name, quote(s), span)
	}
	return 0, fmt.Sprintf("%s must be a number of bytes with its unit (kB, MB, GB), and %s is none: write %s = %q", name, quote(s), name, example)
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// reservedNames mean something to ip route show table, which uplinks' names are made for, or to ourselves.
var reservedNames = []string{"main", "local", "default", "unspec", "all", "cache", "default-group"}

func checkName(name, s string) string {
	switch {
	case s == "":
		return name + ` is empty: write a word for this uplink, such as "fiber"`
	case !nameForm.MatchString(s):
		return fmt.Sprintf("%s %s must be 1 to 32 lower-case letters, digits, - and _, and begin with a letter or digit",
			name, quote(s))
	case slices.Contains(reservedNames, s):
		return fmt.Sprintf("%s %s is reserved: it means something else as the name of a routing table", name, quote(s))
	}
	if digits := strings.TrimPrefix(s, "0x"); digits != s || strings.Trim(digits, "0123456789") == "" {
		return fmt.Sprintf("%s %s is a number, which is a routing table of its own to ip: add a letter before it", name, quote(s))
	}
	return ""
}

// maxIfname is IFNAMSIZ without the NUL.
const maxIfname = 15

// checkDevice follows the kernel's dev_valid_name (net/core/dev.c).
func checkDevice(name, s string) string {
	switch {
	case s == "":
		return name + ` is empty: write the name of a network interface, such as "eth1"`
	case len(s) > maxIfname:
		return fmt.Sprintf("%s %s is %d bytes long: the name of a network interface has at most %d", name, quote(s),
			len(s), maxIfname)
	case s == "." || s == ".." || strings.ContainsFunc(s, func(c rune) bool {
		return c == '/' || c == ':' || c == unicode.ReplacementChar || unicode.IsSpace(c) || !unicode.IsPrint(c)
	}):
		return fmt.Sprintf("%s %s cannot be a network interface: its name has no /, no : and no blanks", name, quote(s))
	case strings.Contains(s, "*"):
		return fmt.Sprintf("%s %s is a pattern: write the name of one network interface", name, quote(s))
	case s == "lo":
		return name + ` "lo" is the loopback, which leads nowhere: write the interface that leads to the Internet`
	}
	return ""
}

// checkDevices takes, beside names of devices, those that end with a star, as nftables writes the names of several.
func checkDevices(name, s string) string {
	prefix, pattern := strings.CutSuffix(s, "*")
	switch {
	case strings.HasSuffix(s, "+"):
		return fmt.Sprintf("%s %s matches no device: for all whose names begin so write %s", name, quote(s), quote(strings.TrimSuffix(s, "+")+"*"))
	case s == "*":
		return name + ` "*" is every device: leave it out`
	case strings.ContainsAny(s, "?[]"):
		return fmt.Sprintf("%s %s matches no device: of patterns there is one, a star at the end of a name", name, quote(s))
	case pattern && !strings.Contains(prefix, "*"):
		return checkDevice(name, prefix)
	case strings.Contains(s, "*"):
		return fmt.Sprintf("%s %s matches no device: of patterns there is one, a star at the end of a name", name, quote(s))
	}
	return checkDevice(name, s)
}
