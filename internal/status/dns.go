package status

// DNS is how names are resolved.
type DNS struct {
	Resolvers List[Resolver]  `json:"resolvers"` // of all uplinks, those of the best first
	Outputs   List[DNSOutput] `json:"outputs"`   // those that the configuration names
}

// Resolver is a DNS server of an uplink.
type Resolver struct {
	Uplink  string `json:"uplink"`
	Address string `json:"address"` // a link-local one with its device
	Source  string `json:"source"`  // "configuration", "dhcp", "router", "dhcpv6", or the program that has learned it
	Path    string `json:"path"`    // how well its uplink works: a code like that of a switch
	State   string `json:"state"`   // "ok", "silent", "lies" or "refuses"; "" while it is not asked
	Since   Time   `json:"since"`
	RTTms   Millis `json:"rtt_ms"`
	Used    bool   `json:"used"` // outputs are told of it
}

// DNSOutput is somebody who is told of servers.
type DNSOutput struct {
	Output string `json:"output"` // its key in the configuration
	Told   Time   `json:"told"`   // it has all that was so then
	Error  string `json:"error"`  // why it has not; "" when it has
}
