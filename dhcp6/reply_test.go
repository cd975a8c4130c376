package dhcp6

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

const held = "2001:db8:a::/56"

// settled is a bench that holds 2001:db8:a::/56 in IA_PD 1, and 2001:db8:b::/56 in IA_PD 2, for 1000 and 2000 s.
func settled(t *testing.T, two bool) *bench {
	t.Helper()
	give := iaPD(1, 0, 0, iaPrefix(held, 1000, 2000))
	if two {
		give = append(give, iaPD(2, 0, 0, iaPrefix("2001:db8:b::/56", 1000, 2000))...)
	}
	b := start(t, gives(alpha, give), func(cfg *Config) {
		if two {
			cfg.IAPD = []IAPD{{ID: 1}, {ID: 2}}
		}
	})
	sleep(3 * time.Second)
	b.kinds()
	b.clear()
	return b
}

// ipv6.md 1.11: what a Reply to a Renew does, and what is asked next.
func TestARenewIsAnsweredInManyWays(t *testing.T) {
	extend := func(id uint32, p string) []byte { return iaPD(id, 0, 0, iaPrefix(p, 1000, 2000)) }
	again := gives(alpha, extend(1, held), extend(2, "2001:db8:b::/56"))
	for _, c := range []struct {
		name    string
		two     bool
		renew   script
		request script // and what a Request is answered with
		heard   []string
		kinds   string
		log     string
	}{
		{name: "both are extended", two: true, renew: again, heard: []string{"renewed 2001:db8:a::/56 extended 2001:db8:b::/56 extended"}, kinds: "RENEW"},
		{name: "what is not mentioned stays", two: true, renew: gives(alpha, extend(1, held)), heard: []string{"renewed 2001:db8:a::/56 extended"}, kinds: "RENEW"},
		{name: "valid 0 withdraws, and the new one comes with it (Kea)", renew: gives(alpha, iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 1000, 2000), iaPrefix(held, 0, 0))),
			heard: []string{"renewed 2001:db8:a::/56 withdrawn 2001:db8:c::/56 added"}, kinds: "RENEW"},
		{name: "another prefix, and no word about the one that is held", renew: gives(alpha, extend(1, "2001:db8:c::/56")),
			heard: []string{"renewed 2001:db8:a::/56 deprecated 2001:db8:c::/56 added"}, kinds: "RENEW"},
		{name: "another prefix for one of two", two: true, renew: gives(alpha, extend(1, "2001:db8:c::/56"), extend(2, "2001:db8:b::/56")),
			heard: []string{"renewed 2001:db8:a::/56 deprecated 2001:db8:b::/56 extended 2001:db8:c::/56 added"}, kinds: "RENEW"},
		{name: "a second prefix comes to the first", renew: gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 1000, 2000), iaPrefix("2001:db8:c::/60", 1000, 2000))),
			heard: []string{"renewed 2001:db8:a::/56 extended 2001:db8:c::/60 added"}, kinds: "RENEW"},
		{name: "valid 0 alone leads to a Solicit", renew: gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 0, 0))),
			heard: []string{"renewed 2001:db8:a::/56 withdrawn (nothing left)"}, kinds: "RENEW SOLICIT"},
		{name: "NoPrefixAvail for one keeps both", two: true, renew: gives(alpha, extend(1, held), iaPD(2, 0, 0, stat(noPrefix, "none"))),
			heard: []string{"renewed 2001:db8:a::/56 extended"}, kinds: "RENEW"},
		{name: "NoPrefixAvail at the top keeps the lease (WIDE)", renew: gives(alpha, stat(noPrefix, "none left")), kinds: "RENEW", log: "NoPrefixAvail: none left"},
		{name: "NoBinding in the IA leads to a Request with all (ISC)", two: true, renew: gives(alpha, extend(1, held), iaPD(2, 0, 0, stat(noBinding, ""))), request: again,
			heard: []string{"renewed 2001:db8:a::/56 extended", "granted 2001:db8:a::/56 extended 2001:db8:b::/56 extended"}, kinds: "RENEW REQUEST"},
		{name: "NoBinding in the prefix", renew: gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 100, 200, stat(noBinding, "")))), request: again,
			heard: []string{"granted 2001:db8:a::/56 extended"}, kinds: "RENEW REQUEST"},
		{name: "NoBinding at the top", renew: gives(alpha, stat(noBinding, "")), request: again,
			heard: []string{"granted 2001:db8:a::/56 extended"}, kinds: "RENEW REQUEST"},
		{name: "NoBinding, then another prefix", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), request: gives(alpha, extend(1, "2001:db8:c::/56")),
			heard: []string{"granted 2001:db8:a::/56 replaced 2001:db8:c::/56 added"}, kinds: "RENEW REQUEST"},
		{name: "NoBinding, then none to be had", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), request: gives(alpha, iaPD(1, 0, 0, stat(noPrefix, ""))),
			heard: []string{"denied 2001:db8:a::/56 refused (nothing left)"}, kinds: "RENEW REQUEST SOLICIT"},
		{name: "NoBinding, then none to be had, said at the top", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), request: gives(alpha, stat(noPrefix, "")),
			heard: []string{"denied 2001:db8:a::/56 refused (nothing left)"}, kinds: "RENEW REQUEST SOLICIT"},
		{name: "NoBinding, then the failure of a moment", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), request: gives(alpha, stat(unspecFail, "busy")),
			kinds: "RENEW REQUEST", log: "UnspecFail: busy"},
		{name: "NoBinding, then the failure of a moment in the IA", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), request: gives(alpha, iaPD(1, 0, 0, stat(unspecFail, "busy"))),
			kinds: "RENEW REQUEST", log: "UnspecFail: busy"},
		{name: "NoBinding for two, then one of them", two: true, renew: gives(alpha, stat(noBinding, "")), request: gives(alpha, extend(1, held), iaPD(2, 0, 0, stat(noPrefix, ""))),
			heard: []string{"granted 2001:db8:a::/56 extended 2001:db8:b::/56 refused"}, kinds: "RENEW REQUEST"},
		{name: "NoBinding at the top of an empty IA", renew: gives(alpha, stat(noBinding, ""), iaPD(1, 0, 0)), request: again,
			heard: []string{"granted 2001:db8:a::/56 extended"}, kinds: "RENEW REQUEST"},
		{name: "a failed IA forbids to use what stands in it", renew: gives(alpha, iaPD(1, 0, 0, stat(unspecFail, ""), iaPrefix("2001:db8:c::/56", 1000, 2000))), kinds: "RENEW"},
		{name: "an IA that gives, and comes again to withdraw", renew: gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 1000, 2000), iaPrefix("2001:db8:c::/56", 1000, 2000)), iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 0, 0))),
			heard: []string{"renewed 2001:db8:a::/56 extended"}, kinds: "RENEW"},
		{name: "a prefix that moves to another IA is held once", two: true, renew: gives(alpha, extend(2, held)),
			heard: []string{"renewed 2001:db8:a::/56 extended"}, kinds: "RENEW"},
		{name: "NoBinding, then silence", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), kinds: "RENEW REQUEST"},
		{name: "NoBinding, then another server's refusal", renew: gives(alpha, iaPD(1, 0, 0, stat(noBinding, ""))), request: gives(beta, iaPD(1, 0, 0, stat(noPrefix, ""))),
			kinds: "RENEW REQUEST SOLICIT"},
		{name: "UnspecFail at the top is no answer", renew: gives(alpha, stat(unspecFail, "busy")), kinds: "RENEW", log: "UnspecFail: busy"},
		{name: "UnspecFail at the top forbids to use what stands below", renew: gives(alpha, stat(unspecFail, ""), extend(1, "2001:db8:c::/56")), kinds: "RENEW"},
		{name: "UnspecFail in the IA is no answer", renew: gives(alpha, iaPD(1, 0, 0, stat(unspecFail, "busy"))), kinds: "RENEW", log: "IA_PD 1: UnspecFail: busy"},
		{name: "NoAddrsAvail at the top does not spoil the prefix", renew: gives(alpha, stat(noAddrs, ""), extend(1, held)),
			heard: []string{"renewed 2001:db8:a::/56 extended"}, kinds: "RENEW"},
		{name: "an empty IA is no answer", renew: gives(alpha, iaPD(1, 0, 0)), kinds: "RENEW", log: "renews nothing"},
		{name: "no IA at all is no answer", renew: gives(alpha), kinds: "RENEW", log: "renews nothing"},
		{name: "somebody else's IAID is no answer", renew: gives(alpha, extend(9, "2001:db8:c::/56")), kinds: "RENEW"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := settled(t, c.two)
				b.script(byKind{"RENEW": c.renew, "REQUEST": c.request}.answer)
				sleep(500*time.Second + 100*time.Second)
				if c.two {
					b.wantNames(dhcpv6.MessageTypeRequest, "2001:db8:a::/56", "2001:db8:b::/56")
				} else {
					b.wantNames(dhcpv6.MessageTypeRequest, "2001:db8:a::/56", "")
				}
				b.wantKinds(c.kinds)
				b.wantOnce()
				b.wantHeard(c.heard...)
				b.wantLog(c.log)
			})
		})
	}
}

