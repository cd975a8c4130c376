package uplink

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/uplinkd/uplinkd/rules"
)

// scene is a Correlator with paths of one family; time is what the test says.
type scene struct {
	*Correlator
	t     *testing.T
	now   time.Time
	paths map[rules.Path]PathReport
}

var (
	fiberPath = rules.Path{Uplink: 1, Family: rules.IPv4}
	ltePath   = rules.Path{Uplink: 2, Family: rules.IPv4}
	dslPath   = rules.Path{Uplink: 3, Family: rules.IPv4}
)

func newScene(t *testing.T, paths ...rules.Path) *scene {
	s := &scene{Correlator: NewCorrelator(), t: t, now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), paths: make(map[rules.Path]PathReport)}
	for _, p := range paths {
		s.paths[p] = PathReport{Name: []string{"fiber", "lte", "dsl"}[p.Uplink-1], State: Up, Complete: true}
	}
	s.Decide(s.paths, s.now)
	return s
}

func (s *scene) says(p rules.Path, state State) {
	t := s.paths[p]
	t.State = state
	s.paths[p] = t
}

// answers is the answer to a probe that was sent the given time ago.
func (s *scene) answers(p rules.Path, ago time.Duration) (bool, []rules.Path) {
	return s.Answered(p, s.now.Add(-ago), s.now)
}

func (s *scene) wants(p rules.Path, want Health, note string) {
	s.t.Helper()
	decisions, _ := s.Decide(s.paths, s.now)
	if d := decisions[p]; d.Health != want || !strings.Contains(d.Note, note) || note == "" && d.Note != "" {
		s.t.Errorf("%s is %v (%q), want %v (%q)", s.paths[p].Name, d.Health, d.Note, want, note)
	}
}

func (s *scene) pass(d time.Duration) { s.now = s.now.Add(d) }

func TestASilentPathIsConfirmedOnceAnotherHasAnsweredSince(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	s.pass(time.Minute)
	if decides, _ := s.answers(ltePath, 500*time.Millisecond); decides {
		t.Error("an answer decides while nobody is silent")
	}
	s.says(fiberPath, Suspect)
	s.wants(fiberPath, HealthGood, "traffic stays until another uplink has answered")
	if !s.DeferredSince(rules.IPv4).Equal(s.now) || !s.DeferredSince(rules.IPv6).IsZero() {
		t.Error("somebody is waited for in the wrong family")
	}
	s.pass(100 * time.Millisecond)
	if decides, _ := s.answers(ltePath, 200*time.Millisecond); decides {
		t.Error("an answer to a probe that was sent before the silence was noticed decides")
	}
	s.wants(fiberPath, HealthGood, "traffic stays")
	if decides, _ := s.answers(ltePath, 50*time.Millisecond); !decides {
		t.Error("an answer to a later probe does not decide")
	}
	s.wants(fiberPath, HealthDoubtful, "lte still answers")
	s.says(fiberPath, Down)
	s.wants(fiberPath, HealthDead, "")
	// What is proven stays proven, even when the other falls silent too.
	s.says(ltePath, Suspect)
	s.wants(fiberPath, HealthDead, "")
	s.wants(ltePath, HealthGood, "traffic stays")
	s.says(fiberPath, Recovering)
	s.wants(fiberPath, HealthDoubtful, "")
}

func TestALostPathIsNeverDeferred(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	lost := s.paths[fiberPath]
	lost.State, lost.Complete = Down, false
	s.paths[fiberPath] = lost
	s.wants(fiberPath, HealthDead, "")
	// Nor is it believed again before it has answered.
	s.pass(time.Minute)
	lost.Complete = true
	s.paths[fiberPath] = lost
	s.wants(fiberPath, HealthDead, "")
}

func TestTheOnlyPathHasNothingToBeComparedWith(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	lost := s.paths[ltePath]
	lost.State, lost.Complete = Down, false
	s.paths[ltePath] = lost
	s.says(fiberPath, Suspect)
	s.wants(fiberPath, HealthDoubtful, "no other uplink to compare with")
	s.pass(time.Minute)
	s.says(fiberPath, Down)
	s.wants(fiberPath, HealthDead, "no other uplink to compare with")
	if len(s.Outages()) != 0 {
		t.Error("one uplink has a common cause")
	}
}

