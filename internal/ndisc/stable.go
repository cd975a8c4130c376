package ndisc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// stableAddress derives the interface's address in a /64 prefix (RFC 7217 section 5): the same for ever on
// this prefix, device and secret, and without meaning elsewhere. The counter tells how often an earlier
// result was found to be taken. Network_ID stays empty: an uplink is no roaming host.
func stableAddress(prefix netip.Prefix, device string, counter int, secret []byte) netip.Addr {
	high := prefix.Masked().Addr().As16()
	for extra := uint32(0); ; extra++ {
		// HMAC is the pseudorandom function. Fields of fixed length stand before the name, so that no two
		// inputs have the same bytes.
		f := hmac.New(sha256.New, secret)
		f.Write(high[:8])
		f.Write(binary.BigEndian.AppendUint32(nil, uint32(counter)))
		f.Write(binary.BigEndian.AppendUint32(nil, extra))
		f.Write([]byte(device))
		id := f.Sum(nil)[:8]
		if reserved(binary.BigEndian.Uint64(id)) {
			continue
		}
		full := high
		copy(full[8:], id)
		return netip.AddrFrom16(full)
	}
}

// reserved reports the identifiers that no host may take (RFC 5453): the anycast ones, and those that IANA
// keeps for its own Ethernet block.
func reserved(id uint64) bool {
	return id == 0 ||
		id >= 0x02005efffe000000 && id <= 0x02005efffeffffff ||
		id >= 0xfdffffffffffff80 && id <= 0xfdffffffffffffff
}
