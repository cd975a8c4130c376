package dhcp6

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

func TestAPrefixIsObtainedRenewedReboundAndLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, gives(alpha, iaPD(1, 100, 160, iaPrefix("2001:db8:a::/56", 200, 300)), opt(23, mustPrefix("2001:db8::53/128").Addr().AsSlice()),
			opt(24, []byte("\x03lan\x07example\x00"))), nil)
		sleep(3 * time.Second)
		b.wantKinds("SOLICIT REQUEST")
		granted := b.began.Add(3 * time.Second).Sub(b.lease().Heard)
		if granted < 0 || granted > 3*time.Second {
			t.Errorf("heard %v ago", granted)
		}
		heard := b.lease().Heard
		want := &Lease{Server: alpha, Heard: heard, Renew: heard.Add(100 * time.Second), Rebind: heard.Add(160 * time.Second),
			Prefixes: []Delegation{{IAID: 1, Prefix: mustPrefix("2001:db8:a::/56"), Preferred: heard.Add(200 * time.Second), Valid: heard.Add(300 * time.Second)}},
			DNS:      []netip.Addr{mustPrefix("2001:db8::53/128").Addr()}, Domains: []string{"lan.example"}}
		if diff := cmp.Diff(want, b.lease(), comparePrefixes); diff != "" {
			t.Errorf("lease (-want +got):\n%s", diff)
		}
		b.wantHeard("granted 2001:db8:a::/56 added")
		sleep(100 * time.Second)
		b.wantKinds("RENEW")
		b.wantHeard("renewed 2001:db8:a::/56 extended")
		b.script(byKind{"REBIND": generous(200, 300)}.answer)
		sleep(162 * time.Second)
		b.wantKinds("RENEW REBIND")
		b.wantHeard("rebound 2001:db8:a::/56 extended")
		b.script(nil)
		sleep(290 * time.Second)
		b.wantKinds("RENEW REBIND")
		b.wantHeard()
		sleep(10 * time.Second)
		b.wantHeard("lapsed 2001:db8:a::/56 expired (nothing left)")
		sleep(2 * time.Second)
		sent := b.messages()
		if last := sent[len(sent)-1].msg; last.MessageType != dhcpv6.MessageTypeSolicit || included(last, 1) != "2001:db8:a::/56" {
			t.Errorf("after the end: %v, want a Solicit that wishes for the same prefix", last.Summary())
		}
	})
}