func TestWhenEveryPathIsSilentNothingMovesUntilOneAnswersAndTheOthersDoNot(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	s.says(fiberPath, Suspect)
	s.says(ltePath, Suspect)
	s.wants(fiberPath, HealthGood, "traffic stays")
	s.pass(640 * time.Millisecond)
	s.says(fiberPath, Down)
	s.says(ltePath, Down)
	s.wants(fiberPath, HealthGood, "traffic stays")
	if len(s.Outages()) != 0 {
		t.Error("a common cause before its time")
	}
	_, next := s.Decide(s.paths, s.now)
	if wait := next.Sub(s.now); wait <= 0 || wait > DecisionTimeout {
		t.Errorf("to be asked again in %v", wait)
	}
	s.now = next
	s.wants(fiberPath, HealthGood, "common cause")
	s.wants(ltePath, HealthGood, "common cause")
	if cause := s.Outages()[rules.IPv4]; !slices.Equal(cause.Names, []string{"fiber", "lte"}) {
		t.Errorf("%+v", cause)
	}
	s.pass(time.Hour)
	s.wants(fiberPath, HealthGood, "common cause")

	decides, ask := s.answers(ltePath, 30*time.Millisecond)
	if !decides || !slices.Equal(ask, []rules.Path{fiberPath}) {
		t.Errorf("%v, %v", decides, ask)
	}
	s.says(ltePath, Recovering)
	s.wants(fiberPath, HealthGood, "traffic stays") // it may answer any moment
	if len(s.Outages()) != 0 {
		t.Error("the common cause outlives an answer")
	}
	s.pass(ReturnGrace)
	s.wants(fiberPath, HealthDead, "lte still answers")
}

func TestWhatComesBackTogetherIsBelievedTogether(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	s.says(fiberPath, Suspect)
	s.says(ltePath, Suspect)
	s.wants(fiberPath, HealthGood, "traffic stays")
	s.pass(300 * time.Millisecond) // an outage too short to be called by its name
	s.answers(ltePath, 20*time.Millisecond)
	s.says(ltePath, Up)
	s.wants(fiberPath, HealthGood, "traffic stays")
	s.pass(time.Second)
	s.answers(fiberPath, 20*time.Millisecond)
	s.says(fiberPath, Up)
	s.wants(fiberPath, HealthGood, "")
	s.wants(ltePath, HealthGood, "")
}

func TestWhatWasNotToBlameIsTrustedAtOnce(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	for p := range s.paths {
		s.says(p, Down)
	}
	s.wants(fiberPath, HealthGood, "traffic stays")
	s.pass(time.Minute)
	s.wants(fiberPath, HealthGood, "common cause")
	for p := range s.paths {
		s.answers(p, 10*time.Millisecond)
		s.says(p, Recovering)
	}
	s.wants(fiberPath, HealthGood, "never confirmed")
	s.wants(ltePath, HealthGood, "never confirmed")
	s.says(ltePath, Up)
	s.wants(fiberPath, HealthGood, "never confirmed")
	s.pass(time.Second)
	s.says(fiberPath, Down)
	s.wants(fiberPath, HealthGood, "traffic stays")
	s.pass(time.Second)
	s.answers(ltePath, 10*time.Millisecond)
	s.wants(fiberPath, HealthDead, "lte still answers")
	s.says(fiberPath, Recovering)
	s.wants(fiberPath, HealthDoubtful, "")
}

func TestAnUndecidedPathIsWaitedForOnlyAWhile(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	s.says(fiberPath, Down)
	s.wants(fiberPath, HealthGood, "traffic stays")
	_, next := s.Decide(s.paths, s.now)
	if !next.Equal(s.now.Add(DecisionTimeout)) {
		t.Errorf("next at %v", next.Sub(s.now))
	}
	s.now = next
	s.wants(fiberPath, HealthDead, "not confirmed by another uplink")
}

