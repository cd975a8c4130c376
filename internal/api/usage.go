package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/uplinkd/uplinkd/internal/status"
)

func (l *listenerHandler) usage(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(l.o.Meter.Usage())
	if err != nil {
		l.fail(w, r, fmt.Errorf("encoding the usage: %w", err))
		return
	}
	writeBody(w, http.StatusOK, body)
}

// Usage returns what metered uplinks have carried.
func (c *Client) Usage(ctx context.Context) (status.Usage, error) {
	var u status.Usage
	err := c.get(ctx, "/api/v1/usage", "the usage", &u)
	return u, err
}

// WriteUsage writes u for people.
func WriteUsage(w io.Writer, u status.Usage) error {
	var b strings.Builder
	if len(u.Uplinks) == 0 {
		b.WriteString("no uplink is metered or has a quota\n")
	}
	for i, x := range u.Uplinks {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(clean(x.Name))
		if x.QuotaBytes > 0 {
			fmt.Fprintf(&b, ", quota %s a month", amount(x.QuotaBytes))
		}
		if x.OverQuota {
			b.WriteString(", used up")
		}
		b.WriteByte('\n')
		for _, list := range [][]status.DatedBytes{x.Months, x.Days} {
			for _, d := range list {
				fmt.Fprintf(&b, "  %-10s  %10s\n", clean(d.Date), amount(d.Bytes))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