// ipv6.md 1.3: all Advertises of the first RT are collected.
func TestTheServerOfTheHighestPreferenceIsAsked(t *testing.T) {
	offers := func(delays map[string]time.Duration, answers map[string][]byte) func(*bench) script {
		return func(b *bench) script {
			return func(m *dhcpv6.Message) [][]byte {
				if m.MessageType != dhcpv6.MessageTypeSolicit {
					return nil
				}
				end := b.end
				for name, delay := range delays {
					server := map[string]DUID{"alpha": alpha, "beta": beta}[name[:strings.IndexAny(name+" ", " ")]]
					time.AfterFunc(delay, func() { end.in <- reply(advertise, m, server, answers[name]) })
				}
				return nil
			}
		}
	}
	give := iaPD(1, 0, 0, iaPrefix("2001:db8:a::/56", 100, 200))
	two := append(iaPD(1, 0, 0, iaPrefix("2001:db8:a::/56", 100, 200)), iaPD(2, 0, 0, iaPrefix("2001:db8:b::/56", 100, 200))...)
	with := func(p byte) []byte { return append(pref(p), give...) }
	for _, c := range []struct {
		name    string
		delays  map[string]time.Duration
		answers map[string][]byte
		want    DUID
		within  time.Duration // of the Solicit
	}{
		{"a later one with a higher preference wins", map[string]time.Duration{"alpha": 10, "beta": 900 * time.Millisecond},
			map[string][]byte{"alpha": with(5), "beta": with(6)}, beta, 1100 * time.Millisecond},
		{"a missing preference is 0", map[string]time.Duration{"alpha": 10, "beta": 500 * time.Millisecond},
			map[string][]byte{"alpha": give, "beta": with(1)}, beta, 1100 * time.Millisecond},
		{"255 ends the wait", map[string]time.Duration{"alpha": 10, "beta": 20 * time.Millisecond},
			map[string][]byte{"alpha": with(254), "beta": with(255)}, beta, 30 * time.Millisecond},
		{"of equals the one that gives more", map[string]time.Duration{"alpha": 10, "beta": 500 * time.Millisecond},
			map[string][]byte{"alpha": give, "beta": two}, beta, 1100 * time.Millisecond},
		{"the latest word of a server counts", map[string]time.Duration{"alpha": 10, "alpha again": 20 * time.Millisecond, "beta": 500 * time.Millisecond},
			map[string][]byte{"alpha": with(9), "alpha again": with(1), "beta": with(5)}, beta, 1100 * time.Millisecond},
		{"of equals the first", map[string]time.Duration{"alpha": 10, "beta": 500 * time.Millisecond},
			map[string][]byte{"alpha": give, "beta": give}, alpha, 1100 * time.Millisecond},
		{"one without a prefix never wins", map[string]time.Duration{"alpha": 10, "beta": 20 * time.Millisecond},
			map[string][]byte{"alpha": give, "beta": append(pref(255), iaPD(1, 0, 0, stat(noPrefix, ""))...)}, alpha, 1100 * time.Millisecond},
		{"after the first RT the first one is taken", map[string]time.Duration{"alpha": 1500 * time.Millisecond, "beta": 1600 * time.Millisecond},
			map[string][]byte{"alpha": give, "beta": with(255)}, alpha, 1501 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, nil, func(cfg *Config) { cfg.IAPD = []IAPD{{ID: 1}, {ID: 2}} })
				b.script(offers(c.delays, c.answers)(b))
				sleep(4 * time.Second)
				var solicited, requested *sent
				for _, s := range b.messages() {
					switch {
					case s.msg.MessageType == dhcpv6.MessageTypeSolicit && solicited == nil:
						solicited = &s
					case s.msg.MessageType == dhcpv6.MessageTypeRequest && requested == nil:
						requested = &s
					}
				}
				if requested == nil {
					t.Fatalf("no Request; log:\n%s", b.log.String())
				}
				if got := DUID(requested.msg.GetOneOption(dhcpv6.OptionServerID).ToBytes()); got.String() != c.want.String() {
					t.Errorf("asked %v, want %v", got, c.want)
				}
				if wait := requested.at.Sub(solicited.at); wait > c.within || c.within > time.Second && wait <= time.Second {
					t.Errorf("asked after %v, want %v", wait, c.within)
				}
			})
		})
	}
}

// The same for addresses alone: of equals the one that gives more.
func TestTheServerThatGivesMoreAddressesIsAsked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one := iaNA(1, 0, 0, iaAddr("2001:db8::5", 1000, 2000))
		two := slices.Concat(one, iaNA(2, 0, 0, iaAddr("2001:db8::6", 1000, 2000)))
		b := start(t, func(m *dhcpv6.Message) [][]byte {
			return [][]byte{reply(kindFor(m), m, alpha, one), reply(kindFor(m), m, beta, two)}
		}, func(cfg *Config) { cfg.IAPD, cfg.IANA = nil, []uint32{1, 2} })
		sleep(3 * time.Second)
		if server := b.wire.sent[1].msg.GetOneOption(dhcpv6.OptionServerID).ToBytes(); string(server) != string(beta) {
			t.Errorf("asked %x", server)
		}
	})
}