func TestAVerdictOfAnEarlierRunStands(t *testing.T) {
	s := newScene(t)
	s.paths[fiberPath] = PathReport{Name: "fiber", State: Down, Complete: true}
	s.paths[ltePath] = PathReport{Name: "lte", State: Init, Complete: true}
	s.wants(fiberPath, HealthDead, "")
	s.wants(ltePath, HealthGood, "")
}

func TestAPathThatWasNotTrustedYetIsHeldAtWhatItWas(t *testing.T) {
	s := newScene(t, fiberPath, ltePath, dslPath)
	s.says(ltePath, Recovering)
	s.wants(ltePath, HealthDoubtful, "")
	for p := range s.paths {
		s.says(p, Down)
	}
	s.wants(ltePath, HealthDoubtful, "traffic stays")
	s.wants(fiberPath, HealthGood, "traffic stays")
}

func TestAPathWithoutTargetsVouchesForItself(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	unprobed := s.paths[ltePath]
	unprobed.Unprobed = true
	s.paths[ltePath] = unprobed
	s.says(fiberPath, Suspect)
	s.wants(fiberPath, HealthDoubtful, "lte still answers")
}

func TestFamiliesAreJudgedApart(t *testing.T) {
	s := newScene(t, fiberPath, ltePath)
	s.paths[rules.Path{Uplink: 1, Family: rules.IPv6}] = PathReport{Name: "fiber", State: Up, Complete: true}
	s.Decide(s.paths, s.now)
	s.says(fiberPath, Suspect)
	s.wants(fiberPath, HealthGood, "traffic stays")
	if decides, _ := s.answers(rules.Path{Uplink: 1, Family: rules.IPv6}, 0); decides {
		t.Error("an answer of another family decides")
	}
}

// TestNothingMovesWithoutAnAnswerOfAnother has three paths fall, answer, lose and regain their routes at random.
func TestNothingMovesWithoutAnAnswerOfAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		paths := []rules.Path{fiberPath, ltePath, dslPath}
		correlator, now := NewCorrelator(), time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
		said := make(map[rules.Path]PathReport)
		for _, p := range paths {
			said[p] = PathReport{Name: "x", State: Up, Complete: true}
		}
		before, _ := correlator.Decide(said, now)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2500).Draw(t, "ms")) * time.Millisecond)
			p := rapid.SampledFrom(paths).Draw(t, "path")
			silent := true // all that could carry traffic were, and go on to be
			for _, s := range said {
				silent = silent && (!s.Complete || s.State == Suspect || s.State == Down)
			}
			s := said[p]
			switch rapid.SampledFrom([]string{"fails", "fails", "goes on", "answers", "answers", "loses its path", "regains it"}).Draw(t, "what") {
			case "fails":
				switch s.State {
				case Up:
					s.State = Suspect
				case Suspect, Recovering:
					s.State = Down
				}
			case "answers":
				silent = false
				correlator.Answered(p, now.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "rtt"))*time.Millisecond), now)
				switch s.State {
				case Suspect, Recovering:
					s.State = Up
				case Down:
					if s.Complete {
						s.State = Recovering
					}
				}
			case "loses its path":
				silent, s.Complete, s.State = false, false, Down
			case "regains it":
				silent, s.Complete = silent && s.Complete, true
			}
			said[p] = s
			decisions, next := correlator.Decide(said, now)
			if !next.IsZero() && !next.After(now) {
				t.Fatalf("to be asked again at once, for ever")
			}
			for _, p := range paths {
				own := said[p].State.Health()
				switch h := decisions[p].Health; {
				case !said[p].Complete && h != own:
					t.Fatalf("a lost path %v is taken for %v", p, h)
				case h < own:
					t.Fatalf("%v is worse than its verdict", p)
				case silent && before[p].Deferred && h < before[p].Health && others(said, p) > 0:
					t.Fatalf("%v moved from %v to %v in a silence of all", p, before[p].Health, h)
				case decisions[p].Deferred != (h != own) && said[p].State != Recovering:
					t.Fatalf("%v: %+v, and its verdict means %v", p, decisions[p], own)
				}
			}
			before = decisions
		}
	})
}

func others(said map[rules.Path]PathReport, path rules.Path) int {
	n := 0
	for p, s := range said {
		if p != path && s.Complete {
			n++
		}
	}
	return n
}
