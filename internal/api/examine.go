package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

const (
	// examinationAge is for how long an examination serves all who ask: it reads the whole packet filter.
	examinationAge  = 10 * time.Second
	examinationTime = 20 * time.Second
)

// examinations are made one at a time. Its methods may be called by any goroutine.
type examinations struct {
	turn   chan struct{} // holds whoever makes one, or looks at what follows
	latest []byte        // JSON
	at     time.Time
}

// get returns the latest examination, or makes one when that is old.
func (e *examinations) get(ctx context.Context, examine func(context.Context) (status.Examination, error)) ([]byte, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !e.at.IsZero() && time.Since(e.at) < examinationAge {
		return e.latest, nil
	}
	ctx, cancel := context.WithTimeout(ctx, examinationTime)
	defer cancel()
	found, err := examine(ctx)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(found)
	if err != nil {
		return nil, fmt.Errorf("encoding an examination: %w", err)
	}
	e.latest, e.at = slices.Clip(body), time.Now() // who writes it appends to it
	return e.latest, nil
}

// doctor answers with what an examination finds.
func (l *listenerHandler) doctor(w http.ResponseWriter, r *http.Request) {
	body, err := l.examined.get(r.Context(), l.o.Examine)
	if err != nil {
		l.fail(w, r, err)
		return
	}
	writeBody(w, http.StatusOK, body)
}