// ipv6.md 1.7: where both are wanted, an address alone is better than nothing, and no more than that.
func TestAnAddressAloneIsTakenOnlyWhenNoPrefixComes(t *testing.T) {
	address := iaNA(1, 0, 0, iaAddr("2001:db8::5", 1000, 2000))
	both := slices.Concat(address, iaPD(1, 0, 0, iaPrefix(held, 1000, 2000)))
	for _, c := range []struct {
		name   string
		others bool // another server has both
		want   string
	}{
		{"a prefix goes before a preference of 255", true, "granted 2001:db8::5/128 added 2001:db8:a::/56 added"},
		{"nobody has a prefix", false, "granted 2001:db8::5/128 added"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, func(m *dhcpv6.Message) [][]byte {
					if m.MessageType != dhcpv6.MessageTypeSolicit {
						return [][]byte{reply(replies, m, DUID(m.GetOneOption(dhcpv6.OptionServerID).ToBytes()), map[bool][]byte{true: both, false: address}[c.others])}
					}
					answers := [][]byte{reply(advertise, m, alpha, pref(255), address)}
					if c.others {
						answers = append(answers, reply(advertise, m, beta, both))
					}
					return answers
				}, func(cfg *Config) { cfg.IANA = []uint32{1} })
				sleep(3 * time.Second)
				b.wantHeard(c.want)
				if server := b.wire.sent[1].msg.GetOneOption(dhcpv6.OptionServerID).ToBytes(); c.others && string(server) != string(beta) {
					t.Errorf("asked %x", server)
				}
			})
		})
	}
}

// ipv6.md 1.4.
func TestATransactionKeepsItsIDAndCountsItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, nil, nil)
		sleep(3 * time.Hour)
		msgs := b.messages()
		saturated := false
		for i, s := range msgs {
			if s.msg.TransactionID != msgs[0].msg.TransactionID {
				t.Errorf("message %d has another transaction id", i)
			}
			want := min(s.at.Sub(msgs[0].at)/(10*time.Millisecond), math.MaxUint16)
			saturated = saturated || want == math.MaxUint16
			data := s.msg.GetOneOption(dhcpv6.OptionElapsedTime).ToBytes()
			if got := time.Duration(data[0])<<8 | time.Duration(data[1]); got != want {
				t.Errorf("message %d: elapsed time %d, want %d", i, got, want)
			}
		}
		if !saturated {
			t.Error("no message was late enough")
		}
		b.script(generous(100, 200))
		sleep(2 * time.Hour)
		for _, s := range b.messages() {
			if s.msg.MessageType != dhcpv6.MessageTypeSolicit && s.msg.TransactionID == msgs[0].msg.TransactionID {
				t.Errorf("the %v has the Solicit's transaction id", s.msg.MessageType)
			}
		}
	})
}

// ipv6.md 1.3, 1.9, 1.14, 1.18: what messages carry.
func TestMessagesCarryWhatServersNeed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, gives(alpha, iaPD(7, 0, 0, iaPrefix("2001:db8:a::/56", 100, 200)), iaPD(8, 0, 0, stat(noPrefix, "")),
			iaNA(7, 0, 0, iaAddr("2001:db8::5", 100, 200))), func(cfg *Config) {
			cfg.IAPD = []IAPD{{ID: 7, Hint: mustPrefix("::/56")}, {ID: 8}}
			cfg.IANA = []uint32{7}
		})
		sleep(60 * time.Second)
		b.script(nil)
		sleep(200 * time.Second)
		seen := map[dhcpv6.MessageType]bool{}
		for _, s := range b.messages() {
			m := s.msg
			if seen[m.MessageType] {
				continue
			}
			seen[m.MessageType] = true
			if got := m.GetOneOption(dhcpv6.OptionClientID).ToBytes(); string(got) != string(ours) {
				t.Errorf("%v: client id %x", m.MessageType, got)
			}
			server := m.GetOneOption(dhcpv6.OptionServerID)
			if named := m.MessageType == dhcpv6.MessageTypeRequest || m.MessageType == dhcpv6.MessageTypeRenew; named != (server != nil) {
				t.Errorf("%v: server id %v", m.MessageType, server)
			}
			for _, code := range []dhcpv6.OptionCode{dhcpv6.OptionSolMaxRT, dhcpv6.OptionPDExclude, dhcpv6.OptionDNSRecursiveNameServer} {
				if !m.IsOptionRequested(code) {
					t.Errorf("%v does not ask for %v", m.MessageType, code)
				}
			}
			if m.GetOneOption(dhcpv6.OptionReconfAccept) != nil {
				t.Errorf("%v offers to be reconfigured", m.MessageType)
			}
			if len(m.Options.IAPD()) != 2 || len(m.Options.IANA()) != 1 || pdOf(m, 7) == nil || pdOf(m, 8) == nil {
				t.Errorf("%v: %v", m.MessageType, m.Summary())
			}
			for _, ia := range m.Options.IAPD() {
				zero := ia.T1 == 0 && ia.T2 == 0
				for _, p := range ia.Options.Prefixes() {
					zero = zero && p.PreferredLifetime == 0 && p.ValidLifetime == 0
				}
				if !zero {
					t.Errorf("%v sets times: %v", m.MessageType, ia)
				}
			}
			wish := map[dhcpv6.MessageType]string{dhcpv6.MessageTypeSolicit: "::/56"}[m.MessageType]
			if wish == "" {
				wish = "2001:db8:a::/56"
			}
			if included(m, 7) != wish || included(m, 8) != "" {
				t.Errorf("%v mentions %q and %q, want %q and nothing", m.MessageType, included(m, 7), included(m, 8), wish)
			}
		}
		if !seen[dhcpv6.MessageTypeSolicit] || !seen[dhcpv6.MessageTypeRequest] || !seen[dhcpv6.MessageTypeRenew] || !seen[dhcpv6.MessageTypeRebind] {
			t.Errorf("saw only %v", seen)
		}
	})
}

