package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/notify/service"
)

// maxNotify is how many [[notify]] sections there may be.
const maxNotify = 16

// Notify is one [[notify]] section: a destination of messages to people.
type Notify struct {
	Name       string        // name: unique among them; as an uplink's
	URL        string        // url: as service.Parse reads it
	SecretFile string        // secret_file: absolute path of a file that its owner alone may read; "" is none
	Events     []string      // events: some of EventKinds, each once
	After      time.Duration // after: 0 to 24 h; an outage that is over sooner is told once, afterwards
}

// Equal reports whether both say the same.
func (n *Notify) Equal(o *Notify) bool {
	return n.Name == o.Name && n.URL == o.URL && n.SecretFile == o.SecretFile && n.After == o.After && slices.Equal(n.Events, o.Events)
}

// EventKinds are the kinds of event that messages may be about, those of status.EventKind but "gap". The first four are the default.
var EventKinds = []string{"switch", "cause", "quota", "kill-switch", "verdict", "drain", "reload", "lease", "repair", "peer", "dns", "set", "recover", "pair", "start", "stop"}

const (
	titleNotify    = "[[notify]]"
	defaultKinds   = 4
	defaultAfter   = 30 * time.Second
	maxNotifyAfter = 24 * time.Hour
)

func notifySection(n *Notify) section {
	return section{titleNotify, []field{
		text("name", &n.Name, "phone", checkLabel),
		text("url", &n.URL, "ntfy://ntfy.example.net/home", nil),
		text("secret_file", &n.SecretFile, "/etc/uplinkd/phone.secret", checkOptionalPath),
		texts("events", &n.Events, "switch", len(EventKinds), checkEventKind),
		duration("after", &n.After, 0, maxNotifyAfter),
	}}
}

func checkEventKind(name, s string) string {
	if !slices.Contains(EventKinds, s) {
		return fmt.Sprintf("%s: there is no kind of event %s: there are %s", name, quote(s), strings.Join(EventKinds, ", "))
	}
	return ""
}

// notify reads one destination.
func (r *reader) notify(t *table, seen map[string]int) Notify {
	n := Notify{Events: EventKinds[:defaultKinds:defaultKinds], After: defaultAfter}
	r.section(t, notifySection(&n))
	r.required(t, "notify", "name", "name", "phone", n.Name, seen)
	switch url, file := t.values["url"], t.values["secret_file"]; {
	case url == nil && t.usable("url"):
		r.errorf(t.off, "this notify has no url: write url = \"ntfy://ntfy.example.net/home\", or with %s", strings.Join(service.Schemes()[1:], ", "))
	case url != nil && !url.bad:
		what, needed := service.NeedsSecret(n.URL)
		if _, err := service.Parse(n.URL, ""); err != nil {
			r.fail(url, url.off, "url: %v", err)
		} else if needed && file == nil && t.usable("secret_file") {
			r.errorf(url.off, "this url wants a secret, %s: put it into a file of root with mode 600, and name that with secret_file", what)
		}
	}
	if v := t.values["events"]; v != nil && !v.bad && len(n.Events) == 0 {
		r.errorf(v.off, "events is empty, so there would never be a message: name some of %s, or leave it out", strings.Join(EventKinds, ", "))
	}
	return n
}
