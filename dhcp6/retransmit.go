package dhcp6

import "time"

// Constants of RFC 9915 section 7.6.
const (
	solMaxDelay = time.Second
	solTimeout  = time.Second
	solMaxRT    = 3600 * time.Second

	reqTimeout = time.Second
	reqMaxRT   = 30 * time.Second
	reqMaxRC   = 10

	cnfMaxDelay = time.Second
	cnfTimeout  = time.Second
	cnfMaxRT    = 4 * time.Second
	cnfMaxRD    = 10 * time.Second

	renTimeout = 10 * time.Second
	renMaxRT   = 600 * time.Second

	rebTimeout = 10 * time.Second
	rebMaxRT   = 600 * time.Second

	relTimeout = time.Second
	relMaxRC   = 4
)

// A server may set the client's SOL_MAX_RT within these bounds (section 21.24).
const (
	minSolMaxRT = 60 * time.Second
	maxSolMaxRT = 86400 * time.Second
)

// schedule says when a message is repeated, in the terms of section 15. Zero is "no limit" for mrt, mrc
// and mrd.
type schedule struct {
	delay time.Duration // the first message waits for up to this
	irt   time.Duration
	mrt   time.Duration
	mrc   int
	mrd   time.Duration
	above bool // the first RT is strictly above irt
}

// scheduleOf returns the schedule of a state's message. Renew and Rebind end at moments, not after spans:
// T2, and the end of the last lease.
func scheduleOf(s state, solicitMax time.Duration) schedule {
	switch s {
	case soliciting:
		return schedule{delay: solMaxDelay, irt: solTimeout, mrt: solicitMax, above: true}
	case requesting:
		return schedule{irt: reqTimeout, mrt: reqMaxRT, mrc: reqMaxRC}
	case renewing:
		return schedule{irt: renTimeout, mrt: renMaxRT}
	case rebinding:
		return schedule{irt: rebTimeout, mrt: rebMaxRT}
	case verifying:
		return schedule{delay: cnfMaxDelay, irt: cnfTimeout, mrt: cnfMaxRT, mrd: cnfMaxRD}
	case releasing:
		return schedule{irt: relTimeout, mrc: relMaxRC}
	}
	return schedule{}
}

// next returns the RT that follows prev, or the first one if prev is 0. Uniform is in [0, 1).
func (s schedule) next(prev time.Duration, uniform float64) time.Duration {
	factor := 0.2*uniform - 0.1
	if prev == 0 {
		if s.above {
			factor = 0.1 * (1 - uniform)
		}
		return spread(s.irt, factor)
	}
	rt := 2*prev + spread(prev, factor) - prev
	if s.mrt != 0 && rt > s.mrt {
		rt = spread(s.mrt, factor)
	}
	return rt
}

func spread(d time.Duration, factor float64) time.Duration {
	return d + time.Duration(factor*float64(d))
}

// The rate limit of section 14.1: so many messages in so long a time, over all exchanges and link flaps.
const (
	limitCount = 20
	limitSpan  = 20 * time.Second
)

// limiter holds the times of the latest messages.
type limiter struct {
	times [limitCount]time.Duration
	count int
}

// free returns the first moment at which another message may be sent; 0 for any.
func (l *limiter) free() time.Duration {
	if l.count < limitCount {
		return 0
	}
	return l.times[l.count%limitCount] + limitSpan
}

func (l *limiter) sent(now time.Duration) {
	l.times[l.count%limitCount] = now
	l.count++
}