// wantOnce wants the latest lease to have each prefix once.
func (b *bench) wantOnce() {
	b.t.Helper()
	if l := b.lease(); l != nil {
		seen := map[netip.Prefix]bool{}
		for _, d := range l.Prefixes {
			if seen[d.Prefix] {
				b.t.Errorf("%v is held twice: %+v", d.Prefix, l.Prefixes)
			}
			seen[d.Prefix] = true
		}
	}
}

// wantNames wants each message of a type to mention these prefixes. It forgets no messages.
func (b *bench) wantNames(kind dhcpv6.MessageType, first, second string) {
	b.t.Helper()
	b.wire.mu.Lock()
	defer b.wire.mu.Unlock()
	for _, s := range b.wire.sent {
		if s.msg.MessageType == kind && (included(s.msg, 1) != first || included(s.msg, 2) != second) {
			b.t.Errorf("%v mentions %q and %q", kind, included(s.msg, 1), included(s.msg, 2))
		}
	}
}

// ipv6.md 1.11: the same for Rebind, where any server may answer.
func TestARebindIsAnsweredInManyWays(t *testing.T) {
	extend := gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 1000, 2000)))
	empty := gives(alpha, iaPD(1, 0, 0))
	none := gives(beta, iaPD(1, 0, 0, stat(noBinding, "")))
	for _, c := range []struct {
		name            string
		rebind, request script
		heard           []string
		kinds           string
	}{
		{"extended", extend, nil, []string{"rebound 2001:db8:a::/56 extended"}, "REBIND"},
		{"the old one 0/0 and a new one (ISC)", gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 0, 0), iaPrefix("2001:db8:c::/56", 1000, 2000))), nil,
			[]string{"rebound 2001:db8:a::/56 withdrawn 2001:db8:c::/56 added"}, "REBIND"},
		{"an empty IA of a living binding (Dibbler) leads to a Request", empty, extend, []string{"granted 2001:db8:a::/56 extended"}, "REBIND REQUEST"},
		{"NoBinding of one server does not outrun another's Reply", func(m *dhcpv6.Message) [][]byte {
			return append(none(m), extend(m)...)
		}, nil, []string{"rebound 2001:db8:a::/56 extended"}, "REBIND"},
		{"NoBinding of all leads to a Request", none, gives(beta, iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 1000, 2000))),
			[]string{"granted 2001:db8:a::/56 replaced 2001:db8:c::/56 added"}, "REBIND REQUEST"},
		{"NoPrefixAvail keeps the lease", gives(beta, stat(noPrefix, "")), nil, nil, "REBIND"},
		{"UnspecFail keeps the lease", gives(beta, stat(unspecFail, "")), nil, nil, "REBIND"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := settled(t, false)
				b.script(nil)
				sleep(797 * time.Second)
				b.script(byKind{"REBIND": c.rebind, "REQUEST": c.request}.answer)
				sleep(20 * time.Second)
				b.wantNames(dhcpv6.MessageTypeRequest, held, "")
				msgs := b.messages()
				for i, s := range msgs {
					if s.msg.MessageType == dhcpv6.MessageTypeRequest && s.at.Sub(msgs[i-1].at) != noBindingWait {
						t.Errorf("the Request came %v after the Rebind", s.at.Sub(msgs[i-1].at))
					}
				}
				if got := kindsOf(msgs); got != "RENEW "+c.kinds {
					t.Errorf("sent %q, want then %q", got, c.kinds)
				}
				b.wantHeard(c.heard...)
			})
		})
	}
}

