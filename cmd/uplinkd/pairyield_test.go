package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/uplinkd/uplinkd/internal/lab"
	"github.com/uplinkd/uplinkd/internal/status"
)

// equal has both routers of one priority, as in the examples: nobody takes the role back. A busy machine that keeps keepalived waiting is no failure.
func equal(first, second *pairMember) {
	for _, m := range []*pairMember{first, second} {
		m.priority = 100
		m.files()
		m.on("sed -i 's/advert_int 0.2/advert_int 0.5/' " + m.dir + "/keepalived.conf")
	}
}

// yield has a primary hand over to the other router.
func (m *pairMember) yield(to *pairMember) string {
	m.Helper()
	said := m.command("pair", "yield", "--socket", filepath.Join(m.dir, "s"))
	to.awaitRole("primary")
	m.awaitRole("backup")
	return said
}

// refuses has a router not hand over, and returns why.
func (m *pairMember) refuses() string {
	m.Helper()
	out, err := m.program("pair", "yield", "--socket", filepath.Join(m.dir, "s")).CombinedOutput()
	if err == nil {
		m.Errorf("it handed over: %s", out)
	}
	return string(out)
}

// lostSegments counts the TCP segments that a host has sent again because they, or their acknowledgements, were lost: those that had come before all the same,
// late on a busy machine, are told by the other end (RFC 2883).
func (r *router) lostSegments(host string) int {
	r.Helper()
	count := func(file, group, name string) int {
		lines := strings.Split(r.sh(host, "grep ^"+group+": /proc/net/"+file), "\n")
		names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
		n, err := strconv.Atoi(values[slices.Index(names, name)])
		if err != nil {
			r.Fatal(err)
		}
		return n
	}
	return count("snmp", "Tcp", "RetransSegs") - count("netstat", "TcpExt", "TCPDSACKRecv")
}

// TestAPairOfRoutersHandsOver has the role go there and back on command, while a host sends 500 packets a second to the Internet, the Internet 200 to it, and
// a TCP connection never rests. None of these packets is lost, and hardly a segment.
func TestAPairOfRoutersHandsOver(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, pairUplinks)
	equal(first, second)
	first.serveLease("203.0.113.2")
	first.play()
	first.awaitRole("alone")
	second.play()
	first.awaitRole("primary")
	second.awaitRole("backup")
	if said := second.refuses(); !strings.Contains(said, "this router is the backup: yield at the other one, "+ownOfFirst) {
		t.Errorf("the backup says: %s", said)
	}
	tcp, err := first.Host("lan").Dial(t.Context(), "tcp", "", "192.0.2.1:7")
	if err != nil {
		t.Fatal(err)
	}
	talked := make(chan error, 1)
	go func() {
		for {
			if err := echoes(tcp); err != nil {
				talked <- err
				return
			}
		}
	}()
	pushed := first.push(9)
	for _, m := range []*pairMember{first, second} {
		if out, _ := m.program("doctor", "--quiet", "-c", m.config, "--socket", filepath.Join(m.dir, "s")).CombinedOutput(); strings.Contains(string(out), " [pair]\n") {
			t.Errorf("doctor says:\n%s", out)
		}
	}
	primary, backup := first, second
	for n := range envNumber(t, failoversEnv, 6) {
		stream, stop := first.streamOf(500, "lan", "192.0.2.1:7")
		backup.awaitTracked(int(stream.Stats().Moves[0].Source.Port()))
		gone := first.lostSegments("lan") + first.lostSegments("inet")
		said := primary.yield(backup)
		first.awaitMore(stream)
		st := stop()
		if st.Lost > 0 || len(st.Moves) != 1 {
			t.Errorf("handover %d: %v, by %d sources", n+1, st, len(st.Moves))
		}
		if gone = first.lostSegments("lan") + first.lostSegments("inet") - gone; gone > 5 { // one or two of some thousands, in few handovers
			t.Errorf("handover %d: %d TCP segments were lost", n+1, gone)
		}
		first.await("what the Internet sends to have come", func() error {
			if sent, received := pushed.sent.Load(), pushed.received.Load(); sent != received {
				return fmt.Errorf("%d were sent, and %d have come", sent, received)
			}
			return nil
		})
		t.Logf("%s%v", said, st)
		primary, backup = backup, primary
	}
	select {
	case err := <-talked:
		t.Errorf("the TCP connection: %v", err)
	default:
	}
	_ = tcp.Close()
	if err := <-talked; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	var yielded int
	for _, e := range append(first.decisions(), second.decisions()...) {
		if e.Kind == status.EventPair && e.Code == "yielded" {
			yielded++
		}
	}
	if want := envNumber(t, failoversEnv, 6); yielded != want {
		t.Errorf("%d events tell of %d handovers", yielded, want)
	}
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
	backup.await("the backup to have nothing", backup.nothing)
	for _, m := range []*pairMember{first, second} {
		m.await("plan to want nothing", m.planless)
	}
}

