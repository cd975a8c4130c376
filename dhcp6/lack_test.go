package dhcp6

import (
	"strings"
	"testing"
	"time"
)

// The owner of an uplink that works sees no other reason why the LANs have no IPv6.
func TestALackOfPrefixesHasAReason(t *testing.T) {
	for _, c := range []struct {
		name    string
		answer  script
		refusal string // "" for none
		lacks   bool
	}{
		{name: "silence", answer: nil, lacks: true},
		{name: "NoPrefixAvail in the association", answer: gives(alpha, iaPD(1, 0, 0, stat(noPrefix, "none left"))), refusal: "NoPrefixAvail: none left", lacks: true},
		{name: "NoPrefixAvail at the top", answer: gives(alpha, stat(noPrefix, "")), refusal: "NoPrefixAvail", lacks: true},
		{name: "an offer that is refused when it is taken", answer: byKind{"SOLICIT": generous(200, 300), "REQUEST": gives(alpha, iaPD(1, 0, 0, stat(unspecFail, "busy")))}.answer, refusal: "UnspecFail: busy", lacks: true},
		{name: "an empty association", answer: gives(alpha, iaPD(1, 0, 0)), refusal: "nothing given", lacks: true},
		{name: "a prefix", answer: generous(200, 300)},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := start(t, c.answer, nil)
				sleep(10 * time.Second)
				lack := b.Lack()
				switch {
				case (lack != nil) != c.lacks:
					t.Fatalf("lack %+v", lack)
				case lack == nil:
					return
				case !strings.HasSuffix(lack.Refusal, c.refusal) || (lack.Refusal == "") != (c.refusal == ""):
					t.Errorf("refusal %q, want %q", lack.Refusal, c.refusal)
				}
				if age := time.Since(lack.Since); age < 8*time.Second || age > 10*time.Second {
					t.Errorf("lacking for %v", age)
				}
				b.script(generous(200, 300))
				sleep(time.Hour)
				if lack := b.Lack(); lack != nil {
					t.Errorf("with a prefix: %+v", lack)
				}
			})
		})
	}
}

func TestALackIsOverWithTheLink(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, nil, nil)
		sleep(10 * time.Second)
		b.SetLink(2, false)
		sleep(time.Second)
		if lack := b.Lack(); lack != nil {
			t.Errorf("without a link: %+v", lack)
		}
	})
}

// An uplink with another router has another server, maybe.
func TestVerifyAsksAsAfterALossOfTheLink(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := start(t, generous(2000, 3000), nil)
		sleep(3 * time.Second)
		b.wantKinds("SOLICIT REQUEST")
		b.Verify()
		sleep(3 * time.Second)
		b.wantKinds("REBIND")
		if lease := b.lease(); lease == nil || len(lease.Prefixes) != 1 {
			t.Errorf("lease %+v", lease)
		}
	})
}
