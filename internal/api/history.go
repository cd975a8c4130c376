package api

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// history answers ?range=5m&after=SECONDS with the steps that began later.
func (l *listenerHandler) history(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	after := time.Time{}
	if text := query.Get("after"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 || seconds > math.MaxInt32*8 {
			writeError(w, http.StatusBadRequest, fmt.Sprintf("after=%q is no time in seconds since 1970", text))
			return
		}
		after = time.Unix(seconds, 0)
	}
	history, ok := l.o.Meter.History(query.Get("range"), after)
	if !ok {
		writeError(w, http.StatusBadRequest, fmt.Sprintf("range=%q is neither 5m, 1h nor 24h", query.Get("range")))
		return
	}
	body, err := json.Marshal(history)
	if err != nil {
		l.fail(w, r, fmt.Errorf("encoding the history: %w", err))
		return
	}
	writeBody(w, http.StatusOK, body)
}
