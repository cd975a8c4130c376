package lab

import "fmt"

// The ports that the router's firewall forwards to the LAN host with [Options.DNAT].
const (
	ForwardedTCP = 8080
	ForwardedUDP = 8081
)

// firewall renders somebody else's port forwardings: TCP 8080 and UDP 8081 of every address of the router but the
// LAN's, from anywhere, so also from the LAN itself. It follows a renumbering by itself. What goes back into the LAN
// gets the router's source, as every firewall with a hairpin does, or the two LAN hosts would talk past the router;
// masquerading towards the uplinks is uplinkd's job.
func firewall() string {
	return fmt.Sprintf(`table inet firewall {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local ip daddr != %[1]s tcp dport %[5]d dnat ip to %[2]s
		fib daddr type local ip daddr != %[1]s udp dport %[6]d dnat ip to %[2]s
		fib daddr type local ip6 daddr != { %[3]s, fe80::/10 } tcp dport %[5]d dnat ip6 to %[4]s
		fib daddr type local ip6 daddr != { %[3]s, fe80::/10 } udp dport %[6]d dnat ip6 to %[4]s
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		iifname "lan0" oifname "lan0" ct status dnat masquerade
	}
}
`, LANRouter4, LANHost4, LANRouter6, LANHost6, ForwardedTCP, ForwardedUDP)
}
