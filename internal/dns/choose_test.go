package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
)

// parse reads servers such as "good/ok dead good/silent", named a, b, c in their order.
func parse(words string) (list []server) {
	for i, w := range strings.Fields(words) {
		code, state, _ := strings.Cut(w, "/")
		s := server{uplink: fmt.Sprint("up", i), state: State(state), Resolver: rules.Resolver{Uplink: i, Device: fmt.Sprint("wan", i),
			Addr: netip.AddrFrom4([4]byte{10, 53, 0, byte('a' + i)}), Code: rules.ChoiceCode(code)}}
		if s.Code == "aside" {
			s.Code, s.Aside = rules.ChoiceGood, true
		}
		list = append(list, s)
	}
	return list
}

func names(list []server) (s string) {
	for i := range list {
		s += string(rune(list[i].Addr.As4()[3]))
	}
	return s
}

func TestTheServersOfTheBestUplinksAreAsked(t *testing.T) {
	for words, want := range map[string]string{
		"":                                      "",
		"good good":                             "ab",
		"good impaired doubtful":                "ab",
		"good dead":                             "a",
		"good doubtful dead":                    "a",
		"doubtful drained dead":                 "a",
		"drained dead":                          "a",
		"dead none":                             "ab",
		"good/ok good/silent good":              "ac",
		"good/silent good/lies good/refuses":    "abc",
		"good/silent doubtful":                  "b",
		"good/silent drained/ok":                "b",
		"good/silent dead":                      "a",
		"good/silent dead/ok":                   "a",
		"good/lies doubtful/refuses dead":       "a",
		"dead/silent dead/ok":                   "ab",
		"aside good":                            "b",
		"aside dead":                            "b",
		"aside":                                 "",
		"good/ok impaired/silent good doubtful": "ac",
	} {
		if got := names(choose(parse(words))); got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
}

// Whatever is known: there is a server as long as one is known, in the order of planning, none of a dead uplink while another is alive, and
// none that is no good while another is good.
func TestTheChoiceOfServersIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		codes := []string{"good", "impaired", "doubtful", "drained", "dead", "none", "aside"}
		states := []string{"", "ok", "silent", "lies", "refuses"}
		var words []string
		for range rapid.IntRange(0, 6).Draw(t, "servers") {
			words = append(words, rapid.SampledFrom(codes).Draw(t, "code")+"/"+rapid.SampledFrom(states).Draw(t, "state"))
		}
		all := parse(strings.Join(words, " "))
		before := slices.Clone(all)
		chosen := choose(all)
		if !slices.Equal(before, all) {
			t.Fatalf("the list was changed: %v", all)
		}
		any := func(list []server, is func(*server) bool) bool {
			return slices.ContainsFunc(list, func(s server) bool { return is(&s) })
		}
		fit := func(s *server) bool { return !s.Aside }
		alive := func(s *server) bool { return fit(s) && !s.Dead() }
		good := func(s *server) bool { return alive(s) && !s.state.bad() }
		switch {
		case len(chosen) == 0 && any(all, fit):
			t.Errorf("none of %q", words)
		case any(chosen, func(s *server) bool { return s.Aside }):
			t.Errorf("one aside of %q", words)
		case any(all, alive) && any(chosen, (*server).dead):
			t.Errorf("a dead one of %q: %s", words, names(chosen))
		case any(all, good) && any(chosen, func(s *server) bool { return s.state.bad() }):
			t.Errorf("a bad one of %q: %s", words, names(chosen))
		case !slices.IsSortedFunc(chosen, func(a, b server) int { return a.Uplink - b.Uplink }):
			t.Errorf("another order than %q: %s", words, names(chosen))
		}
	})
}

func (s *server) dead() bool { return s.Dead() }
