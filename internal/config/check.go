package config

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/uplinkd/uplinkd/internal/programs"
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
		return fmt.Sprintf("%s must be an absolute path, but %s does not begin with /", name, quote(s))
	case strings.ContainsRune(s, 0):
		return name + " contains a NUL byte"
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
		return fmt.Sprintf("%s is %d bytes long: the path of a socket has at most %d", name, len(s), sunPath)
	}
	return ""
}

func checkTableNames(name, s string) string {
	if msg := checkOptionalPath(name, s); msg != "" || s == "" {
		return msg
	}
	if !strings.HasSuffix(s, ".conf") {
		return fmt.Sprintf("%s must end in .conf, but %s does not: ip reads no others, and rt_tables itself is not ours "+
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
		return fmt.Sprintf(`%s must be an address with a port, not %s: write "127.0.0.1:9275" or "[::1]:9275"`,
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

// protocols are the routing protocol numbers that no program has for itself (linux/rtnetlink.h): routes with our tag are ours to
// delete, so that sharing somebody's number would take their routes away.
var protocols = map[int64]string{
	0: "routes of unknown origin", 1: "the kernel's ICMP redirects", 2: "the kernel", 3: "the boot scripts",
	4: "routes made by hand", 9: "the kernel's router advertisements", 16: "DHCP clients",
}

func checkProtocol(name string, n int64) string {
	owner := protocols[n]
	if owner == "" && n > 0 && n <= math.MaxUint8 {
		owner = programs.Tagger(uint8(n))
	}
	if owner != "" {
		return fmt.Sprintf("%s = %d belongs to %s: uplinkd deletes routes with its own number, so choose one that nobody "+
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
		return 0, fmt.Sprintf(`%s must be a hexadecimal number, not %s: write "0x3f000000"`, name, quote(s))
	}
	if n > 1<<32-1 {
		return 0, fmt.Sprintf(`%s = %s has more than 32 bits: write eight digits at most, such as "0x3f000000"`, name, quote(s))
	}
	mask := uint32(n)
	ones := mask >> min(bits.TrailingZeros32(mask), 31)
	if bits.OnesCount32(mask) < maskBits || ones&(ones+1) != 0 {
		return 0, fmt.Sprintf(`%s = %s must be %d or more contiguous bits, one value per uplink: write "0x3f000000"`,
			name, quote(s), maskBits)
	}
	return mask, ""
}

// unit is what a number may be followed by, and how much that is.
type unit struct {
	suffix string
	size   float64
}

// byteUnits are powers of ten, as in the contracts of providers; the longest suffixes first.
var byteUnits = []unit{{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

// parseBudget reads how much probes may cost a day.
func parseBudget(name, s string) (int64, string) {
	return parseBytes(name, s, 10e3, 1e12, "10kB to 1TB a day", "0.5MB")
}

// parseBytes reads a number of bytes with its unit, in lo..hi; span and example are for messages.
func parseBytes(name, s string, lo, hi float64, span, example string) (int64, string) {
	return parseUnits(name, s, byteUnits, "bytes with a unit (kB, MB, GB)", lo, hi, span, example)
}

// parseUnits reads a number with its unit, in lo..hi; what says of what, for messages, like span and example.
func parseUnits(name, s string, units []unit, what string, lo, hi float64, span, example string) (int64, string) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || strings.Trim(digits, "0123456789. ") != "" {
			break
		}
		if size := n * u.size; size >= lo && size <= hi {
			return int64(size), ""
		}
		return 0, fmt.Sprintf("%s = %s is out of range: it must be %s", name, quote(s), span)
	}
	return 0, fmt.Sprintf("%s must be a number of %s, not %s: write %s = %q", name, what, quote(s), name, example)
}

// MaxUplinkName is how long the name of an uplink may be, in bytes, and MaxLabel that of anything else.
const MaxUplinkName, MaxLabel = 15, 32

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// groupForm is what groupadd(8) takes.
var groupForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{0,31}$`)

// reservedNames mean something to ip route show table, which uplinks' names are made for, or to ourselves.
var reservedNames = []string{"main", "local", "default", "unspec", "all", "none", "cache", "default-group"}

// checkGroup checks the name of a group of users, as useradd(8) has it.
func checkGroup(name, s string) string {
	if !groupForm.MatchString(s) {
		return fmt.Sprintf("%s %s is not the name of a group: write one of /etc/group, such as \"netdev\"", name, quote(s))
	}
	return ""
}

// checkForm checks a name as far as all names are alike.
func checkForm(name, s string, most int) string {
	switch {
	case s == "" || len(s) > most || !nameForm.MatchString(s):
		return fmt.Sprintf("%s %s must be 1 to %d letters (A to Z, a to z), digits, - and _", name, quote(s), most)
	case s[0] == '-':
		return fmt.Sprintf("%s %s begins with -, which commands take for an option: begin with a letter or digit", name, quote(s))
	}
	return ""
}

func checkName(name, s string) string {
	if s == "" {
		return name + ` is empty: write a word for this uplink, such as "fiber"`
	}
	if msg := checkForm(name, s, MaxUplinkName); msg != "" {
		return msg
	}
	if slices.Contains(reservedNames, s) {
		return fmt.Sprintf("%s %s is reserved: it already names a routing table", name, quote(s))
	}
	if digits := strings.ToLower(s); strings.HasPrefix(digits, "0x") || strings.Trim(digits, "0123456789") == "" {
		return fmt.Sprintf("%s %s is a number, which ip would take for a routing table: add a letter before it", name, quote(s))
	}
	return ""
}

// UplinkName reports whether an uplink may have a name.
func UplinkName(s string) bool { return checkName("name", s) == "" }

// maxIfname is IFNAMSIZ without the NUL.
const maxIfname = 15

// checkDevice follows the kernel's dev_valid_name (net/core/dev.c).
func checkDevice(name, s string) string {
	switch {
	case s == "":
		return name + ` is empty: write the name of a network interface, such as "eth1"`
	case len(s) > maxIfname:
		return fmt.Sprintf("%s %s is %d bytes long: interface names have at most %d", name, quote(s),
			len(s), maxIfname)
	case s == "." || s == ".." || strings.ContainsFunc(s, func(c rune) bool {
		return c == '/' || c == ':' || c == unicode.ReplacementChar || unicode.IsSpace(c) || !unicode.IsPrint(c)
	}):
		return fmt.Sprintf("%s %s cannot be an interface name: those have no /, : or blanks", name, quote(s))
	case strings.Contains(s, "*"):
		return fmt.Sprintf("%s %s is a pattern: write the name of one interface", name, quote(s))
	case s == "lo":
		return name + ` "lo" is the loopback interface: write the one that leads to the Internet`
	}
	return ""
}

// checkDevices takes, beside names of devices, those that end with a star, as nftables writes the names of several.
func checkDevices(name, s string) string {
	prefix, pattern := strings.CutSuffix(s, "*")
	switch {
	case strings.HasSuffix(s, "+"):
		return fmt.Sprintf("%s %s matches no device: for all names that begin so, write %s", name, quote(s), quote(strings.TrimSuffix(s, "+")+"*"))
	case s == "*":
		return name + ` "*" is every device: leave it out`
	case strings.ContainsAny(s, "?[]"):
		return fmt.Sprintf("%s %s matches no device: the only pattern is a * at the end of a name", name, quote(s))
	case pattern && !strings.Contains(prefix, "*"):
		return checkDevice(name, prefix)
	case strings.Contains(s, "*"):
		return fmt.Sprintf("%s %s matches no device: the only pattern is a * at the end of a name", name, quote(s))
	}
	return checkDevice(name, s)
}
