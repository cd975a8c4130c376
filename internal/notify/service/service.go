// Package service sends messages to people: by ntfy, Gotify, Telegram, mail, MQTT or plain HTTP.
//
//	URL, secret ──> Parse ──> Service ──> Send: one message
//	                                └───> Publish: what uplinks do now (MQTT alone)
//
// A kind of service is one file and one line in [kinds].
package service

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Priority says how loud a message is.
type Priority int

// From quiet to loud.
const (
	Info Priority = iota
	Warning
	Critical
)

// String returns "info", "warning" or "critical".
func (p Priority) String() string { return [...]string{"info", "warning", "critical"}[p] }

// MarshalText writes the word of [Priority.String].
func (p Priority) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads it.
func (p *Priority) UnmarshalText(text []byte) error {
	for _, known := range []Priority{Info, Warning, Critical} {
		if known.String() == string(text) {
			*p = known
			return nil
		}
	}
	return fmt.Errorf("unknown priority %q", text)
}

// Message is one message.
type Message struct {
	ID       string    `json:"id"`   // the same at each try, so that a receiver can tell a repetition
	Time     time.Time `json:"time"` // when what it tells of happened
	Kind     string    `json:"kind"` // of the event: "switch", "quota", ...
	Uplink   string    `json:"uplink"`
	Priority Priority  `json:"priority"`
	Title    string    `json:"title"` // a few words
	Text     string    `json:"text"`  // one or a few sentences
}

// State is what uplinks do at the moment.
type State struct {
	Headline string
	Uplinks  []UplinkState
}

// UplinkState is one of them.
type UplinkState struct {
	Name       string
	Online     bool    // works in a family at least
	IPv4, IPv6 string  // verdicts, as in the status
	Share      float64 // of new flows, the larger of both families, 0..1
}

// Equal reports whether both say the same.
func (s State) Equal(o State) bool {
	return s.Headline == o.Headline && slices.Equal(s.Uplinks, o.Uplinks)
}

// Service is one destination of messages. Its methods are called by one goroutine.
type Service interface {
	// Send returns when the service has taken the message, or why it has not. A [Refusal] says that another try is no use, or that
	// somebody has to do something first.
	Send(ctx context.Context, m Message) error
	// Close ends what Send and Publish have opened.
	Close()
}

// Publisher is a Service that shows the state of uplinks besides.
type Publisher interface {
	Service
	Publish(ctx context.Context, s State) error
}

// Refusal is the answer of a service that does not want a message.
type Refusal struct {
	Reason string
	// Message is true where this message is at fault, and false where the account, the address or the secret is.
	Message bool
}

func (r *Refusal) Error() string { return r.Reason }

// kind is a kind of service, by the scheme of its URL.
type kind struct {
	scheme string
	// example is a whole URL, for messages and pages; secret says what the secret is, "" where there is none.
	example, secret string
	needsSecret     bool
	// parse checks a URL, whose query has options of this kind alone, and makes the service. It opens nothing.
	parse   func(u *url.URL, secret string) (Service, error)
	options []string // of the query
}

var kinds = []kind{ntfyKind, gotifyKind, telegramKind, mailKind, mailTLSKind, mqttKind, mqttTLSKind, webKind, webTLSKind}

// Schemes lists what the URL of a service may begin with.
func Schemes() []string {
	var all []string
	for _, k := range kinds {
		all = append(all, k.scheme)
	}
	return all
}

// NeedsSecret says what a service of this URL wants in its secret file, "" for nothing, and whether it cannot do without.
func NeedsSecret(text string) (what string, needed bool) {
	scheme, _, _ := strings.Cut(text, ":")
	if i := slices.IndexFunc(kinds, func(k kind) bool { return k.scheme == scheme }); i >= 0 {
		return kinds[i].secret, kinds[i].needsSecret
	}
	return "", false
}

// Parse returns the service of a URL. Its errors are for people, and do not repeat the URL, which may be a secret by itself. It opens nothing.
func Parse(text, secret string) (Service, error) {
	u, err := url.Parse(text)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("this is not a URL: %w", err)
	}
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.scheme == u.Scheme })
	if i < 0 {
		return nil, fmt.Errorf("there is no service %q: there are %s", u.Scheme, strings.Join(Schemes(), ", "))
	}
	k := &kinds[i]
	switch {
	case u.Opaque != "" || u.Hostname() == "":
		return nil, fmt.Errorf("no server is named: write it as in %s", k.example)
	case u.Fragment != "":
		return nil, errors.New("what follows # is never sent: leave it out, or write %23 for a # that is meant")
	case k.options != nil:
		for name := range u.Query() {
			if !slices.Contains(k.options, name) {
				return nil, fmt.Errorf("%s has no option %q: there are %s", u.Scheme, name, strings.Join(k.options, ", "))
			}
		}
	}
	if _, has := u.User.Password(); has && k.scheme != "http" && k.scheme != "https" {
		return nil, errors.New("a password does not belong here: put it into a file, and name that with secret_file")
	}
	return k.parse(u, secret)
}

// baseURL returns where a service is asked over HTTP: within TLS, unless tls=off says that it is in one's own network.
func baseURL(u *url.URL) (*url.URL, error) {
	scheme := "https"
	switch u.Query().Get("tls") {
	case "", "on":
	case "off":
		scheme = "http"
	default:
		return nil, errors.New("tls is on or off")
	}
	return &url.URL{Scheme: scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}, nil
}
