package uplink

import (
	"fmt"
	"time"
)

// Code says why a verdict is what it is, for programs. Sentences for people are made in this file alone.
type Code string

// The codes.
const (
	CodeStart      Code = "start"       // nothing is known yet
	CodeOff        Code = "off"         // by configuration
	CodeNotOffered Code = "not-offered" // the link has never had the family, and nobody asks for it
	CodeRestart    Code = "restart"     // the verdict is that of an earlier run
	CodeNoPrefix   Code = "no-prefix"   // the link: IPv4 is translated, and the prefix of the provider's NAT64 is not known,
	CodeNoDevice   Code = "no-device"   // or there is no such device,
	CodeNoCarrier  Code = "no-carrier"  // or it has no carrier,
	CodeNoAddress  Code = "no-address"  // no address,
	CodeNoGateway  Code = "no-gateway"  // no gateway,
	CodeNoRoute    Code = "no-route"    // or the kernel has no route for the probes
	CodeComplete   Code = "complete"    // all of these are there, and an answer is waited for
	CodeUnprobed   Code = "unprobed"    // all are there, and there are no targets
	CodeAnswer     Code = "answer"      // targets answer, for the first time or again
	CodeSteady     Code = "steady"      // they have answered long enough to be trusted
	CodeSilence    Code = "silence"     // none answers
	CodeConnected  Code = "connected"   // none answers, while TCP connections get on in both directions
	CodeLoss       Code = "loss"        // too many answers are missing, or no more
	CodeSuspended  Code = "suspended"   // what carries the tunnel is down
	CodeElsewhere  Code = "elsewhere"   // the other router of a pair has the uplink
)

// Codes lists every code, for the documentation of the API.
var Codes = [...]Code{
	CodeStart, CodeOff, CodeNotOffered, CodeRestart, CodeNoPrefix, CodeNoDevice, CodeNoCarrier, CodeNoAddress, CodeNoGateway,
	CodeNoRoute, CodeComplete, CodeUnprobed, CodeAnswer, CodeSteady, CodeSilence, CodeConnected, CodeLoss, CodeSuspended, CodeElsewhere,
}

// Reason is why a verdict is what it is.
type Reason struct {
	Code Code
	Text string // for people: what was seen, with numbers
}

// String returns the sentence.
func (r Reason) String() string { return r.Text }

// The reasons of a link that is not complete, where it does not say more itself ([Link.Lack]).
var (
	ReasonPrefix  = Reason{CodeNoPrefix, "no NAT64 prefix"}
	ReasonDevice  = Reason{CodeNoDevice, "no such device"}
	ReasonCarrier = Reason{CodeNoCarrier, "carrier lost"}
	ReasonAddress = Reason{CodeNoAddress, "no address"}
	ReasonGateway = Reason{CodeNoGateway, "no gateway"}
	ReasonRoute   = Reason{CodeNoRoute, "no route"}

	reasonNeverCarrier = Reason{CodeNoCarrier, "no carrier"}
	reasonStart        = Reason{CodeStart, "not looked at yet"}
	reasonInit         = Reason{CodeComplete, "carrier, address and gateway present; waiting for the first answer"}
	reasonUnprobed     = Reason{CodeUnprobed, "carrier, address and gateway present; no probe targets are configured"}
	reasonConnected    = Reason{CodeConnected, "no target answers, but TCP connections make progress in both directions"}
	reasonFirst        = Reason{CodeAnswer, "first answer"}
)

func reason(code Code, format string, args ...any) Reason {
	return Reason{code, fmt.Sprintf(format, args...)}
}

// unanswered is the reason of a silence, with the loss that made it so long.
func unanswered(o ProbeEvent) Reason {
	if o.Outcomes < 20 || o.Loss < 0.05 {
		return Reason{CodeSilence, o.Burst.String()}
	}
	return reason(CodeSilence, "%v; %.0f %% of the %d probes before were lost too", o.Burst, 100*o.Loss, o.Outcomes)
}

// timeOfDay is how sentences tell a time; the decision log has the date.
const timeOfDay = time.TimeOnly

// completeAgain is the reason of a path that is complete again and has not answered since; lost is what it lacked before.
func completeAgain(lost Code, at time.Time) Reason {
	what := map[Code]string{CodeNoPrefix: "NAT64 prefix", CodeNoDevice: "device", CodeNoCarrier: "carrier", CodeNoAddress: "address", CodeNoGateway: "gateway"}[lost]
	if what == "" {
		what = "link"
	}
	return reason(CodeComplete, "no answer yet since the %s came back at %s", what, at.Format(timeOfDay))
}

// unansweredSpan is what is known of a silence that is not over.
type unansweredSpan struct {
	targets int           // that were asked
	since   time.Time     // when the first probe left that is unanswered
	bursts  time.Duration // the mean length of the link's bursts of loss, where that is waited for; else 0
	queue   time.Duration // how late answers have come through a queue, where that is waited for; else 0
}

// down is the reason of a silence that has been confirmed; received says that packets have come in meanwhile.
func (s unansweredSpan) down(confirm time.Duration, received bool, now time.Time) Reason {
	r := reason(CodeSilence, "no answer from %s since %s (%.1f s)", targetCount(s.targets), s.since.Format(timeOfDay), now.Sub(s.since).Seconds())
	if s.queue > 0 {
		r.Text += fmt.Sprintf("; answers took up to %d ms before, through a queue", s.queue.Milliseconds())
	} else if s.bursts > 0 {
		r.Text += fmt.Sprintf("; %d ms of it to confirm, for this link loses packets in bursts of %d ms", confirm.Milliseconds(), s.bursts.Milliseconds())
	}
	if received {
		r.Text += "; other packets still come in"
	}
	return r
}

func targetCount(n int) string {
	if n == 1 {
		return "1 target"
	}
	return fmt.Sprintf("%d targets", n)
}

// steady is the reason of trust after answers in a row; hold is the hold-down after so many failures, 0 when it was the usual one.
func steady(answers int, span, hold time.Duration, failures int) Reason {
	r := reason(CodeSteady, "%d answers in a row over %v", answers, span.Round(100*time.Millisecond))
	if hold > 0 {
		r.Text += fmt.Sprintf(", held down for %v after %d failures", hold, failures)
	}
	return r
}