// ipv6.md 1.8.
func TestRapidCommit(t *testing.T) {
	give := iaPD(1, 0, 0, iaPrefix("2001:db8:a::/56", 100, 200))
	onSolicit := func(kind byte, options ...[]byte) script {
		return func(m *dhcpv6.Message) [][]byte {
			if m.MessageType != dhcpv6.MessageTypeSolicit {
				return [][]byte{reply(replies, m, alpha, give)}
			}
			return [][]byte{reply(kind, m, alpha, options...)}
		}
	}
	both := func(m *dhcpv6.Message) [][]byte {
		if m.MessageType == dhcpv6.MessageTypeSolicit {
			return [][]byte{reply(advertise, m, beta, give), reply(replies, m, alpha, give)}
		}
		return [][]byte{reply(replies, m, beta, give)}
	}
	for _, c := range []struct {
		name   string
		asked  bool
		script script
		want   string
	}{
		{"a committing Reply binds at once", true, onSolicit(replies, rapidCommit(), give), "SOLICIT"},
		{"a Reply without the option is none", true, onSolicit(replies, give), "SOLICIT"},
		{"the Advertises are used when that is all that comes", true, both, "SOLICIT REQUEST"},
		{"who did not ask gets none", false, onSolicit(replies, rapidCommit(), give), "SOLICIT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, c.script, func(cfg *Config) { cfg.RapidCommit = c.asked })
				sleep(5 * time.Second)
				msgs := b.messages()
				if has := msgs[0].msg.GetOneOption(dhcpv6.OptionRapidCommit) != nil; has != c.asked {
					t.Errorf("Rapid Commit in the Solicit: %v", has)
				}
				if last := msgs[len(msgs)-1].msg.MessageType.String(); !strings.HasSuffix(c.want, last) {
					t.Errorf("the last message is %v, want %v", last, c.want)
				}
				bound := c.want == "SOLICIT REQUEST" || c.asked && len(msgs) == 1
				if bound {
					b.wantHeard("granted 2001:db8:a::/56 added")
				} else {
					b.wantHeard()
					b.wantLog("without Rapid Commit")
				}
			})
		})
	}
}

