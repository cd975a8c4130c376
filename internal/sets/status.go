package sets

import (
	"fmt"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
)

// Status tells of the sets, in the order of the configuration.
func (e *Engine) Status() []status.Set {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]status.Set, 0, len(e.sets))
	for _, s := range e.sets {
		out := status.Set{Name: s.Name, Source: s.Source(), From: s.File + s.URL + strings.Join(s.Domains, ", "), Cached: s.cached, Loaded: status.At(s.loaded)}
		if s.content != nil {
			n4, n6 := len(s.content.Ranges(rules.IPv4)), len(s.content.Ranges(rules.IPv6))
			out.IPv4, out.IPv6 = &n4, &n6
		}
		if s.err != nil {
			out.Error = s.err.Error()
		}
		list = append(list, out)
	}
	return list
}

// Problems names the sets whose sources cannot be used, and those that are empty.
func (e *Engine) Problems(now time.Time) []rules.Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	var problems []rules.Problem
	for _, s := range e.sets {
		severity := "warning"
		for _, u := range e.users[s.Name] {
			if u.killSwitch {
				severity = "error"
			}
		}
		var names []string
		for _, u := range e.users[s.Name] {
			names = append(names, u.policy)
		}
		switch {
		case s.content.Len() == 0 && len(names) > 0 && !s.Dnsmasq:
			why, meaning := "nothing is in it yet", "select nothing by it"
			if s.err != nil {
				why = s.err.Error()
			}
			if severity == "error" {
				meaning += ", and kill switches keep nothing in"
			}
			problems = append(problems, rules.Problem{Code: "set-empty", Severity: severity,
				Message: fmt.Sprintf("set %s is empty (%s): its policies (%s) %s", s.Name, why, strings.Join(names, ", "), meaning), Fix: fixes[s.Source()]})
		case s.err != nil:
			problems = append(problems, rules.Problem{Code: "set-unread", Severity: "warning",
				Message: fmt.Sprintf("set %s is left as it was %s ago: %v", s.Name, now.Sub(s.loaded).Round(time.Second), s.err), Fix: fixes[s.Source()]})
		}
	}
	return problems
}

// fixes says what to do about a source that cannot be used.
var fixes = map[string]string{
	"file":    "correct the file: it is read again when it changes",
	"url":     "look at what the URL gives: curl -v; it is asked again by itself",
	"domains": "look whether the DNS servers in the status (dns) answer; they are asked again by themselves",
}
