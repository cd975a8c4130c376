package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Set is one [[set]] section: addresses that policies name as "@" and the name. They come from one of its sources.
type Set struct {
	Name      string         // name: unique among sets; as an uplink's
	Addresses []netip.Prefix // addresses
	// Filled is true when other programs, such as dnsmasq by its option nftset, put addresses into the sets of this
	// name and the suffixes 4 and 6 of our second nftables table.
	Filled bool // filled
	// Timeouts is true when elements of a filled set may expire. Its prefixes must not overlap then.
	Timeouts bool          // timeouts
	File     string        // file: absolute path of a list, which is read again when it changes; "" for none
	URL      string        // url: of a list, https; "" for none
	Refresh  time.Duration // refresh: how often the URL is asked; 1m..30 days
	// Domains are names in lower case, without a dot at the end. "*.example.org" are all names below that one.
	Domains []string // domains
	// Dnsmasq is true when dnsmasq is told to put the domains' addresses into the sets, as into filled ones.
	Dnsmasq bool
}

// Source says where the addresses come from: the key of the configuration.
func (s *Set) Source() string {
	switch {
	case s.File != "":
		return "file"
	case s.URL != "":
		return "url"
	case len(s.Domains) > 0:
		return "domains"
	case s.Filled:
		return "filled"
	}
	return "addresses"
}

// Wildcard reports whether a domain stands for all names below one.
func Wildcard(domain string) bool { return strings.HasPrefix(domain, "*.") }

const (
	titleSet       = "[[set]]"
	exampleList    = "/etc/uplinkd/cn.txt"
	exampleURL     = "https://example.net/cn.txt"
	exampleDomain  = "example.net"
	maxSetDomains  = 1000
	defaultRefresh = 24 * time.Hour
)

func setSection(s *Set) section {
	return section{titleSet, []field{
		text("name", &s.Name, "streaming", checkLabel),
		prefixes("addresses", &s.Addresses, nil),
		boolean("filled", &s.Filled),
		boolean("timeouts", &s.Timeouts),
		text("file", &s.File, exampleList, checkListFile),
		text("url", &s.URL, exampleURL, checkListURL),
		duration("refresh", &s.Refresh, time.Minute, 30*24*time.Hour),
		{name: "domains", takes: listSuchAs(exampleDomain), read: func(r *reader, v *value) {
			texts("domains", &s.Domains, exampleDomain, maxSetDomains, checkSetDomain).scalarOrList().read(r, v)
			for i, d := range s.Domains {
				s.Domains[i] = strings.ToLower(strings.TrimSuffix(d, "."))
			}
			slices.Sort(s.Domains)
			s.Domains = slices.Compact(s.Domains)
			if !v.bad && len(s.Domains) == 0 {
				r.fail(v, v.off, "domains is empty: write some, as in %q", exampleDomain)
			}
		}},
	}}
}

func checkListFile(name, s string) string {
	if s == "" {
		return name + " is empty: write a path, such as " + exampleList
	}
	return checkOptionalPath(name, s)
}

// checkListURL takes https alone: who can alter a list on its way decides where traffic goes.
func checkListURL(name, s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return fmt.Sprintf("%s %s is no URL: write one such as %q", name, quote(s), exampleURL)
	case u.Scheme == "http":
		return fmt.Sprintf("%s %s could be altered by everybody on the way: write https", name, quote(s))
	case u.Scheme != "https":
		return fmt.Sprintf("%s %s is no URL of https: write one such as %q", name, quote(s), exampleURL)
	case u.User != nil:
		return fmt.Sprintf("%s holds a password, which the status would show: remove it", name)
	}
	return ""
}

func checkSetDomain(name, s string) string {
	d := strings.TrimPrefix(s, "*.")
	if strings.Contains(d, "*") {
		return fmt.Sprintf("%s %s: a star stands for all names below one, as in %q", name, quote(s), "*.example.org")
	}
	return checkDomain(name, d)
}

// set reads one set.
func (r *reader) set(t *table, c *Config, seen map[string]int) Set {
	s := Set{Refresh: defaultRefresh}
	r.section(t, setSection(&s))
	r.required(t, "set", "name", "name", "streaming", s.Name, seen)
	var sources []string
	for _, key := range []string{"addresses", "file", "url", "domains", "filled"} {
		if t.values[key] != nil && (key != "filled" || s.Filled || !t.usable("filled")) || t.misspelled[key] {
			sources = append(sources, key)
		}
	}
	switch {
	case len(sources) == 0:
		r.errorf(t.off, "this set is empty: write addresses = [%q], a file, a url or domains, or filled = true if another program fills it", examplePrefix)
	case len(sources) > 1 && s.Filled:
		r.errorf(t.offset(sources[0]), "a set has either %s or filled = true: what is in a filled one is another program's business", sources[0])
	case len(sources) > 1:
		r.errorf(t.offset(sources[1]), "a set has one source, and this one has %s: make a set of each, and name them all where they are used", strings.Join(sources, " and "))
	case s.Timeouts && !s.Filled && t.usable("filled"):
		r.errorf(t.offset("timeouts"), "timeouts is for sets that another program fills: write filled = true, or remove it")
	case t.values["refresh"] != nil && s.URL == "" && t.usable("url"):
		r.errorf(t.offset("refresh"), "refresh is for sets with a url: remove it")
	}
	s.Dnsmasq = len(s.Domains) > 0 && c.DNS.Dnsmasq != ""
	if i := slices.IndexFunc(s.Domains, Wildcard); i >= 0 && !s.Dnsmasq && t.usable("domains") {
		r.errorf(t.offset("domains"), "%s cannot be looked up, for nobody knows which names there are: write [dns] dnsmasq, which sees what hosts ask for, or the names themselves", quote(s.Domains[i]))
	}
	if s.URL == "" {
		s.Refresh = 0
	}
	return s
}
