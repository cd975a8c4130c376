// Package clocktest has times as a clock shows them that was set while a program runs, for tests.
package clocktest

import (
	"time"
	"unsafe"
)

// Shift returns t with its time of day shifted by whole seconds, and its monotonic reading as it is: what a program holds of before the
// clock was set, or sees after it. It panics for a time without such a reading.
func Shift(t time.Time, by time.Duration) time.Time {
	// As package time has it: the wall clock's seconds since 1885 are in 33 bits above 30 bits of nanoseconds, below the bit that says
	// that there is a monotonic reading.
	wall := (*uint64)(unsafe.Pointer(&t))
	if *wall>>63 == 0 {
		panic("a time without a monotonic reading")
	}
	*wall += uint64(by/time.Second) << 30
	return t
}
