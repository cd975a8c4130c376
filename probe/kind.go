package probe

import (
	"context"
	"time"
)

// Kind is how a target is probed: its scheme, and "icmp" for an address alone.
type Kind string

// The kinds of target.
const (
	ICMP      Kind = "icmp"      // echo request, ICMP or ICMPv6
	TCP       Kind = "tcp"       // a connection is opened and reset
	HTTP      Kind = "http"      // GET without redirects
	HTTPS     Kind = "https"     // the same over TLS, certificates not verified
	DNS       Kind = "dns"       // one query over UDP
	Handshake Kind = "handshake" // what WireGuard counts of the peer that has the address; not for [Net]
)

// kind is all that is particular to a kind of target. A new one is a file with such a value, and a line here.
type kind struct {
	name    Kind
	ports   bool   // it has a port,
	port    uint16 // which is this one unless another is written; 0: one must be
	example string
	// retransmits says that the kernel sends again what is lost: an answer may be to that.
	retransmits bool
	// rest takes in what is written behind host and port; nil: nothing may be.
	rest func(t *Target, rest string) error
	// size is how many packets an answered probe moves, both directions, and their bytes above the IP headers.
	size func(t Target) (packets, payload int)
	// probe asks; nil: somebody else does.
	probe func(ctx context.Context, n *Net, b Binding, t Target) (time.Duration, error)
}

// kinds are all that there are; the first is that of an address alone.
var kinds = []*kind{&echo, &connection, &web, &secureWeb, &nameQuery, &handshake}

// Schemes lists what a target may begin with.
func Schemes() []string {
	var names []string
	for _, k := range kinds[1:] {
		names = append(names, string(k.name))
	}
	return names
}

// handshake asks nothing: WireGuard tells whether the peer that has the address answers. The size is that of an echo
// request, by which it is made to ask, and of an empty packet for it.
var handshake = kind{name: Handshake, example: "handshake://10.0.31.1",
	size: func(Target) (packets, payload int) { return 2, 8 + echoSize }}
