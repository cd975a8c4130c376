package tunnel

import (
	"encoding/base64"
	"fmt"

	"github.com/uplinkd/uplinkd/internal/secret"
	"github.com/uplinkd/uplinkd/rules/netcfg"
)

// clamped is what the kernel makes of a private key (RFC 7748 section 5).
func clamped(k netcfg.Key) netcfg.Key {
	if k != (netcfg.Key{}) {
		k[0] &= 248
		k[31] = k[31]&127 | 64
	}
	return k
}

// readKey reads a key that nobody else may read. An empty name is no key.
func readKey(file string) (netcfg.Secret, error) {
	s := netcfg.Secret{File: file}
	if file == "" {
		return s, nil
	}
	text, err := secret.Read("key file", file)
	if err != nil {
		return s, err
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != len(s.Key) {
		return s, fmt.Errorf("%s holds no WireGuard key: it should hold what \"wg genkey\" prints", file)
	}
	s.Key = netcfg.Key(b)
	return s, nil
}
