// Package storetest damages documents of a state directory in their meaning, for tests.
package storetest

import (
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"time"
)

// Hostile changes some values of a document to what is of the same kind and cannot be.
func Hostile(r *rand.Rand, v any, often float64) any {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	change := r.Float64() < often
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			value := Hostile(r, v[key], often)
			if r.Float64() < often/4 {
				key = pick("../../tmp/x", "fiber", "lte", "fiber/ipv4", "lan0", "net/ipv4/ip_forward", "")
			}
			out[key] = value
		}
		return out
	case []any:
		var out []any
		for _, e := range v {
			for range 1 + r.IntN(2) {
				out = append(out, Hostile(r, e, often))
			}
		}
		return out
	case float64:
		if change {
			return []float64{-1, 0, 1, 2, 62, 63, 64, 117, 1280, 65535, 1 << 31, 1 << 53, -1 << 53, 1e18}[r.IntN(14)]
		}
	case bool:
		return v != change
	case string:
		if !change {
			return v
		}
		if _, err := time.Parse(time.RFC3339, v); err == nil {
			return pick("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2262-04-11T23:47:16Z", "2500-01-01T00:00:00Z")
		}
		if ip, _, err := net.ParseCIDR(v); err == nil && ip.To4() != nil {
			return pick("0.0.0.0/0", "203.0.113.129/25", "203.0.113.130/1", "127.0.0.1/8", "224.0.0.1/4", "198.51.100.2/2", "255.255.255.255/32")
		} else if err == nil {
			return pick("::/0", "2001:db8:1::1/64", "2001:db8:1::/64", "fe80::1/64", "::1/128", "ff02::1/16", "2000::/3", "2001:db8:b::/64", "::/48")
		}
		if ip := net.ParseIP(v); ip != nil && ip.To4() != nil {
			return pick("0.0.0.0", "127.0.0.1", "203.0.113.129", "198.51.100.2", "255.255.255.255", "224.0.0.1")
		} else if ip != nil {
			return pick("::", "::1", "2001:db8:1::1", "fe80::1", "ff02::1", "2001:db8:a::2")
		}
		return pick("", "up", "down", "disabled", "weird", v+v, "999999999")
	}
	return v
}
