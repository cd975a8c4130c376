package ndproxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var (
	network   = netip.MustParsePrefix("2001:db8:b::/64")
	own       = at(9)
	ours      = [sides]net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	noon      = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	addresses = cmpopts.EquateComparable(netip.Addr{})
)

func at(id byte) netip.Addr {
	b := network.Addr().As16()
	b[15] = id
	return netip.AddrFrom16(b)
}

// stage is a table with time, and what has left it.
type stage struct {
	*table
	now time.Time
}

func newStage(kept Hosts) *stage {
	s := &stage{newTable(network, own, kept), noon}
	s.linkUp(lan, ours[lan])
	s.linkUp(line, ours[line])
	return s
}

func from(id byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, id} }

// after lets time pass as a Proxy does, and returns what was sent: "line? 7", "line?? 7" for duplicate address detection, "lan! 7".
func (s *stage) after(d time.Duration) (sent []string) {
	end := s.now.Add(d)
	for {
		s.tick(s.now)
		sent = append(sent, s.sent()...)
		next := s.deadline(s.now)
		if next.IsZero() || next.After(end) {
			break
		}
		s.now = next
	}
	s.now = end
	return sent
}

func (s *stage) sent() (sent []string) {
	for i, name := range [sides]string{"lan", "line"} {
		for _, q := range s.questions[i] {
			mark := "?"
			if q.duplicates {
				mark = "??"
			}
			sent = append(sent, fmt.Sprintf("%s%s %x", name, mark, q.target.As16()[15]))
		}
		for _, a := range s.answers[i] {
			sent = append(sent, fmt.Sprintf("%s! %x", name, a.target.As16()[15]))
		}
		s.questions[i], s.answers[i] = nil, nil
	}
	return sent
}

func (s *stage) solicit(on side, source, target netip.Addr) []string {
	s.receive(on, message{source: source, target: target, hardware: from(1)}, s.now)
	return s.after(0)
}

func (s *stage) advertise(on side, target netip.Addr) []string {
	s.receive(on, message{advertisement: true, source: target, target: target, hardware: from(2)}, s.now)
	return s.after(0)
}