// planless is nil when a plan changes nothing.
func (m *pairMember) planless() error {
	for line := range strings.Lines(m.command("plan", "-c", m.config)) {
		if !strings.HasPrefix(line, "#") {
			return errors.New(line)
		}
	}
	return nil
}

// TestAPairOfRoutersDoesNotHandOverInPart has what a handover needs be missing, one after the other: the primary stays primary, and says why.
func TestAPairOfRoutersDoesNotHandOverInPart(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, pairUplinks)
	equal(first, second)
	for _, m := range []*pairMember{first, second} {
		m.serveOwn("conntrackd", "-C", m.dir+"/conntrackd.conf")
		m.launch()
		m.await("the daemon to converge", m.converged)
	}
	// keepalived of before, which tracks nothing.
	tracked, err := os.ReadFile(first.dir + "/keepalived.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first.dir+"/keepalived.conf", []byte(strings.NewReplacer("\ttrack_file {\n\t\tuplinkd\n\t}\n", "").Replace(string(tracked))), 0o644); err != nil {
		t.Fatal(err)
	}
	first.serveKeepalived()
	first.awaitRole("primary")
	second.serveKeepalived()
	second.awaitRole("backup")
	stays := func(want string) {
		t.Helper()
		if said := first.refuses(); !strings.Contains(said, want) {
			t.Errorf("it says: %s\nwant: %s", said, want)
		}
		if s := first.status(); s.Pair.Yielding || s.Pair.Role == "backup" {
			t.Errorf("%+v", s.Pair)
		}
	}
	if out, _ := first.program("doctor", "--quiet", "-c", first.config, "--socket", filepath.Join(first.dir, "s")).CombinedOutput(); !strings.Contains(string(out), "keepalived does not track "+first.dir+"/state/yield") {
		t.Errorf("doctor does not see what is missing:\n%s", out)
	}
	stays(first.dir + "/state/yield was written. It has to track this file on both routers")
	if err := os.WriteFile(first.dir+"/keepalived.conf", tracked, 0o644); err != nil {
		t.Fatal(err)
	}
	first.on("kill -HUP $(cat " + first.dir + "/keepalived.pid)")
	flows := second.dir + "/pair-flows"
	script, err := os.ReadFile(flows)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(flows, []byte("#!/bin/sh\necho conntrackd is not here\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	stays("is not ready: [pair] prepare: exit status 1: conntrackd is not here")
	if err := os.WriteFile(flows, script, 0o755); err != nil {
		t.Fatal(err)
	}
	second.kill()
	first.awaitRole("alone")
	stays("the other router, " + ownOfSecond + ", is not heard")
	second.launch()
	first.awaitRole("primary")
	second.awaitRole("backup")
	first.yield(second)
}

// TestAPairOfRoutersHandsOverThoughOneIsPreferred has the router of the higher priority yield: it stays the backup until the other one yields in turn. A
// host with IPv6 by a delegated prefix, which moves by uplinkd, loses nothing either.
func TestAPairOfRoutersHandsOverThoughOneIsPreferred(t *testing.T) {
	t.Parallel()
	first, second := newPair(t, delegatedUplink)
	equal(first, second)
	first.on("sed -i 's/priority 100/priority 150/' " + first.dir + "/keepalived.conf")
	first.delegate()
	first.play()
	second.play()
	first.awaitRole("primary")
	second.awaitRole("backup")
	first.await("the host to have a prefix", func() error {
		if out := first.sh("lan", "ip -6 address show dev br0 scope global; ip -6 route show default"); !strings.Contains(out, "via "+virtual6) || strings.Count(out, "inet6") != 2 {
			return errors.New(out)
		}
		return nil
	})
	first.await("the first plan of a primary to be in force", first.planless)
	v4, stop4 := first.streamOf(200, "lan", "192.0.2.1:7")
	v6, stop6 := first.streamOf(200, "lan", "[2001:db8:ffff::1]:7")
	first.yield(second)
	first.awaitMore(v4)
	first.awaitMore(v6)
	for range 3 { // its priority is the higher one, but it ranks behind
		first.awaitMore(v4)
		first.awaitRole("backup")
	}
	second.yield(first)
	first.awaitMore(v4)
	first.awaitMore(v6)
	for name, st := range map[string]lab.StreamStats{"IPv4": stop4(), "IPv6": stop6()} {
		t.Logf("%s: %v", name, st)
		if len(st.Moves) != 1 || st.Lost > 0 {
			t.Errorf("%s: %v, by %d sources", name, st, len(st.Moves))
		}
	}
	if n := first.foreign(); n != 0 {
		t.Errorf("%d packets left with a foreign source: %s", n, first.foreignSources())
	}
}
