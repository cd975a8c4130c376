package status

// Set is a set of addresses that come from a file, a URL or the name service.
type Set struct {
	Name   string `json:"name"`
	Source string `json:"source"` // "file", "url" or "domains"
	From   string `json:"from"`   // which one
	// IPv4 and IPv6 are how many ranges of addresses, which neither overlap nor touch, it is of; null while nothing is known.
	IPv4   *int   `json:"ipv4_entries"`
	IPv6   *int   `json:"ipv6_entries"`
	Loaded Time   `json:"loaded"` // when its source was read last, and found good; "" for never
	Cached bool   `json:"cached"` // what is in it is from before the start, and the source has not been read since
	Error  string `json:"error"`  // why the source is not used as it is now; "" when it is
}
