package main

import (
	"math/rand/v2"
	"time"

	"github.com/uplinkd/uplinkd/uplink"
)

// upload is traffic that fills a queue on the way there.
type upload struct {
	name  string
	queue time.Duration // what a full one takes to send
	// fill is what is offered while the queue grows, in shares of the line's capacity, and full when it has been full
	// once. What an upload of TCP offers then is its window: it drops to seven tenths (CUBIC, RFC 9438 section 4.6) and
	// grows again.
	fill, full float64
	tcp        bool // answered packet by packet
	// collapses says that the connections lose so much at once that the queue drains, and begin again together.
	collapses bool
	others    bool // sent by a host that does not use our device
	// A queue that is full before an answer can tell may make a link suspect, and so may one that drops every other
	// packet. Of so many runs one may be down; 0 is none.
	maybeSuspect bool
	onceDown     int
}

// lineRate is the capacity of the line in bytes a second, and packetBytes the length of what is uploaded.
const (
	lineRate    = 250e3
	packetBytes = 1500
)

// fifo is a first-in, first-out queue that drops what does not fit.
type fifo struct {
	upload
	from   time.Duration // when the upload begins
	at     time.Duration // the state is that of then:
	length time.Duration // what it takes to send
	phase  phase
	rate   float64 // offered, in shares of the capacity
}

// phase is what an upload does.
type phase uint8

const (
	filling phase = iota
	backingOff
	probing // for more of the line
)

const fifoStep = ms

// advance brings the queue to a time.
func (f *fifo) advance(to time.Duration) {
	for ; f.at+fifoStep <= to; f.at += fifoStep {
		if f.at < f.from {
			continue
		}
		switch f.phase {
		case filling:
			if f.rate = f.fill; f.length >= f.queue {
				f.phase = probing
				if f.tcp {
					f.phase = backingOff
				}
			}
		case backingOff:
			f.rate = 0
			switch {
			case !f.collapses && f.length <= f.queue*7/10:
				f.phase = probing
			case f.collapses && f.length == 0:
				f.phase = filling
			}
		case probing:
			if f.rate = f.full; f.tcp && f.length >= f.queue {
				f.phase = backingOff
			}
		}
		f.length = min(max(f.length+time.Duration((f.rate-1)*float64(fifoStep)), 0), f.queue)
	}
}

// wait returns how long a packet waits that comes at a time; negative when it is dropped.
func (f *fifo) wait(at time.Duration, rng *rand.Rand) time.Duration {
	f.advance(at)
	if f.length >= f.queue && f.rate > 1 && rng.Float64() > 1/f.rate {
		return -1
	}
	return f.length
}

// uploads are in the order of the table.
var uploads = []upload{
	{name: "TCP, queue of 1 s", queue: time.Second, fill: 2, full: 1.05, tcp: true},
	{name: "TCP, 2 s", queue: 2 * time.Second, fill: 2, full: 1.05, tcp: true},
	{name: "TCP, 5 s", queue: 5 * time.Second, fill: 2, full: 1.05, tcp: true},
	{name: "TCP that begins again, 2 s", queue: 2 * time.Second, fill: 2.5, full: 1.05, tcp: true, collapses: true},
	{name: "TCP of another host, 2 s", queue: 2 * time.Second, fill: 2, full: 1.05, others: true, maybeSuspect: true},
	{name: "UDP 10 % too fast, 2 s", queue: 2 * time.Second, fill: 1.1, full: 1.1},
	{name: "UDP twice too fast, 2 s", queue: 2 * time.Second, fill: 2, full: 2, maybeSuspect: true, onceDown: 100},
	{name: "UDP all at once, 2 s", queue: 2 * time.Second, fill: 10, full: 1.02, maybeSuspect: true},
	{name: "UDP all at once, 5 s", queue: 5 * time.Second, fill: 10, full: 1.02, maybeSuspect: true},
}

// uploadSpan is how long an upload is watched, and fullAfter when at the latest its queue is full.
const (
	uploadSpan = 3 * time.Minute
	fullAfter  = time.Minute
)

// filled is how a link is judged while an upload fills it.
type filled struct {
	tally
	congested, looks int // and of so many looks so many found it called congested
}

// fill watches an upload.
func fill(seed uint64, u upload) filled {
	var f filled
	began := settled + randomPhase(seed)
	r := newUpload(seed, u, began, f.count)
	for r.now < began+uploadSpan {
		r.until(r.now + 500*ms)
		if r.now >= began+fullAfter {
			f.looks++
			if r.eval.Congested() {
				f.congested++
			}
		}
	}
	f.probes = r.probes
	return f
}

// findInFull has nothing come through any more at a random moment at which an upload has filled the link.
func findInFull(seed uint64, u upload) found {
	began := settled + randomPhase(seed)
	broken := began + fullAfter + time.Duration(rand.New(rand.NewPCG(seed, 3)).Int64N(int64(time.Minute)))
	f := newFound()
	r := newUpload(seed, u, began, func(t uplink.Transition, at time.Duration) { f.note(t, at-broken) })
	l := r.link
	l.there.from, l.there.hole, l.back.from, l.back.hole = broken, far, broken, far
	for r.now < broken+giveUp && f.down == forever {
		r.until(r.now + 100*ms)
	}
	return f
}

func newUpload(seed uint64, u upload, began time.Duration, onChange func(uplink.Transition, time.Duration)) *run {
	l := fiber()
	l.there.queue = &fifo{upload: u, from: began}
	r := newRun(settings{}, l, seed, onChange)
	if !u.others {
		r.traffic = &traffic{queue: l.there.queue, late: never}
	}
	return r
}
