package dhcp6

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/iana"
)

// surePreference makes a client take an Advertise without waiting for others (RFC 9915 section 18.2.1).
const surePreference = 255

// noBindingWait is how long other servers have to answer a Rebind when one does not know us. It is that of the
// first RT of a Solicit, and short, for the lease may be about to expire.
const noBindingWait = time.Second

// advertise takes in an Advertise: all of the first RT are collected, later the first is taken.
func (m *machine) advertise(msg *message, now instant) {
	o := offerOf(msg, m.keys())
	if o.prefixes == 0 {
		m.noteRefusal(msg)
	}
	if !o.usable() {
		m.note("Advertise from server %v not used: %s", msg.server, msg.explain())
		return
	}
	m.offers = addOffer(m.offers, o)
	if m.ex.sent > 1 || o.preference == surePreference && o.whole(m.keys()) {
		m.requestNext(now)
	}
}

// reply takes in a Reply by what was asked.
func (m *machine) reply(msg *message, now instant) {
	results := msg.results(m.keys())
	switch m.state {
	case soliciting:
		m.replyToSolicit(msg, results, now)
	case requesting:
		m.replyToRequest(msg, results, now)
	case verifying:
		if m.ex.confirm {
			m.replyToConfirm(msg, now)
			return
		}
		m.replyToRenew(msg, results, Verified, now)
	case renewing:
		m.replyToRenew(msg, results, Renewed, now)
	case rebinding:
		m.replyToRenew(msg, results, Rebound, now)
	case releasing:
		m.state = released // whatever the status (section 18.2.10.2)
	}
}

// replyToSolicit wants Rapid Commit on both sides (section 18.2.1), and as much as of an Advertise.
func (m *machine) replyToSolicit(msg *message, results []iaResult, now instant) {
	switch {
	case !m.rapid || !msg.rapid:
		m.note("Reply from server %v to a Solicit without Rapid Commit not used", msg.server)
	case !anyLive(results):
		m.note("Reply from server %v not used: %s", msg.server, msg.explain())
	default:
		m.accept(msg, results, Granted, true, now)
		m.finish(now)
	}
}

func (m *machine) replyToRequest(msg *message, results []iaResult, now instant) {
	if anyLive(results) {
		m.accept(msg, results, Granted, true, now)
		m.finish(now)
		return
	}
	m.noteRefusal(msg)
	m.note("Request refused by server %v: %s", msg.server, msg.explain())
	notOnLink := msg.status.code == iana.StatusNotOnLink
	if !notOnLink && (msg.failed() || anyCode(results, iana.StatusUnspecFail)) {
		return // a failure of the moment: the next try is the retransmission, of which there are ten
	}
	if notOnLink {
		m.former = nil // it does not belong here: ask without it (section 18.2.10.1)
	}
	m.deny(msg, results, now)
	m.requestNext(now)
}

// deny gives up what the server that we got it from says not to have and, asked for it, not to give. What
// another server says is no word about it.
func (m *machine) deny(msg *message, results []iaResult, now instant) {
	if !bytes.Equal(msg.server, m.held.server) {
		return
	}
	outcomes := make(map[netip.Prefix]Outcome)
	m.held.drop(outcomes, Refused, func(e entry) bool {
		if i := slices.IndexFunc(results, func(o iaResult) bool { return o.iaKey == e.ia }); i >= 0 {
			return refusal(results[i].code)
		}
		switch msg.status.code {
		case iana.StatusNoPrefixAvail:
			return e.ia.pd
		case iana.StatusNoAddrsAvail, iana.StatusNotOnLink:
			return !e.ia.pd
		}
		return msg.status.code == iana.StatusNoBinding
	})
	if len(outcomes) > 0 {
		m.notify(Denied, changesOf(outcomes), msg.explain(), now)
	}
}

