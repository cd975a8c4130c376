// Package pair joins two routers of which one works at a time. It elects nobody: keepalived moves the virtual address, and who has it is primary.
//
//	kernel: addresses ──> Observe ──> role ──> the daemon configures: everything, or config.Standby
//	engines save ───────> Note ─────> ledger ──┐                           ▲ Records, when it becomes primary
//	                                    ▲      │ newer records             │
//	             merge: the newer wins  │      ▼                           │
//	                          pull <── TLS 1.3, one key ──> serve      the other daemon does the same
//
// # Channel
//
// Each daemon listens at the address by which it reaches the other, on the port of the other, and connects to the other to hear from it. So each
// connection has records in one direction alone: whoever connects says what it has ([hello]), and then hears what is newer, and every
// heartbeat who is primary ([message]). Both prove that they have the key of key_file. Frames are bounded, as are records and their number; whatever is
// lost with a connection is sent again by the next one, because that begins with what the other side has.
//
// # What is true
//
// Records have a [Stamp], and the newer one wins, on whichever router it comes late. While a router is primary, what its engines have said is true: they
// talk with the servers and hosts that it is about. Two primaries, which only a network in two parts makes, take nothing from each other; when one of them
// is left, what that one says is newer than all that the other wrote. A router that starts asks the other one before it does anything.
//
// # Handover
//
//	primary: Yield ── lines ──> the other one: Prepare, then "ready" ──> YieldFile: 1 ──> keepalived moves the addresses
//
// A [Successor] prepares: it shows planning the addresses, routes and delegations of those lines as if they were here, until they are, or do not come; and
// those that this router has yielded, for a moment. Without a word from a primary that died, it goes by the lines that this one had recorded; and a primary
// shows those whole of which keepalived has taken away a part. The file ranks a router behind the other one until it is primary, or is asked to prepare: so it holds whatever the priorities are.
//
// # Goroutines and locks
//
// Run has one that listens, one for each connection of at most maxServed, one that pulls, one that prepares and one that saves. Engine.mu guards everything; no callback
// is called under it. Successor.mu is taken before it.
package pair
