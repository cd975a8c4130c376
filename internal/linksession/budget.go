package linksession

import "time"

// Budget allows so many things at once, and one more each time that a while has passed.
type Budget struct {
	most  int
	every time.Duration
	left  int
	since time.Time // when left was right; zero at the beginning
}

// NewBudget returns one that allows most things at once, and one more each time that every has passed.
func NewBudget(most int, every time.Duration) *Budget { return &Budget{most: most, every: every} }

// Spend takes one, and else returns how long there is none. A clock that was set back gives what there is at the beginning.
func (b *Budget) Spend(now time.Time) (wait time.Duration) {
	passed := now.Sub(b.since)
	if b.since.IsZero() || passed < 0 || passed >= time.Duration(b.most)*b.every {
		b.left, b.since = b.most, now
	} else if more := int(passed / b.every); more > 0 {
		b.left = min(b.most, b.left+more)
		b.since = b.since.Add(time.Duration(more) * b.every)
	}
	if b.left == 0 {
		return b.since.Add(b.every).Sub(now)
	}
	b.left--
	return 0
}
