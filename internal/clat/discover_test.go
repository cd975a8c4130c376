package clat

import (
	"net/netip"
	"testing"
	"time"
)

func TestAnswersOfDNSServers(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	one, other := netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/96")
	gives := func(holds time.Duration, prefixes ...netip.Prefix) answer { return answer{true, prefixes, holds} }
	for name, c := range map[string]struct {
		before netip.Prefix
		failed int
		answer answer
		want   netip.Prefix
		next   time.Duration
	}{
		"the first":                       {answer: gives(time.Minute, one), want: one, next: time.Minute},
		"the same":                        {before: one, answer: gives(time.Minute, one), want: one, next: time.Minute},
		"one more, before the present":    {before: one, answer: gives(time.Minute, other, one), want: one, next: time.Minute},
		"another":                         {before: one, answer: gives(time.Minute, other), want: other, next: time.Minute},
		"a TTL of 0":                      {answer: gives(0, one), want: one, next: shortestAnswer},
		"a TTL of weeks":                  {answer: gives(1000*time.Hour, one), want: one, next: longestAnswer},
		"there is none":                   {answer: gives(time.Hour), next: noPrefix},
		"there is none any more":          {before: one, answer: gives(time.Hour), next: noPrefix},
		"silence":                         {before: one, want: one, next: firstRetry},
		"silence for the third time":      {before: one, failed: 2, want: one, next: 4 * firstRetry},
		"silence for the hundredth time":  {before: one, failed: 99, want: one, next: longestRetry},
		"silence, and none has been told": {next: firstRetry},
	} {
		t.Run(name, func(t *testing.T) {
			q := question{failed: c.failed}
			if got := q.take(c.answer, c.before, now); got != c.want || q.at.Sub(now) != c.next {
				t.Errorf("%v, again after %v; want %v, %v", got, q.at.Sub(now), c.want, c.next)
			}
			if answered := c.answer.given; answered != (q.failed == 0) {
				t.Errorf("%d failures", q.failed)
			}
		})
	}
}