// ipv6.md 1.12.
func TestAServerThatDoesNotAnswerRequestsIsLeftForTheNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		give := iaPD(1, 0, 0, iaPrefix("2001:db8:a::/56", 1000, 2000))
		asked := map[string]int{}
		b := start(t, func(m *dhcpv6.Message) [][]byte {
			if m.MessageType == dhcpv6.MessageTypeSolicit {
				return [][]byte{reply(advertise, m, alpha, pref(9), give), reply(advertise, m, beta, pref(1), give)}
			}
			server := DUID(m.GetOneOption(dhcpv6.OptionServerID).ToBytes()).String()
			asked[server]++
			if server == beta.String() && asked[server] > reqMaxRC {
				return [][]byte{reply(replies, m, beta, give)}
			}
			return nil
		}, nil)
		sleep(10 * time.Minute)
		if asked[alpha.String()] != 20 || asked[beta.String()] != 11 {
			t.Errorf("asked %v, want ten times the first, ten times the second, and once more each", asked)
		}
		b.wantKinds("SOLICIT REQUEST SOLICIT REQUEST")
		b.wantHeard("granted 2001:db8:a::/56 added")
	})
}

// ipv6.md 1.13: link flaps.
func TestALinkFlapIsAnsweredByRebindAndKeepsThePrefix(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, generous(1000, 2000), nil)
		sleep(3 * time.Second)
		b.messages()
		b.wantHeard("granted 2001:db8:a::/56 added")
		b.SetLink(2, false)
		sleep(10 * time.Second)
		b.wantHeard()
		b.wantKinds("")
		b.SetLink(2, true)
		sleep(2 * time.Second)
		b.wantKinds("REBIND")
		b.wantHeard("verified 2001:db8:a::/56 extended")
		b.SetLink(7, true) // made anew
		sleep(2 * time.Second)
		b.wantKinds("REBIND")
		b.wantHeard("verified 2001:db8:a::/56 extended")
		if b.openings.Load() != 3 {
			t.Errorf("%d sockets were opened, want 3", b.openings.Load())
		}
		b.script(nil)
		b.SetLink(7, false)
		b.SetLink(7, true)
		synctest.Wait()
		b.SetLink(7, false)
		synctest.Wait()
		b.SetLink(7, true)
		sleep(12 * time.Second)
		b.wantKinds("REBIND")
		b.wantHeard()
		b.wantLog("the lease is kept")
		sleep(8 * time.Minute)
		b.wantKinds("") // silence of ten seconds has not touched T1
		b.script(generous(1000, 2000))
		sleep(1 * time.Minute)
		b.wantKinds("RENEW")
		b.wantHeard("renewed 2001:db8:a::/56 extended")
	})
}

func TestALeaseExpiresWhileTheLinkIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, generous(100, 200), nil)
		sleep(3 * time.Second)
		b.clear()
		b.SetLink(2, false)
		sleep(200 * time.Second)
		b.wantHeard("lapsed 2001:db8:a::/56 expired (nothing left)")
		b.kinds()
		b.SetLink(2, true)
		sleep(3 * time.Second)
		b.wantKinds("SOLICIT REQUEST")
		b.wantHeard("granted 2001:db8:a::/56 added")
	})
}

// ipv6.md 1.13: a client with addresses alone confirms.
func TestAddressesAloneAreConfirmed(t *testing.T) {
	give := iaNA(1, 0, 0, iaAddr("2001:db8::5", 1000, 2000))
	for _, c := range []struct {
		name   string
		answer script
		heard  []string
		kinds  string
	}{
		{"success", gives(alpha, stat(0, "")), []string{"verified 2001:db8::5/128 kept"}, "CONFIRM"},
		{"not on link", byKind{"CONFIRM": gives(alpha, stat(notOnLink, "moved"))}.answer, []string{"denied 2001:db8::5/128 refused (nothing left)"}, "CONFIRM SOLICIT"},
		{"silence", nil, nil, "CONFIRM"},
		{"nonsense", gives(alpha, stat(unspecFail, "")), nil, "CONFIRM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, gives(alpha, give), func(cfg *Config) { cfg.IAPD, cfg.IANA = nil, []uint32{1} })
				sleep(3 * time.Second)
				b.wantHeard("granted 2001:db8::5/128 added")
				b.kinds()
				b.SetLink(2, false)
				synctest.Wait()
				b.script(c.answer)
				b.SetLink(2, true)
				sleep(15 * time.Second)
				b.wantHeard(c.heard...)
				b.wantKinds(c.kinds)
			})
		})
	}
}
