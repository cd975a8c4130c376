package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/uplinkd/uplinkd/internal/config"
	"github.com/uplinkd/uplinkd/internal/status"
	"github.com/uplinkd/uplinkd/rules"
	"github.com/uplinkd/uplinkd/rules/nft"
)

// errBeforeSets means that a dnsmasq reads the file of sets only at its start (its manual, SIGHUP), and that was before the file changed.
var errBeforeSets = errors.New("it has changed since dnsmasq started, which reads it only then")

// readsTooEarly is errBeforeSets of a process.
type readsTooEarly struct {
	file    string
	changed time.Time
	pid     int
}

func (r *readsTooEarly) Error() string {
	return fmt.Sprintf("%s: %v (process %d)", r.file, errBeforeSets, r.pid)
}
func (r *readsTooEarly) Unwrap() error { return errBeforeSets }

// tellSets writes the lines by which dnsmasq puts addresses into sets, and finds out who has read them. Who has not
// is restarted if that is wanted: nothing that hangs may hold up a start or a reload.
func (e *Engine) tellSets(restart bool) {
	e.mu.Lock()
	c := e.config
	e.mu.Unlock()
	var err error
	if c.DNS.Dnsmasq != "" {
		err = tellSets(filepath.Join(c.DNS.Dnsmasq, "sets.conf"), dnsmasqSets(c))
	}
	if restart {
		err = e.restartReader(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.config != c {
		return
	}
	if err != nil && (e.setsErr == nil || e.setsErr.Error() != err.Error()) {
		e.o.Log.Warn("dnsmasq does not fill sets", "err", err)
	}
	e.setsErr = err
}

// restartReader has systemd restart a dnsmasq that has not read what the file holds now, once for each process and change of the file:
// one that cannot be restarted so is told of, and its owner's to restart.
func (e *Engine) restartReader(err error) error {
	var early *readsTooEarly
	if !errors.As(err, &early) {
		return err
	}
	e.mu.Lock()
	tried := e.restarted != nil && *e.restarted == *early
	e.restarted = early
	e.mu.Unlock()
	if tried {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
	defer cancel()
	unit, failed := restartUnit(ctx, early.pid)
	if failed != nil {
		e.o.Log.Info("dnsmasq is not restarted by us", "process", early.pid, "err", failed)
		return err
	}
	e.o.Log.Info("dnsmasq is restarted to read its sets", "unit", unit, "file", early.file)
	e.o.OnEvent(status.Event{Kind: status.EventDNS, Code: "restart", Message: unit + " is restarted, because " + early.file + " has changed"})
	return nil // it is looked at again
}

func tellSets(file string, content []byte) error {
	have, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(have, content) {
		if err := writeFor(file, content); err != nil {
			return err
		}
	}
	if !bytes.Contains(content, []byte("\nnftset=")) {
		return nil // whoever has more does no harm
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	reader := &dnsmasq{file: file, asConfig: true}
	pids := reader.readers()
	if len(pids) == 0 {
		return fmt.Errorf("%s: %w", file, errNobodyReads)
	}
	for _, pid := range pids {
		if began, known := startOf(pid); known && began.Before(info.ModTime()) {
			return &readsTooEarly{file, info.ModTime(), pid}
		}
	}
	return nil
}

// dnsmasqSets writes the lines for the domains of all sets that somebody names. For a domain dnsmasq takes the names below it too.
func dnsmasqSets(c *config.Config) []byte {
	var b bytes.Buffer
	b.WriteString(mine + "sets that dnsmasq fills, for conf-file of dnsmasq.\n")
	used := make(map[string]bool)
	use := func(list ...config.Addresses) {
		for _, a := range list {
			for _, name := range a.Filled {
				used[name] = true
			}
		}
	}
	for i := range c.Policies {
		use(c.Policies[i].Match.From, c.Policies[i].Match.To)
	}
	for i := range c.TProxies {
		use(c.TProxies[i].Match.From, c.TProxies[i].Match.To)
	}
	for i := range c.Sets {
		s := &c.Sets[i]
		if !s.Dnsmasq || !used[s.Name] {
			continue
		}
		for _, domain := range s.Domains {
			fmt.Fprintf(&b, "nftset=/%s/", strings.TrimPrefix(domain, "*."))
			for i, f := range rules.Families {
				if i > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(&b, "%d#inet#%s#%s", f, nft.PolicyTableName, rules.SetName(s.Name, f))
			}
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// startOf returns when a process began.
func startOf(pid int) (time.Time, bool) {
	const ticks = 100 // USER_HZ of every platform (proc(5), starttime)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, found := strings.Cut(string(stat), ") ") // a name may hold anything
	words := strings.Fields(rest)
	uptime, errUp := os.ReadFile("/proc/uptime")
	up := strings.Fields(string(uptime))
	if err != nil || errUp != nil || !found || len(words) < 20 || len(up) == 0 {
		return time.Time{}, false
	}
	after, errA := strconv.ParseFloat(words[19], 64)
	now, errN := strconv.ParseFloat(up[0], 64)
	if errA != nil || errN != nil {
		return time.Time{}, false
	}
	return time.Now().Add(-time.Duration((now - after/ticks) * float64(time.Second))), true
}
