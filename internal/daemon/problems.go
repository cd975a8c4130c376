package daemon

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/uplinkd/uplinkd/rules"
)

// ownProblems are those of the daemon itself, by code.
type ownProblems struct {
	log *slog.Logger

	mu     sync.Mutex
	byCode map[string]rules.Problem
}

// report has a failure of the daemon's own be a problem until it is over: nil. None of them keeps the box from being routed.
func (o *ownProblems) report(code string, err error, fix string) {
	if err != nil {
		o.log.Error("part of the daemon does not work", "code", code, "err", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if delete(o.byCode, code); err != nil {
		o.set(code, "error", err.Error(), fix)
	}
}

// set adds a problem, or replaces it. The lock is held.
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

func (o *ownProblems) list() []rules.Problem {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.byCode))
}
