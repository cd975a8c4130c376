package pair

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	"github.com/uplinkd/uplinkd/internal/secret"
)

// minKey is the least length of the secret's text, in bytes.
const minKey = 20

// Key is the secret that the two routers share, and what both derive from it (RFC 5869): nothing of it has to be sent.
type Key struct{ secret []byte }

// ReadKey reads the secret of a file that its owner alone may read.
func ReadKey(file string) (Key, error) {
	text, err := secret.Read("key_file", file)
	if err != nil {
		return Key{}, err
	}
	if len(text) < minKey {
		return Key{}, fmt.Errorf("key_file %s has %d characters, and a secret of less than %d can be guessed: openssl rand -base64 32 > %[1]s, on one router, and copy it to the other", file, len(text), minKey)
	}
	return Key{[]byte(text)}, nil
}

// derive returns so many bytes for a purpose.
func (k Key) derive(purpose string, bytes int) []byte {
	b, err := hkdf.Key(sha256.New, k.secret, nil, "uplinkd pair "+purpose, bytes)
	if err != nil {
		panic(err) // only for lengths that HKDF cannot have
	}
	return b
}

// Identity is what the two routers are known by where one of them stands in the other's place.
type Identity struct {
	DUID []byte       // to DHCP servers: a DUID-UUID (RFC 6355)
	ULA  netip.Prefix // a /48
}

// Identity returns that of the pair.
func (k Key) Identity() Identity {
	ula := [16]byte{0: 0xfd}
	copy(ula[1:6], k.derive("ula", 5))
	uuid := k.derive("duid", 16)
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80 // version 8 (RFC 9562 section 5.8)
	return Identity{DUID: append([]byte{0, 4}, uuid...), ULA: netip.PrefixFrom(netip.AddrFrom16(ula), 48)}
}

// errStranger is what a connection fails with whose other end has another secret.
var errStranger = errors.New("the other end has another key")

// tls returns how the two prove to each other, by TLS 1.3, that they have the secret: both have the one private key that is derived from it,
// and take no other. Names and dates of certificates say nothing here: clocks may be wrong.
func (k Key) tls() (*tls.Config, error) {
	private := ed25519.NewKeyFromSeed(k.derive("channel", ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of the pair: %w", err)
	}
	public, _ := private.Public().(ed25519.PublicKey) // what the package documents
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyConnection compares the key itself
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errStranger
			}
			if theirs, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey); !ok || !bytes.Equal(theirs, public) {
				return errStranger
			}
			return nil
		},
	}, nil
}
