// Package linksession keeps a socket open on a device while its link is up, for clients that speak a protocol on it.
//
//	SetLink, SetHardware, Restart, Wake
//	             │ from any goroutine
//	             ▼
//	          Session ── Follow: opened, closed ──► the client's loop: one goroutine
//	             ▲    ── Next: a message, or time ─►
//	             │    ◄─ Sent: an error of the socket
//	       Open, Receive (one reader for each socket)
//
// A session ends when the link goes, when the device is made anew or gets another hardware address, and when its socket fails;
// the next one begins as soon as the link is up and the device is ready. A device that gives errors is left alone for a while,
// and each error is logged once.
package linksession
