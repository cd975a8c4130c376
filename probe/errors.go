package probe

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// sentinel is an error constant that may be a special case of another one.
type sentinel string

func (s sentinel) Error() string { return string(s) }

// Is makes each special case match its general one.
func (s sentinel) Is(target error) bool {
	return s == ErrNoPath && target == ErrLocal || s == ErrPortal && target == ErrAnswer
}

// The classes of a failed probe. Every error of [Net.Probe], except the
// cancellation of its context, matches at least one of them with errors.Is, and
// also the error of the system call underneath.
const (
	// ErrTimeout: nothing came back in the listening window. A miss.
	ErrTimeout = sentinel("no answer")
	// ErrUnreachable: a router on the path, or the target's own host, said by
	// ICMP that it cannot be reached, or the gateway did not resolve. A miss.
	ErrUnreachable = sentinel("reported unreachable")
	// ErrAnswer: an answer came that is not the one asked for: a DNS failure
	// code, an HTTP error status, a connection closed half-way. A miss, since
	// whoever configured the target asked for more than a sign of life.
	ErrAnswer = sentinel("wrong answer")
	// ErrPortal is the ErrAnswer of a /generate_204 target that gave anything
	// else than 204, or of a name that does not exist and was given an address: most
	// likely a captive portal. It matches ErrAnswer too.
	ErrPortal = sentinel("captive portal")
	// ErrLocal: the probe did not leave, for a reason of this machine: no
	// permission, no buffers, no such source address. Never a miss.
	ErrLocal = sentinel("local fault")
	// ErrNoPath is the ErrLocal of a route or device that does not exist (any
	// more): the path is gone. It matches ErrLocal too.
	ErrNoPath = sentinel("no path")
	// ErrMark is in an ErrLocal whose socket the kernel would not mark: that
	// takes CAP_NET_ADMIN.
	ErrMark = sentinel("marking the socket")
)

// Error is a failed probe.
type Error struct {
	Target string // as configured
	Class  error  // one of the sentinels above
	Err    error  // what happened; may be nil
}

func (e *Error) Error() string { return "probing " + e.Target + ": " + e.Fault() }

// Fault is the error without its target, for people: the class, and what the kernel or the other end said. That a deadline
// has passed says nothing beyond the class.
func (e *Error) Fault() string {
	s := e.Class.Error()
	var errno syscall.Errno
	switch {
	case e.Err == nil, e.Class == ErrTimeout:
		return s
	case errors.As(e.Err, &errno):
		return s + ": " + errno.Error()
	}
	return s + ": " + e.Err.Error()
}

// faultOf is the text of a failed probe.
func faultOf(err error) string {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Fault()
	}
	return err.Error()
}

// Unwrap lets errors.Is and errors.As see the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}

// sendError classifies a synchronous error of our own stack: nothing has left.
func sendError(t Target, err error) error {
	class := error(ErrLocal)
	for _, no := range []syscall.Errno{
		// An unreachable, prohibit or blackhole route answers EHOSTUNREACH,
		// EACCES and EINVAL; the last one is too ambiguous to be listed.
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EACCES,
		syscall.ENODEV, syscall.ENXIO, syscall.ENETDOWN,
	} {
		if errors.Is(err, no) {
			class = ErrNoPath
		}
	}
	return &Error{Target: t.text, Class: class, Err: err}
}

// receiveError classifies an error of a socket that was able to send: what was
// route trouble before is now what an ICMP error or a silent gateway reported.
func receiveError(ctx context.Context, t Target, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	class := error(ErrAnswer)
	var timeout net.Error
	switch {
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		class = ErrTimeout
	case isAny(err, syscall.ENODEV, syscall.ENXIO, syscall.ENETDOWN):
		class = ErrNoPath
	case isAny(err, syscall.EPERM, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EMFILE, syscall.ENFILE, syscall.EAFNOSUPPORT, syscall.EINVAL, syscall.EAGAIN):
		class = ErrLocal
	case isAny(err, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EACCES,
		syscall.EPROTO, syscall.ENONET, syscall.ENOPROTOOPT, syscall.ECONNREFUSED):
		class = ErrUnreachable
	}
	return &Error{Target: t.text, Class: class, Err: err}
}

func isAny(err error, numbers ...syscall.Errno) bool {
	for _, no := range numbers {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}
