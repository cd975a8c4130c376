package daemon

import (
	"maps"
	"slices"
	"strings"
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
	o.set(code, severity, message, fix)
}

// set is put with the lock held.
func (o *ownProblems) set(code, severity, message, fix string) {
	if o.byCode == nil {
		o.byCode = make(map[string]rules.Problem)
	}
	o.byCode[code] = rules.Problem{Code: code, Severity: severity, Message: message, Fix: fix}
}

// damaged tells of state that could not be read, besides what has been told before.
func (o *ownProblems) damaged(err error) {
	const code = "state-damaged"
	message := strings.ReplaceAll(err.Error(), "\n", "; ")
	o.mu.Lock()
	defer o.mu.Unlock()
	if before, known := o.byCode[code]; known {
		message = before.Message + "; " + message
	}
	o.set(code, "warning", message, "nothing: it starts afresh, and the damaged file is kept beside it where possible")
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