// ipv6.md 1.6, 1.9 and malformed anything: what must not be used changes nothing, and nothing ends Run.
func TestUnusableAnswersChangeNothing(t *testing.T) {
	good := iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 1000, 2000))
	raw := func(change func(m *dhcpv6.Message) []byte) script {
		return func(m *dhcpv6.Message) [][]byte { return [][]byte{change(m)} }
	}
	cut := func(m *dhcpv6.Message, options ...[]byte) []byte {
		return append(append([]byte{kindFor(m)}, m.TransactionID[:]...), strings.Join(bytesOf(options), "")...)
	}
	for name, s := range map[string]script{
		"a foreign transaction": raw(func(m *dhcpv6.Message) []byte {
			b := reply(kindFor(m), m, alpha, good)
			b[2] ^= 1
			return b
		}),
		"a foreign client id":            raw(func(m *dhcpv6.Message) []byte { return cut(m, opt(1, beta), opt(2, alpha), good) }),
		"no client id":                   raw(func(m *dhcpv6.Message) []byte { return cut(m, opt(2, alpha), good) }),
		"no server id":                   raw(func(m *dhcpv6.Message) []byte { return cut(m, opt(1, ours), good) }),
		"an empty server id":             raw(func(m *dhcpv6.Message) []byte { return cut(m, opt(1, ours), opt(2), good) }),
		"a message cut in the header":    raw(func(*dhcpv6.Message) []byte { return []byte{replies, 1} }),
		"an empty datagram":              raw(func(*dhcpv6.Message) []byte { return nil }),
		"a message cut in an option":     raw(func(m *dhcpv6.Message) []byte { return cut(m, opt(1, ours), opt(2, alpha), good[:20]) }),
		"a Reconfigure (1.14)":           raw(func(m *dhcpv6.Message) []byte { return reply(byte(dhcpv6.MessageTypeReconfigure), m, alpha, good) }),
		"our own message come back":      raw(func(m *dhcpv6.Message) []byte { return m.ToBytes() }),
		"T1 > T2 > 0":                    gives(alpha, iaPD(1, 20, 10, iaPrefix("2001:db8:c::/56", 100, 200))),
		"preferred > valid":              gives(alpha, iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 300, 200))),
		"valid 0 of what we lack":        gives(alpha, iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 0, 0))),
		"an IA_PD without room":          gives(alpha, opt(25, []byte{0, 0, 0, 1})),
		"an IA_PREFIX without room":      gives(alpha, iaPD(1, 0, 0, opt(26, make([]byte, 24)))),
		"a length of 129":                gives(alpha, iaPD(1, 0, 0, opt(26, u32(100), u32(200), []byte{129}, mustPrefix(held).Addr().AsSlice()))),
		"a default route":                gives(alpha, iaPD(1, 0, 0, iaPrefix("::/0", 100, 200))),
		"half of the Internet":           gives(alpha, iaPD(1, 0, 0, iaPrefix("2000::/3", 100, 200))),
		"a link-local prefix":            gives(alpha, iaPD(1, 0, 0, iaPrefix("fe80::/64", 100, 200))),
		"a multicast prefix":             gives(alpha, iaPD(1, 0, 0, iaPrefix("ff05::/64", 100, 200))),
		"an IPv4-mapped prefix":          gives(alpha, iaPD(1, 0, 0, iaPrefix("::ffff:0:0/96", 100, 200))),
		"an address instead of a prefix": gives(alpha, iaNA(1, 0, 0, iaAddr("2001:db8::5", 100, 200))),
		"a prefix in an IA_NA":           gives(alpha, iaNA(1, 0, 0, iaPrefix("2001:db8:c::/56", 100, 200))),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, s, nil)
				sleep(30 * time.Second)
				b.wantHeard()
				b.wantKinds("SOLICIT")
				b.script(gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 1000, 2000))))
				sleep(70 * time.Second)
				b.wantHeard("granted 2001:db8:a::/56 added")
				b.script(s)
				sleep(1100 * time.Second)
				b.wantHeard()
				b.script(gives(alpha, iaPD(1, 0, 0, iaPrefix(held, 1000, 2000))))
				sleep(450 * time.Second)
				b.wantHeard("rebound 2001:db8:a::/56 extended")
			})
		})
	}
}