// replyToRenew takes in the Reply to a Renew or Rebind.
func (m *machine) replyToRenew(msg *message, results []iaResult, reason Reason, now instant) {
	some := anyLive(results) || m.anyGone(results)
	if some {
		m.accept(msg, results, reason, false, now)
	}
	none := anyCode(results, iana.StatusNoBinding) || len(results) == 0 && msg.status.code == iana.StatusNoBinding
	empty := reason != Renewed && !some && slices.ContainsFunc(results, iaResult.empty)
	switch {
	case some && !none:
		m.finish(now)
	case none && (some || reason == Renewed):
		// Section 18.2.10.1: a Request with all associations; what is held stays in use meanwhile.
		m.note("server %v has no binding: %s", msg.server, msg.explain())
		m.requestHeld(msg.server, now)
	case none || empty:
		// Another server may know us and be slower. Some answer a Rebind of what they know with an empty
		// association, and a Request with the prefix.
		m.note("server %v knows of no lease of ours: %s", msg.server, msg.explain())
		if m.noBindingFrom == nil {
			m.noBindingFrom = msg.server
			m.ex.at = min(m.ex.at, now.mono+noBindingWait)
		}
	default:
		m.note("Reply from server %v renews nothing: %s", msg.server, msg.explain())
	}
}

// replyToConfirm takes in the status of a Confirm (section 18.2.10.3).
func (m *machine) replyToConfirm(msg *message, now instant) {
	switch msg.status.code {
	case iana.StatusSuccess:
		m.notify(Verified, m.all(Kept), "", now)
		m.resume(now)
	case iana.StatusNotOnLink:
		changes := m.all(Refused)
		m.held.entries = nil
		m.notify(Denied, changes, msg.explain(), now)
		m.begin(soliciting, now)
	default:
		m.note("Reply from server %v to a Confirm not used: %s", msg.server, msg.explain())
	}
}

// all returns one outcome for all that is held.
func (m *machine) all(f Outcome) []PrefixChange {
	outcomes := make(map[netip.Prefix]Outcome)
	for _, e := range m.held.entries {
		outcomes[e.prefix] = f
	}
	return changesOf(outcomes)
}

// accept takes a Reply into what is held.
func (m *machine) accept(msg *message, results []iaResult, reason Reason, fresh bool, now instant) {
	changes := m.held.merge(msg, results, now.mono, fresh)
	m.held.schedule(results, m.keys(), now.mono)
	m.former, m.offers, m.failures = nil, nil, 0
	m.lacking.refusal = ""
	if m.lack(now) != nil {
		m.noteRefusal(msg)
	}
	note := ""
	if msg.status.code != iana.StatusSuccess || slices.ContainsFunc(results, func(o iaResult) bool { return o.code != iana.StatusSuccess }) {
		note = msg.explain()
	}
	m.notify(reason, changes, note, now)
}

// finish ends an exchange that a Reply has answered.
func (m *machine) finish(now instant) {
	if len(m.held.entries) == 0 {
		m.failures++
		m.begin(soliciting, now)
		return
	}
	m.state = bound
}

func anyLive(results []iaResult) bool {
	return slices.ContainsFunc(results, func(o iaResult) bool { return len(o.live) > 0 })
}

// anyGone reports whether something that is held is withdrawn.
func (m *machine) anyGone(results []iaResult) bool {
	return slices.ContainsFunc(results, func(o iaResult) bool {
		return slices.ContainsFunc(o.gone, func(g grant) bool {
			return slices.ContainsFunc(m.held.entries, func(e entry) bool { return e.ia == o.iaKey && e.prefix == g.prefix })
		})
	})
}

func anyCode(results []iaResult, code iana.StatusCode) bool {
	return slices.ContainsFunc(results, func(o iaResult) bool { return o.code == code })
}

// empty reports an association that says nothing at all, and not for being malformed.
func (o iaResult) empty() bool {
	return !o.bad && o.code == iana.StatusSuccess && len(o.live) == 0 && len(o.gone) == 0
}