func (s *stage) has(t *testing.T, lan, line []netip.Addr) {
	t.Helper()
	if diff := cmp.Diff(Hosts{lan, line}, s.present(), addresses, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

var (
	unspecified = netip.IPv6Unspecified()
	provider    = netip.MustParseAddr("fe80::1")
)

func list(a ...netip.Addr) []netip.Addr { return a }

func TestAHostOfTheLANIsCheckedOnTheLine(t *testing.T) {
	s := newStage(Hosts{})
	same(t, s.solicit(lan, unspecified, at(7)), "line?? 7")
	s.has(t, nil, nil)
	same(t, s.after(checkTime))
	s.has(t, list(at(7)), nil)
	same(t, s.solicit(line, provider, at(7)), "line! 7") // the kernel does not yet
	same(t, s.after(answerTime))
	same(t, s.solicit(line, provider, at(7)))
}

func TestAnAddressThatIsTakenOnTheOtherLinkIsDefended(t *testing.T) {
	s := newStage(Hosts{})
	same(t, s.solicit(lan, unspecified, at(7)), "line?? 7")
	same(t, s.advertise(line, at(7)), "lan! 7")
	same(t, s.after(checkTime))
	s.has(t, nil, list(at(7)))
}

func TestHostsAreFoundByThoseWhoWantThem(t *testing.T) {
	s := newStage(Hosts{})
	same(t, s.solicit(line, provider, at(7)), "lan? 7")
	same(t, s.advertise(lan, at(7)), "line! 7")
	s.has(t, list(at(7)), nil)
	same(t, s.solicit(lan, at(7), at(8)), "line? 8")
	same(t, s.advertise(line, at(8))) // the kernel answers when it has the route
	s.has(t, list(at(7)), list(at(8)))
	same(t, s.advertise(line, at(6))) // nobody has asked
	same(t, s.solicit(line, at(5), at(4)), "lan? 4")
	same(t, s.solicit(line, at(5), at(7)), "lan?? 5", "line! 7") // it will want an answer
	s.after(checkTime)
	s.has(t, list(at(7)), list(at(5), at(8)))
	same(t, s.solicit(line, at(3), own), "lan?? 3")
}

func TestWhatOthersOnTheLineHaveToDoWithOneAnotherIsAskedForAFewTimes(t *testing.T) {
	s := newStage(Hosts{})
	for range 3 {
		same(t, s.solicit(line, at(2), at(3)), "lan? 3")
		s.after(time.Second)
	}
	for range 20 {
		same(t, s.solicit(line, at(2), at(3)))
		s.after(time.Second)
	}
	s.after(lookupPause)
	same(t, s.solicit(line, at(2), at(3)), "lan? 3")
	for range 20 { // somebody here who wants one of them is answered as soon as that one is there
		same(t, s.solicit(lan, provider, at(4)), "line? 4")
		s.after(time.Second)
	}
}

func TestAHostThatIsSilentIsAskedAndForgotten(t *testing.T) {
	s := newStage(Hosts{})
	s.solicit(lan, at(7), provider)
	s.after(checkTime)
	same(t, s.after(silence-checkTime), "lan? 7")
	s.advertise(lan, at(7))
	same(t, s.after(silence+2*time.Second), "lan? 7", "lan? 7", "lan? 7")
	s.has(t, list(at(7)), nil)
	same(t, s.after(time.Second))
	s.has(t, nil, nil)
	if !s.deadline(s.now).IsZero() {
		t.Error("a table without hosts wants to be woken")
	}
}

func TestAHostMovesToTheOtherLink(t *testing.T) {
	s := newStage(Hosts{})
	s.solicit(lan, at(7), provider)
	s.after(time.Minute)
	same(t, s.solicit(line, unspecified, at(7)), "lan? 7") // the kernel says that it is taken
	same(t, s.after(3*time.Second), "lan? 7", "lan? 7")
	s.has(t, nil, nil)
	same(t, s.solicit(line, at(7), own), "lan?? 7")
	s.after(checkTime)
	s.has(t, nil, list(at(7)))
	// It says nothing there, and somebody here looks for it where it was.
	s.after(time.Minute)
	same(t, s.solicit(line, at(5), at(7)), "line? 7")
	same(t, s.advertise(line, at(7)))
	same(t, s.solicit(line, at(5), at(7)))
}

func TestWhatIsKeptIsAskedWhenItsLinkIsUp(t *testing.T) {
	s := &stage{newTable(network, own, Hosts{LAN: list(at(7), own, netip.MustParseAddr("2001:db8::1"), netip.Addr{}), Line: list(at(8))}), noon}
	s.has(t, list(at(7)), list(at(8)))
	same(t, s.after(time.Hour))
	s.has(t, list(at(7)), list(at(8)))
	s.linkUp(lan, ours[lan])
	same(t, s.after(0), "lan? 7")
	s.advertise(lan, at(7))
	same(t, s.after(10*time.Second))
	s.has(t, list(at(7)), list(at(8)))
	s.linkUp(line, ours[line])
	same(t, s.after(3*time.Second), "line? 8", "line? 8", "line? 8")
	s.has(t, list(at(7)), nil)
}

func TestBothLinksAreOne(t *testing.T) {
	s := newStage(Hosts{LAN: list(at(7))})
	s.receive(line, message{source: unspecified, target: at(3), hardware: ours[line]}, s.now) // an access point gives it back
	s.has(t, list(at(7)), nil)
	s.receive(line, message{source: unspecified, target: at(3), hardware: ours[lan]}, s.now)
	same(t, s.after(0))
	s.has(t, nil, nil)
	same(t, s.solicit(lan, unspecified, at(7)))
	s.after(loopPause)
	same(t, s.solicit(lan, unspecified, at(7)), "line?? 7")
}

// TestATableIsBounded has anybody say anything: questions keep to the budget, hosts and lookups to their bounds, and an address that somebody
// uses is on one link.
func TestATableIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(Hosts{})
		began, asked := s.now, [sides]int{}
		count := func() {
			for i := range s.questions {
				asked[i] += len(s.questions[i])
				s.questions[i], s.answers[i] = nil, nil
			}
		}
		anything := rapid.Custom(func(t *rapid.T) netip.Addr {
			b := network.Addr().As16()
			b[14], b[15] = rapid.Byte().Draw(t, "high"), rapid.Byte().Draw(t, "low")
			return netip.AddrFrom16(b)
		})
		sources := rapid.OneOf(anything, rapid.SampledFrom([]netip.Addr{unspecified, provider, own}))
		for range rapid.IntRange(1, 300).Draw(t, "messages") {
			on := side(rapid.IntRange(0, 1).Draw(t, "link"))
			many := rapid.SampledFrom([]int{1, 1, 1, 200}).Draw(t, "many")
			first := anything.Draw(t, "target")
			for range many {
				m := message{advertisement: rapid.Bool().Draw(t, "advertisement"), source: sources.Draw(t, "source"), target: first, hardware: from(3)}
				s.receive(on, m, s.now)
				first = first.Next()
			}
			s.tick(s.now)
			count()
			s.now = s.now.Add(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, time.Minute, silence}).Draw(t, "later"))
			for i := range asked {
				if most := askAtOnce + int(s.now.Sub(began)/askEvery) + 1; asked[i] > most {
					t.Fatalf("%d questions within %v, at most %d are allowed", asked[i], s.now.Sub(began), most)
				}
				if len(s.lookups[i]) > mostLookups {
					t.Fatalf("%d lookups", len(s.lookups[i]))
				}
			}
			p := s.present()
			if len(p.LAN) > mostHosts || len(p.Line) > mostHosts || len(s.hosts) > 2*mostHosts {
				t.Fatalf("%d and %d hosts", len(p.LAN), len(p.Line))
			}
			if slices.Contains(p.LAN, own) || slices.Contains(p.Line, own) || slices.Contains(p.LAN, network.Addr()) {
				t.Fatal("an address of ours is a host")
			}
		}
	})
}

func TestMoreHostsThanAreKept(t *testing.T) {
	s := newStage(Hosts{})
	a := at(10)
	for range mostHosts + 10 {
		s.solicit(lan, a, provider)
		s.after(2 * askEvery)
		a = a.Next()
	}
	s.after(checkTime)
	p := s.present()
	if len(p.LAN) != mostHosts || slices.Contains(p.LAN, at(10)) || s.crowded.IsZero() {
		t.Errorf("%d hosts, crowded at %v", len(p.LAN), s.crowded)
	}
}
