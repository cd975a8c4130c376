// Package loglimit keeps floods out of a log: what repeats itself is counted instead.
//
//	record ──► kind: level, message, and which uplink, device, LAN ──► the first of a minute pass
//	                                                                   the others ──► one line a minute, with their count
//
// A kind that had more than its lines has none until a whole minute without it is over. Debug lines are not touched: who wants
// those wants all.
package loglimit

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	window = time.Minute
	// How many lines of a kind pass in a window.
	warnings     = 5
	informations = 20
	// maxKinds bounds how many kinds are told apart by whom they are about.
	maxKinds = 512
	// count is the attribute of how many lines stand behind the one that has it.
	count = "similar"
)

// about are the attributes that tell kinds apart.
var about = map[string]bool{"uplink": true, "device": true, "lan": true, "family": true, "code": true, "to": true}

// Handler passes records on to another handler, of each kind so many.
type Handler struct {
	next  slog.Handler
	kinds *kinds
	of    string // what With has said of whom records are about
}

var _ slog.Handler = (*Handler)(nil)

// New returns a handler in front of another.
func New(next slog.Handler) *Handler {
	return &Handler{next: next, kinds: &kinds{by: make(map[kind]*seen)}}
}

type kind struct {
	level   slog.Level
	message string
	about   string
}

// seen is what there was of a kind in this window.
type seen struct {
	passed, held int
	noisy        bool // it had more than its lines in the window before too
}

type kinds struct {
	mu sync.Mutex
	by map[kind]*seen
}

// Enabled implements [slog.Handler].
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// WithAttrs implements [slog.Handler].
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{next: h.next.WithAttrs(attrs), kinds: h.kinds, of: h.of + names(attrs)}
}

// WithGroup implements [slog.Handler].
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{next: h.next.WithGroup(name), kinds: h.kinds, of: h.of}
}

func names(attrs []slog.Attr) string {
	var b strings.Builder
	for _, a := range attrs {
		if about[a.Key] {
			b.WriteString(a.Key + "=" + a.Value.String() + " ")
		}
	}
	return b.String()
}

// Handle implements [slog.Handler].
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return h.next.Handle(ctx, r)
	}
	k, kept := kind{r.Level, r.Message, h.of}, make([]slog.Attr, 0, 2)
	r.Attrs(func(a slog.Attr) bool {
		if about[a.Key] {
			kept = append(kept, a)
		}
		return true
	})
	k.about += names(kept)
	if !h.kinds.pass(k, func(k kind, n int) {
		more := slog.NewRecord(time.Now(), k.level, k.message, 0)
		more.AddAttrs(kept...)
		more.AddAttrs(slog.Int(count, n))
		_ = h.next.Handle(context.Background(), more) // there is nobody to tell
	}) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// pass reports whether a record of a kind is to be written. Else it is counted, and told says how many there were when the
// window is over.
func (s *kinds) pass(k kind, told func(kind, int)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seenOf := s.by[k]
	if seenOf == nil {
		if len(s.by) >= maxKinds {
			k.about = "" // whom they are about may be chosen by a stranger
			seenOf = s.by[k]
		}
		if seenOf == nil {
			seenOf = new(seen)
			s.by[k] = seenOf
			time.AfterFunc(window, func() { s.end(k, told) })
		}
	}
	limit := informations
	if k.level >= slog.LevelWarn {
		limit = warnings
	}
	if seenOf.noisy || seenOf.passed >= limit {
		seenOf.held++
		return false
	}
	seenOf.passed++
	return true
}

// end ends a window.
func (s *kinds) end(k kind, told func(kind, int)) {
	s.mu.Lock()
	of := s.by[k]
	held := of.held
	if held == 0 {
		delete(s.by, k)
	} else {
		*of = seen{noisy: true}
		time.AfterFunc(window, func() { s.end(k, told) })
	}
	s.mu.Unlock()
	if held > 0 {
		told(k, held)
	}
}
