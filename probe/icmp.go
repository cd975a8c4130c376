package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"

	probing "github.com/prometheus-community/pro-bing"
)

// echoSize is the payload of an echo request: pro-bing's least, a timestamp and
// a UUID. It makes 52 bytes with IPv4. Some hosts drop echo requests without a
// payload, so smaller would not even be better (opnsense 4047).
const echoSize = 24

var echo = kind{name: ICMP, example: "192.0.2.1", probe: probeICMP,
	size: func(Target) (packets, payload int) { return 2, 2 * (8 + echoSize) }}

// A pinger waits this long for the signal that its reply is there: one that was missed is then found by polling.
const (
	pollInterval = 100 * time.Millisecond
	// After lateAnswer it polls at latePollInterval: few answers come so late, and a dead line has ten waited for.
	lateAnswer       = 2 * time.Second
	latePollInterval = time.Second
)

// probeICMP asks by the socket that a family's calm probes share, while whatever was asked before by the same uplink was
// answered, and else by a pinger of its own. So what costs is there when something is in doubt, and no fault of
// the shared socket, nor a device that holds what it should send, makes an uplink look dead: the second probe has nothing
// to do with it.
func probeICMP(ctx context.Context, n *Net, b Binding, t Target) (time.Duration, error) {
	path, id := calmKey{b.Mark, t.addr.Is4()}, uint16(n.nextEcho.Add(1))
	socket := n.echoes.forTarget(t.addr)
	calm := n.echoes.asks(path)
	rtt, sent, err := time.Duration(0), false, error(nil)
	// What has to be bound to its device, and link-local addresses, are for pingers.
	if calm && socket != nil && b.Mark != 0 && b.Device == "" && !t.addr.IsLinkLocalUnicast() && !b.Source.IsLinkLocalUnicast() {
		rtt, sent, err = socket.probe(ctx, id, b, t)
	}
	if !sent { // a pinger says why
		rtt, err = ping(ctx, n, socket, id, b, t)
	}
	if err == nil {
		n.echoes.answered(path)
	}
	return rtt, err
}

// ping runs one pinger for one packet. Everything beyond that is avoided:
// a pinger has one interval and no timeout per packet, measures by the wall
// clock, remembers a device index that goes stale, and looks at its end only
// every 100 ms. So the times are ours, and the answer is returned as soon as it
// is there while the pinger ends in the background (see [Net.Close]). Between two
// polls of its socket it waits for a signal of the shared one, which is nil where that cannot be opened.
//
// pro-bing cannot bind to a device (SO_BINDTODEVICE); it gives the index with
// the packet (IP_PKTINFO), for which it has all devices of the machine listed, and the
// mark chooses the table. ICMP errors are invisible to it: an unreachable target is a
// silent one.
func ping(ctx context.Context, n *Net, shared *echoSocket, id uint16, b Binding, t Target) (time.Duration, error) {
	var (
		sent    time.Time // written and read on the pinger's send loop only
		answer  = make(chan time.Duration, 1)
		ended   = make(chan error, 1)
		breaker = new(loopBreaker)
	)
	began, target := time.Now(), b.scoped(t.addr)
	pinger := probing.New(t.addr.String())
	pinger.SetIPAddr(&net.IPAddr{IP: target.AsSlice(), Zone: target.Zone()})
	pinger.SetPrivileged(true)
	pinger.SetLogger(breaker)
	pinger.SetID(int(id))
	pinger.SetMark(uint(b.Mark))
	pinger.InterfaceName = b.Device
	// A link-local source would need a zone, which pro-bing does not take; the
	// kernel chooses the device's own then.
	if b.Source.IsValid() && !b.Source.IsLinkLocalUnicast() {
		pinger.Source = b.Source.Unmap().WithZone("").String()
	}
	pinger.Size = echoSize
	pinger.Count = 1
	pinger.RecordRtts, pinger.RecordTTLs = false, false
	pinger.OnSend = func(*probing.Packet) { sent = time.Now() }
	pinger.OnRecv = func(*probing.Packet) {
		select {
		case answer <- time.Since(sent):
		default:
		}
	}

	running, stop := context.WithCancel(ctx)
	defer stop()
	if shared != nil {
		received, cancel := shared.expect(id, nil)
		defer cancel()
		// It is called when a poll has found nothing; the next one waits for it to return.
		pinger.OnRecvError = func(error) {
			pause := pollInterval
			if time.Since(began) > lateAnswer {
				pause = latePollInterval
			}
			select {
			case <-received:
			case <-running.Done():
			case <-time.After(pause):
			}
		}
	}
	n.closing.Go(func() {
		err := pinger.RunWithContext(running)
		if breaker.err != nil {
			err = breaker.err
		}
		ended <- err
	})

	select {
	case rtt := <-answer:
		return rtt, nil
	case <-ctx.Done():
		return 0, receiveError(ctx, t, ctx.Err())
	case err := <-ended:
		select {
		case rtt := <-answer: // both were ready
			return rtt, nil
		default:
		}
		if ctx.Err() != nil {
			return 0, receiveError(ctx, t, ctx.Err())
		}
		return 0, echoError(t, err)
	}
}

// echoError classifies the end of a pinger that neither received an answer nor
// reached its deadline: it could not send.
func echoError(t Target, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "route" {
		// net.InterfaceByName does not find the device.
		return &Error{Target: t.text, Class: ErrNoPath, Err: fmt.Errorf("%w: %w", syscall.ENODEV, err)}
	}
	if err == nil {
		err = errors.New("the echo request was not sent")
	}
	return sendError(t, err)
}

// loopBreaker is a pinger's logger that ends its endless loops. pro-bing takes EACCES
// from sendmsg to mean a broadcast address and repeats for ever; the kernel also
// gives it for a prohibit route. It logs before each repetition, from inside
// the loop, and nothing else would stop it: there is no access to its socket.
type loopBreaker struct {
	probing.NoopLogger
	err error // read after the pinger has ended
}

// Infof ends the calling send loop; its deferred calls stop the pinger.
func (b *loopBreaker) Infof(string, ...any) {
	b.err = syscall.EACCES
	runtime.Goexit()
}