func bytesOf(options [][]byte) []string {
	var out []string
	for _, o := range options {
		out = append(out, string(o))
	}
	return out
}

// ipv6.md 1.6: one bad part does not spoil the rest, and unknown options do not matter.
func TestABadPartDoesNotSpoilTheRest(t *testing.T) {
	good := iaPrefix(held, 1000, 2000)
	for name, options := range map[string][]byte{
		"an unknown option":                append(opt(4242, []byte("hello")), iaPD(1, 0, 0, good)...),
		"authentication (Dibbler)":         append(opt(11, make([]byte, 28)), iaPD(1, 0, 0, good)...),
		"a name server of 15 octets":       append(opt(23, make([]byte, 15)), iaPD(1, 0, 0, good)...),
		"a domain without an end":          append(opt(24, []byte("\x05local")), iaPD(1, 0, 0, good)...),
		"a domain with a line break":       append(opt(24, []byte("\x04la\nn\x00")), iaPD(1, 0, 0, good)...),
		"a status of one octet":            append(opt(13, []byte{0}), iaPD(1, 0, 0, good)...),
		"a preference of two octets":       append(opt(7, []byte{1, 2}), iaPD(1, 0, 0, good)...),
		"another IA with T1 > T2":          append(iaPD(2, 30, 20, iaPrefix("2001:db8:b::/56", 100, 200)), iaPD(1, 0, 0, good)...),
		"another prefix is malformed":      iaPD(1, 0, 0, iaPrefix("2001:db8:c::/56", 300, 200), good, opt(26, []byte{1})),
		"an unknown option in the IA":      iaPD(1, 0, 0, opt(4242), good),
		"rubbish behind the last option":   append(iaPD(1, 0, 0, good), 0, 1, 2),
		"bits behind the prefix (Dibbler)": iaPD(1, 0, 0, iaPrefix("2001:db8:a::1234:5678/56", 1000, 2000)),
		"a second server id":               append(opt(2, beta), iaPD(1, 0, 0, good)...),
		"an exclusion of nonsense":         iaPD(1, 0, 0, iaPrefix(held, 1000, 2000, opt(67, []byte{200, 1}))),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, gives(alpha, options), func(cfg *Config) { cfg.IAPD = []IAPD{{ID: 1}, {ID: 2}} })
				sleep(3 * time.Second)
				if l := b.lease(); l == nil || l.Server.String() != alpha.String() || len(l.DNS)+len(l.Domains) != 0 || l.Prefixes[0].Exclude.IsValid() {
					t.Errorf("%+v", l)
				}
				b.wantHeard("granted 2001:db8:a::/56 added")
			})
		})
	}
}

