package uplink

import (
	"errors"
	"syscall"
	"time"

	"github.com/uplinkd/uplinkd/probe"
)

// Bounds of what counts as blocked: a packet filter that refuses some probes in a row, and not for a moment only. A
// restart, an address that is not there yet, or a rule that is about to be replaced refuse one or two.
const (
	blockedProbes = 3
	blockedSpan   = 2 * time.Second
)

// blockedSend is a run of probes of one kind that this machine's packet filter has refused: netfilter answers what it
// drops on output with EPERM (net/netfilter/core.c nf_hook_slow).
type blockedSend struct {
	first, latest time.Time
	probes        int
	fault         error
}

// blockedSends holds the present run of each kind of probe; a firewall may let only some of them out.
type blockedSends map[probe.Kind]blockedSend

// record takes in the outcome of a probe. One that left ends the run of its kind, if it was sent after it began.
func (b blockedSends) record(kind probe.Kind, sent, now time.Time, err error) {
	run := b[kind]
	if !errors.Is(err, probe.ErrLocal) || !errors.Is(err, syscall.EPERM) {
		if !sent.Before(run.first) {
			delete(b, kind)
		}
		return
	}
	if run.probes == 0 {
		run.first = now
	}
	run.latest, run.fault = now, err
	run.probes++
	b[kind] = run
}

// Blocked returns why probes of the path are refused by this machine, nil when they leave.
func (w *Watcher) Blocked() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, run := range w.blocked {
		if run.probes >= blockedProbes && run.latest.Sub(run.first) >= blockedSpan {
			return run.fault
		}
	}
	return nil
}
