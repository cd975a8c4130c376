package tunnel

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"

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
	info, err := os.Stat(file)
	if err != nil {
		return s, fmt.Errorf("reading a key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return s, fmt.Errorf("others may read the key file %s (mode %#o): chmod 600 %s", file, info.Mode().Perm(), file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("reading a key: %w", err)
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != len(s.Key) {
		return s, fmt.Errorf("%s holds no key: it is what \"wg genkey\" prints", file)
	}
	s.Key = netcfg.Key(b)
	return s, nil
}