// ipv6.md 1.7.
func TestAnAdvertiseWithoutPrefixesIsIgnoredButItsSolMaxRTCounts(t *testing.T) {
	for name, c := range map[string]struct {
		value uint32
		most  time.Duration
		least time.Duration
	}{
		"60 is the least":   {60, 66 * time.Second, 54 * time.Second},
		"59 is not obeyed":  {59, 3960 * time.Second, 3240 * time.Second},
		"86400 is the most": {86400, 95040 * time.Second, 77760 * time.Second},
		"86401 is not":      {86401, 3960 * time.Second, 3240 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, gives(alpha, opt(82, u32(c.value)), stat(noPrefix, "come again")), nil)
				sleep(14 * 24 * time.Hour)
				b.wantHeard()
				b.wantLog("NoPrefixAvail: come again")
				msgs := b.messages()
				last := msgs[len(msgs)-1].at.Sub(msgs[len(msgs)-2].at)
				if last < c.least || last > c.most {
					t.Errorf("the last interval is %v, want %v to %v", last, c.least, c.most)
				}
			})
		})
	}
}

// ipv6.md 1.11: a server that offers and then refuses is asked ever more seldom.
func TestAServerThatOffersAndRefusesIsNotStormed(t *testing.T) {
	for name, options := range map[string][]byte{
		"NoPrefixAvail in the IA":  iaPD(1, 0, 0, stat(noPrefix, "")),
		"NoPrefixAvail at the top": stat(noPrefix, ""),
		"NotOnLink":                stat(notOnLink, ""),
		"UnspecFail":               stat(unspecFail, ""),
		"nothing at all":           nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, byKind{"SOLICIT": generous(100, 200), "REQUEST": gives(alpha, options)}.answer, nil)
				sleep(24 * time.Hour)
				b.wantHeard()
				if n := len(b.messages()); n < 20 || n > 700 {
					t.Errorf("%d messages in a day", n)
				}
			})
		})
	}
}

