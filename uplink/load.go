package uplink

import "time"

const (
	// loadWindow is over what a load is measured.
	loadWindow = time.Second

	// streamRate is the packets a second that no neighbours send unasked, and answeredRate that of a device that sends
	// leastLoad, or did within answeredFor: those are answers, such as the acknowledgements of an upload. They go on to
	// come while a modem sends what it has queued.
	streamRate   = 100
	answeredRate = 20
	answeredFor  = 2 * time.Second
	// answeredWindow is over what the latter is measured, and stepWindow a step.
	answeredWindow = 200 * time.Millisecond
	stepWindow     = 200 * time.Millisecond
	// A device that sends leastLoad and stepFactor times what it sent in the stepHistory before has begun to.
	stepFactor  = 4
	stepHistory = 2 * time.Second
)

// Load is how much a device moves, in bits a second.
type Load struct{ Received, Sent float64 }

// DeviceCounters are the counters of a device at a time.
type DeviceCounters struct {
	At                       time.Time
	Received, Sent           uint64 // packets
	ReceivedBytes, SentBytes uint64
}

// LoadMeter tells from readings of a device's counters how much it moves, over windows of a second. The zero LoadMeter
// is ready to use.
type LoadMeter struct{ from DeviceCounters }

// Observe takes a reading, and returns the load of a window that ends with it.
func (l *LoadMeter) Observe(c DeviceCounters) (load Load, ok bool) {
	from, elapsed := l.from, c.At.Sub(l.from.At)
	if elapsed < loadWindow {
		return Load{}, false
	}
	l.from = c
	if from.At.IsZero() || c.ReceivedBytes < from.ReceivedBytes || c.SentBytes < from.SentBytes {
		return Load{}, false
	}
	return Load{bitRate(from.ReceivedBytes, c.ReceivedBytes, elapsed), bitRate(from.SentBytes, c.SentBytes, elapsed)}, true
}

func bitRate(from, to uint64, elapsed time.Duration) float64 {
	return 8 * float64(to-from) / elapsed.Seconds()
}

// StreamDetector tells from readings of a device's counters whether it receives what no neighbours on the line send: a
// stream, or the answers to much that it sends. The zero StreamDetector is ready to use.
type StreamDetector struct {
	window []DeviceCounters
	loaded time.Time // when the device sent a load last
}

// Observe takes a reading, and reports whether one is received now.
func (s *StreamDetector) Observe(c DeviceCounters) bool {
	s.window = recent(s.window, c, answeredWindow)
	if len(s.window) < 2 {
		return false
	}
	before, first := s.window[len(s.window)-2], s.window[0]
	if n := c.Received - before.Received; n >= 3 && float64(n) >= streamRate*c.At.Sub(before.At).Seconds() {
		return true
	}
	n, span := c.Received-first.Received, c.At.Sub(first.At)
	if bitRate(first.SentBytes, c.SentBytes, span) >= leastLoad {
		s.loaded = c.At
	}
	return c.Received != before.Received && n >= 3 && float64(n) >= answeredRate*span.Seconds() && c.At.Sub(s.loaded) <= answeredFor
}

// StepDetector tells from readings of a device's counters when it begins to send much more than before: that may fill a
// queue on the line so fast that no probe is answered while it fills. The zero StepDetector is ready to use.
type StepDetector struct {
	window []DeviceCounters
	steps  time.Time // when the latest step began
}

// Observe takes a reading, and returns when a step that it shows has begun.
func (s *StepDetector) Observe(c DeviceCounters) (began time.Time, ok bool) {
	s.window = recent(s.window, c, stepHistory+stepWindow)
	mid := 0 // the latest reading that is older than stepWindow
	for i := range s.window {
		if c.At.Sub(s.window[i].At) >= stepWindow {
			mid = i
		}
	}
	first, from := s.window[0], s.window[mid]
	if span := from.At.Sub(first.At); span < stepHistory/2 || c.At.Sub(s.steps) < stepHistory {
		return time.Time{}, false
	} else if now := bitRate(from.SentBytes, c.SentBytes, c.At.Sub(from.At)); now < leastLoad || now < stepFactor*bitRate(first.SentBytes, from.SentBytes, span) {
		return time.Time{}, false
	}
	s.steps = from.At
	return from.At, true
}

// recent appends a reading and drops those that a window that ends with it does not need. Counters that ran backwards
// begin it anew.
func recent(window []DeviceCounters, c DeviceCounters, span time.Duration) []DeviceCounters {
	if n := len(window); n > 0 && (c.SentBytes < window[n-1].SentBytes || c.Received < window[n-1].Received) {
		window = window[:0]
	}
	window = append(window, c)
	drop := 0
	for drop+1 < len(window) && c.At.Sub(window[drop+1].At) >= span {
		drop++
	}
	return append(window[:0], window[drop:]...)
}
