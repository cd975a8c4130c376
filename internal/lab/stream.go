package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Stream sends numbered packets over one UDP flow to an echo server and counts which came back: what a call or a
// tunnel feels, and whether a flow moved.
type Stream struct {
	From   *Host
	Source netip.Addr
	Target netip.AddrPort
	Rate   int           // packets per second; 100 when zero
	Grace  time.Duration // how late an answer may be before its packet counts as lost; 1 s when zero

	mu    sync.Mutex
	sent  []time.Time // by sequence number
	back  []bool
	stats StreamStats
	last  time.Time // of the newest answer
}

// StreamStats is what became of a stream's packets.
type StreamStats struct {
	Sent, Answered, Lost, Duplicates int
	// LongestGap is the longest time between two answers, the wait for the next one included.
	LongestGap time.Duration
	// Moves are the sources that the server saw, each with the first answer that told it: one entry means that the
	// flow never moved.
	Moves []Move
}

// Move is the first answer after a flow's source changed.
type Move struct {
	At       time.Time
	Sequence int
	Source   netip.AddrPort
}

// Run sends until ctx ends, waits for late answers and returns nil.
func (s *Stream) Run(ctx context.Context) error {
	local := ""
	if s.Source.IsValid() {
		local = s.Source.String()
	}
	conn, err := s.From.Dial(ctx, "udp", local, s.Target.String())
	if err != nil {
		return err
	}
	bufferBursts(conn)
	received := make(chan struct{})
	go func() {
		defer close(received)
		s.receive(conn)
	}()
	s.send(ctx, conn)
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace())
	defer cancel()
	_ = Until(late, "late answers", func() error { // what does not come is in the statistics
		if st := s.Stats(); st.Answered < st.Sent {
			return errors.New("some are missing")
		}
		return nil
	})
	err = conn.Close()
	<-received
	return err
}

func (s *Stream) grace() time.Duration { return orDefault(s.Grace, time.Second) }

// send keeps the pace by the clock, not by the ticks, of which a busy machine loses some.
func (s *Stream) send(ctx context.Context, conn net.Conn) {
	rate := s.Rate
	if rate <= 0 {
		rate = 100
	}
	interval := time.Second / time.Duration(rate)
	tick := time.NewTicker(max(interval, time.Millisecond))
	defer tick.Stop()
	start := time.Now()
	for n := 0; ; {
		for ; time.Duration(n)*interval <= time.Since(start); n++ {
			s.mu.Lock()
			s.sent, s.back = append(s.sent, time.Now()), append(s.back, false)
			s.mu.Unlock()
			// A send that fails, as with no route, is a packet that is lost.
			_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Stream) receive(conn net.Conn) {
	buf := make([]byte, 256)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error; the flow goes on
		}
		if source, payload, err := parseEcho(buf[:n]); err == nil && len(payload) == 8 {
			s.answer(binary.BigEndian.Uint64(payload), source, time.Now())
		}
	}
}

func (s *Stream) answer(seq uint64, source netip.AddrPort, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq >= uint64(len(s.back)) {
		return
	}
	if s.back[seq] {
		s.stats.Duplicates++
		return
	}
	s.back[seq] = true
	s.stats.Answered++
	if !s.last.IsZero() {
		s.stats.LongestGap = max(s.stats.LongestGap, at.Sub(s.last))
	}
	s.last = at
	if m := s.stats.Moves; len(m) == 0 || m[len(m)-1].Source != source {
		s.stats.Moves = append(m, Move{At: at, Sequence: int(seq), Source: source})
	}
}

// Stats returns the counts so far. A packet is lost when its answer is later than the grace allows.
func (s *Stream) Stats() StreamStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Moves = slices.Clone(st.Moves)
	st.Sent = len(s.sent)
	overdue := time.Now().Add(-s.grace())
	for i, at := range s.sent {
		if !s.back[i] && at.Before(overdue) {
			st.Lost++
		}
	}
	if n := len(s.sent); n > 0 && !s.last.IsZero() && !s.back[n-1] {
		st.LongestGap = max(st.LongestGap, s.sent[n-1].Sub(s.last))
	}
	return st
}

// Over returns the uplinks that the stream has used, in order.
func (s *Stream) Over() []string {
	var uplinks []string
	for _, m := range s.Stats().Moves {
		name := s.From.world.UplinkOf(m.Source.Addr())
		if len(uplinks) == 0 || uplinks[len(uplinks)-1] != name {
			uplinks = append(uplinks, name)
		}
	}
	return uplinks
}

// String sums the counts up in a few words.
func (st StreamStats) String() string {
	return fmt.Sprintf("%d sent, %d answered, %d lost, longest gap %s", st.Sent, st.Answered, st.Lost, st.LongestGap.Round(time.Millisecond))
}
