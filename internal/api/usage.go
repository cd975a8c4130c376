package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Usage is what metered uplinks have carried.
type Usage struct {
	Uplinks List[UplinkUsage] `json:"uplinks"`
}

// UplinkUsage is what one uplink has carried, both directions, the latest dates first.
type UplinkUsage struct {
	Name       string           `json:"name"`
	QuotaBytes int64            `json:"quota_bytes"` // a month; 0 for none
	OverQuota  bool             `json:"over_quota"`
	Days       List[DatedBytes] `json:"days"`
	Months     List[DatedBytes] `json:"months"`
}

// DatedBytes is an amount of a day ("2026-11-20") or of a month ("2026-11").
type DatedBytes struct {
	Date  string `json:"date"`
	Bytes int64  `json:"bytes"`
}

func (f *face) usage(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(f.o.Source.Usage())
	if err != nil {
		f.fail(w, r, fmt.Errorf("encoding the usage: %w", err))
		return
	}
	writeBody(w, http.StatusOK, body)
}

// Usage returns what metered uplinks have carried.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	err := c.get(ctx, "/api/v1/usage", "the usage", &u)
	return u, err
}

// WriteUsage writes u for people.
func WriteUsage(w io.Writer, u Usage) error {
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
		for _, list := range [][]DatedBytes{x.Months, x.Days} {
			for _, d := range list {
				fmt.Fprintf(&b, "  %-10s  %10s\n", clean(d.Date), amount(d.Bytes))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
