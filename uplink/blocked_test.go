package uplink

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

func TestProbesAreBlockedWhenTheyAreRefusedInARowAndForAWhile(t *testing.T) {
	refused := &probe.Error{Class: probe.ErrLocal, Err: syscall.EPERM}
	const each = time.Second
	type landing struct {
		kind probe.Kind
		err  error
	}
	run := func(kind probe.Kind, errs ...error) []landing {
		var list []landing
		for _, err := range errs {
			list = append(list, landing{kind, err})
		}
		return list
	}
	for name, c := range map[string]struct {
		landings []landing
		want     bool
	}{
		"once, at a restart":              {run(probe.ICMP, refused), false},
		"twice":                           {run(probe.ICMP, refused, refused), false},
		"three times":                     {run(probe.ICMP, refused, refused, refused), true},
		"and then no more":                {run(probe.ICMP, refused, refused, refused, nil), false},
		"and then unanswered":             {run(probe.ICMP, refused, refused, refused, &probe.Error{Class: probe.ErrTimeout}), false},
		"now and then":                    {run(probe.ICMP, refused, nil, refused, refused), false},
		"for another reason":              {run(probe.ICMP, &probe.Error{Class: probe.ErrLocal, Err: syscall.EADDRNOTAVAIL}, refused, refused), false},
		"of one kind, others leave":       {append(run(probe.TCP, refused, refused, refused), run(probe.ICMP, nil, nil)...), true},
		"by turns of kinds, none lasting": {append(run(probe.TCP, refused, refused), run(probe.ICMP, refused, refused)...), false},
		"a refusal that a host sent":      {run(probe.ICMP, errors.Join(probe.ErrUnreachable, syscall.EPERM), refused, refused), false},
	} {
		w := &Watcher{blocked: make(blockedSends)}
		now := time.Unix(1e9, 0)
		for _, l := range c.landings {
			w.blocked.record(l.kind, now, now, l.err)
			now = now.Add(each)
		}
		if got := w.Blocked() != nil; got != c.want {
			t.Errorf("%s: blocked %v", name, got)
		}
	}
}

func TestAnOldProbeThatNobodyAnswersDoesNotUnblock(t *testing.T) {
	w := &Watcher{blocked: make(blockedSends)}
	now := time.Unix(1e9, 0)
	for range blockedProbes {
		w.blocked.record(probe.ICMP, now, now, &probe.Error{Class: probe.ErrLocal, Err: syscall.EPERM})
		now = now.Add(blockedSpan)
	}
	w.blocked.record(probe.ICMP, now.Add(-probe.Listen), now, &probe.Error{Class: probe.ErrTimeout})
	if w.Blocked() == nil {
		t.Error("a probe that left before the first was refused says that they leave")
	}
}

func TestABurstOfRefusalsIsNotBlockedYet(t *testing.T) {
	w := &Watcher{blocked: make(blockedSends)}
	now := time.Unix(1e9, 0)
	for range 10 {
		w.blocked.record(probe.ICMP, now, now, &probe.Error{Class: probe.ErrLocal, Err: syscall.EPERM})
		now = now.Add(100 * time.Millisecond)
	}
	if w.Blocked() != nil {
		t.Error("after a second of refusals")
	}
}
