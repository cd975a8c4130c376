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
	CodeNoDevice   Code = "no-device"   // the link: there is no such device,
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
)

// Codes lists every code, for the documentation of the API.
var Codes = [...]Code{
	CodeStart, CodeOff, CodeNotOffered, CodeRestart, CodeNoDevice, CodeNoCarrier, CodeNoAddress, CodeNoGateway,
	CodeNoRoute, CodeComplete, CodeUnprobed, CodeAnswer, CodeSteady, CodeSilence, CodeConnected, CodeLoss, CodeSuspended,
}

// Reason is why a verdict is what it is.
type Reason struct {
	Code Code
	Text string // for people: what was seen, with numbers
}

// String returns the sentence.
func (r Reason) String() string { return r.Text }

// The reasons of a link that is not complete, exact so that the decision log can be searched.
var (
	ReasonDevice  = Reason{CodeNoDevice, "no such device"}
	ReasonCarrier = Reason{CodeNoCarrier, "carrier lost"}
	ReasonAddress = Reason{CodeNoAddress, "no address"}
	ReasonGateway = Reason{CodeNoGateway, "no gateway"}
	ReasonRoute   = Reason{CodeNoRoute, "no route"}

	reasonNeverCarrier = Reason{CodeNoCarrier, "no carrier"}
	reasonStart        = Reason{CodeStart, "not looked at yet"}
	reasonInit         = Reason{CodeComplete, "carrier, address and gateway present; waiting for the first answer"}
	reasonWhole        = Reason{CodeComplete, "carrier, address and gateway present again; waiting for answers"}
	reasonUnprobed     = Reason{CodeUnprobed, "carrier, address and gateway present; there are no probe targets"}
	reasonConnected    = Reason{CodeConnected, "no target answers, while TCP connections get on in both directions"}
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
	return reason(CodeSilence, "%v, on a link that lost %.0f %% of the last %d before", o.Burst, 100*o.Loss, o.Outcomes)
}

// silent is the reason of a confirmed down: how long, and why that long. Bursts is the mean length of the link's bursts of loss, 0 for
// none; queue is how late answers came through one before, 0 for none; confirm is what is waited for either; received says that packets
// have come in meanwhile.
func silent(span, bursts, queue, confirm time.Duration, received bool) Reason {
	r := reason(CodeSilence, "no answer for another %d ms", span.Milliseconds())
	if queue > 0 {
		r.Text += fmt.Sprintf(", where answers took up to %d ms through a queue", queue.Milliseconds())
	} else if bursts > 0 {
		r.Text += fmt.Sprintf(", where loss comes in bursts of %d ms and %d ms are waited", bursts.Milliseconds(), confirm.Milliseconds())
	}
	if received {
		r.Text += fmt.Sprintf(", although packets have come in for %v", rxHoldLimit)
	}
	return r
}

// steady is the reason of trust after answers in a row; hold is the hold-down after so many failures, 0 when it was the usual one.
func steady(answers int, span, hold time.Duration, failures int) Reason {
	r := reason(CodeSteady, "%d answers in a row over %v", answers, span.Round(100*time.Millisecond))
	if hold > 0 {
		r.Text += fmt.Sprintf(", held down for %v after %d failures", hold, failures)
	}
	return r
}
