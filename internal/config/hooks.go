package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const (
	// maxHosts is how many names the dashboard may have.
	maxHosts = 32
	// maxQuota is in bytes: more than a month of any link carries.
	minQuota, maxQuota = 1e6, 1e15
)

// hosts reads a list of names, each without a port.
func hosts(dst *[]string) field {
	return field{name: "hosts", takes: listSuchAs("router.lan"), read: func(r *reader, v *value) {
		if v.kind != kindList {
			r.wrongType(v, "hosts", "a list of strings", `["router.lan"]`)
			return
		}
		if len(v.elems) > maxHosts {
			r.fail(v, v.off, "these are %d hosts: there can be at most %d", len(v.elems), maxHosts)
			return
		}
		for i, e := range v.elems {
			switch {
			case e.kind != kindString:
				r.fail(v, e.off, "host %d must be a string, not %s", i+1, e.kind)
			case !hostName(e.text):
				r.fail(v, e.off, "host %s is not a host name: write it without scheme and port, such as \"router.lan\"", quote(e.text))
			case slices.Contains(*dst, e.text):
				r.fail(v, e.off, "host %s is given twice", quote(e.text))
			default:
				*dst = append(*dst, e.text)
			}
		}
	}}
}

// hostName accepts an address, or labels of letters, digits and hyphens (RFC 1123 section 2.1).
func hostName(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") ||
			strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

func checkWebhook(name, s string) string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Sprintf("%s %s is not a web address: write one that begins with https:// or http://", name, quote(s))
	case u.Fragment != "":
		return fmt.Sprintf("%s %s has a fragment, which is never sent: remove the # and what follows", name, quote(s))
	}
	return ""
}

// checkOptionalDir accepts an absolute path of a directory, or "" for none.
func checkOptionalDir(name, s string) string {
	if s == "" {
		return ""
	}
	return checkDir(name, s)
}

// parseQuota reads how much an uplink may carry a month.
func parseQuota(name, s string) (int64, string) {
	return parseBytes(name, s, minQuota, maxQuota, "1MB to 1000TB a month", "20GB")
}
