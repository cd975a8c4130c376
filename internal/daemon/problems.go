package daemon

import (
	"maps"
	"slices"
	"sync"

	"github.com/uplinkd/uplinkd/rules"
)

// ownProblems are those of the daemon itself, by code.
type ownProblems struct {
	mu     sync.Mutex
	byCode map[string]rules.Problem
}

func (o *ownProblems) put(code, severity, message, fix string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byCode == nil {
		o.byCode = make(map[string]rules.Problem)
	}
	o.byCode[code] = rules.Problem{Code: code, Severity: severity, Message: message, Fix: fix}
}

func (o *ownProblems) clear(code string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.byCode, code)
}

func (o *ownProblems) list() []rules.Problem {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.byCode))
}
