// Package reconcile keeps the kernel in the state that the plan wants. One goroutine does all of it:
//
//	hint ─> snapshot ─> facts ─> judge ─> plan ─> diff ─> note ─> apply ─> snapshot again ─> aftermath
//
// A hint says that something may have changed, nothing more; any number of lost hints is made good by
// the next one, or by the periodic look. The state is converged when a second diff is empty. The
// aftermath of a switch (deleting conntrack entries, destroying sockets) comes only then, and only
// when the traffic has somewhere to go.
package reconcile