// ipv6.md 1.11: a link that comes up anew is a new beginning.
func TestAFlapEndsTheWaitAfterRefusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, byKind{"SOLICIT": generous(100, 200), "REQUEST": gives(alpha, stat(noPrefix, ""))}.answer, nil)
		sleep(24 * time.Hour)
		b.messages()
		b.script(generous(100, 200))
		b.SetLink(2, false)
		synctest.Wait()
		b.SetLink(2, true)
		sleep(3 * time.Second)
		b.wantHeard("granted 2001:db8:a::/56 added")
	})
}

// ipv6.md 1.11: what a Reply leaves out is renewed in time, although the rest says never.
func TestWhatAReplyLeavesOutIsRenewedInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := settled(t, true)
		b.script(gives(alpha, iaPD(1, forever, forever, iaPrefix(held, forever, forever))))
		sleep(600 * time.Second)
		b.wantHeard("renewed 2001:db8:a::/56 extended")
		b.script(gives(alpha, iaPD(1, forever, forever, iaPrefix(held, forever, forever)), iaPD(2, 0, 0, iaPrefix("2001:db8:b::/56", 1000, 2000))))
		sleep(1000 * time.Second)
		b.wantHeard("renewed 2001:db8:a::/56 extended 2001:db8:b::/56 extended")
	})
}

// Name servers follow the latest Reply, but a malformed option is no word about them.
func TestNameServersFollowTheReplies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		give := iaPD(1, 10, 0, iaPrefix(held, 1000, 2000))
		server := mustPrefix("2001:db8::53/128").Addr()
		b := start(t, gives(alpha, give, opt(23, server.AsSlice()), opt(24, []byte("\x03lan\x00"))), nil)
		sleep(3 * time.Second)
		b.script(gives(alpha, give, opt(23, []byte{1}), opt(24, []byte{5})))
		sleep(10 * time.Second)
		if l := b.lease(); !slices.Equal(l.DNS, []netip.Addr{server}) || !slices.Equal(l.Domains, []string{"lan"}) {
			t.Errorf("after malformed options: %v %v", l.DNS, l.Domains)
		}
		b.script(gives(alpha, give))
		sleep(10 * time.Second)
		if l := b.lease(); l.DNS != nil || l.Domains != nil {
			t.Errorf("after none: %v %v", l.DNS, l.Domains)
		}
	})
}

// ipv6.md 1.11: NotOnLink has the client ask without what it named.
func TestWhatIsNotOnTheLinkIsNotNamedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		last := earlier(time.Hour, 100*time.Second, 160*time.Second, 200*time.Second, 300*time.Second)
		b := start(t, byKind{"SOLICIT": generous(100, 200), "REQUEST": gives(alpha, stat(notOnLink, ""))}.answer,
			func(cfg *Config) { cfg.Last = stored(t, last) })
		sleep(20 * time.Second)
		var named []string
		for _, s := range b.messages() {
			if s.msg.MessageType == dhcpv6.MessageTypeSolicit {
				named = append(named, included(s.msg, 1))
			}
		}
		if len(named) < 2 || named[0] != held || named[1] != "" {
			t.Errorf("the Solicits named %q", named)
		}
	})
}

// What one association lacks is asked for again, soon though T1 may be a day away.
func TestWhatIsLackingIsAskedForAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, gives(alpha, iaPD(1, 0, 0, stat(noPrefix, "")), iaNA(1, 86400, 90000, iaAddr("2001:db8::5", 100000, 200000))),
			func(cfg *Config) { cfg.IANA = []uint32{1} })
		sleep(3 * time.Second)
		b.wantHeard("granted 2001:db8::5/128 added")
		b.wantKinds("SOLICIT REQUEST")
		b.script(gives(alpha, iaPD(1, 86400, 90000, iaPrefix(held, 100000, 200000)), iaNA(1, 86400, 90000, iaAddr("2001:db8::5", 100000, 200000))))
		sleep(11 * time.Minute)
		b.wantHeard("renewed 2001:db8::5/128 extended 2001:db8:a::/56 added")
		b.wantKinds("RENEW")
	})
}
