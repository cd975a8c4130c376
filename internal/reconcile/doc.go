// Package reconcile keeps the kernel in the state that the plan wants. One goroutine does all of it:
//
//	hint ─> snapshot ─> paths ─> verdicts ─> plan ─> diff ─> record ─> apply ─> snapshot again ─> clean up flows
//
// A hint says that something may have changed, nothing more; any number of lost hints is made good by
// the next one, or by the periodic look. The state is converged when a second diff is empty, and settled when
// it holds nothing but what the kernel refuses. The flow cleanup after a switch (deleting conntrack entries, destroying
// sockets) comes when the routes and rules that new flows of its family need have been read back, whatever else is
// outstanding, and only when the traffic has somewhere to go.
package reconcile
