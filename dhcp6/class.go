package dhcp6

import "github.com/insomniacslk/dhcp/dhcpv6"

// maxClass bounds what classes say, in octets, so that a message stays in one packet of the least MTU (RFC 8200 section 5).
const maxClass = 512

// Class is what a client says of itself besides its DUID: which hardware and software it is, and for which use (RFC 9915 sections 21.15
// and 21.16). Some providers serve nobody who does not say what they expect.
type Class struct {
	Enterprise uint32 // of the vendor, as IANA numbers them
	Vendor     string // "": it says nothing of that
	User       []string
}

func (c *Class) size() int {
	n := len(c.Vendor)
	for _, u := range c.User {
		n += 2 + len(u)
	}
	return n
}

func (c *Class) addTo(m *dhcpv6.Message) {
	if c.Vendor != "" {
		m.AddOption(&dhcpv6.OptVendorClass{EnterpriseNumber: c.Enterprise, Data: [][]byte{[]byte(c.Vendor)}})
	}
	if len(c.User) > 0 {
		o := &dhcpv6.OptUserClass{}
		for _, u := range c.User {
			o.UserClasses = append(o.UserClasses, []byte(u))
		}
		m.AddOption(o)
	}
}
