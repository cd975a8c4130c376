package kernel_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/rules"
)

// A connection that was translated to a prefix which nobody routes any more is forgotten; all others go on.
func TestConnectionsThatAreTranslatedToAFormerPrefixAreForgotten(t *testing.T) {
	namespace(t)
	k := open(t)
	insert := func(port, orig, reply, mark string) {
		nat := ""
		if reply != orig {
			nat = "--src-nat " + reply
		}
		sh(t, "conntrack -I -s "+orig+" -d 2001:db8:ffff::1 -p udp "+nat+" --sport "+port+" --dport 53 --timeout 120 --mark "+mark+" 2>&1")
	}
	insert("1001", "fd00::9", "2001:db8:a00::9", "0x1000000")                                                                                         // translated to what was
	insert("1002", "fd00::9", "2001:db8:c00::9", "0x1000000")                                                                                         // and to what is
	insert("1003", "2001:db8:a00::7", "2001:db8:a00::7", "0x1000000")                                                                                 // not translated
	insert("1004", "fd00::9", "2001:db8:a00::9", "0x2000000")                                                                                         // by another uplink
	insert("1005", "fd00::9", "2001:db8:a00::9", "0x10000ff")                                                                                         // bits of others in the mark
	sh(t, "conntrack -I -s 2001:db8:ffff::1 -d 2001:db8:a00::9 -p udp --dst-nat fd00::9 --sport 1006 --dport 53 --timeout 120 --mark 0x1000000 2>&1") // from outside
	if got := flowPorts(t, rules.IPv6); len(got) != 6 {
		t.Fatalf("before: %v", got)
	}
	n, err := k.FlushTranslated(rules.IPv6, numbers.Mark(1), numbers.MarkMask, []netip.Prefix{netip.MustParsePrefix("2001:db8:c00::/56")})
	if got := flowPorts(t, rules.IPv6); err != nil || n != 3 || !slices.Equal(got, []string{"1002", "1003", "1004"}) {
		t.Errorf("%d forgotten, left are %v, %v", n, got, err)
	}
	if n, err := k.FlushTranslated(rules.IPv6, numbers.Mark(1), numbers.MarkMask, nil); err != nil || n != 1 {
		t.Errorf("without a prefix: %d, %v", n, err)
	}
	if _, err := k.FlushTranslated(rules.IPv6, 0xff, numbers.MarkMask, nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("for unpinned ones: %v", err)
	}
}
