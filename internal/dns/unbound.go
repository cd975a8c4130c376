package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
)

// unbound is told of servers by unbound-control(8): they are the forwarders of the root, which is everything that has no zone of its own.
// What it is told is lost when it is restarted or reloaded, so it is looked at again and again.
type unbound struct {
	former *formers
	save   func()
}

func (u *unbound) tell(ctx context.Context, servers, _ []server) error {
	var want []string
	for i := range servers {
		if a := servers[i].Addr.String(); !slices.Contains(want, a) { // its queries are routed by their destination alone
			want = append(want, a)
		}
	}
	have, err := u.forwarders(ctx)
	if err != nil {
		return err
	}
	if slices.Equal(have, want) {
		return nil
	}
	u.former.mu.Lock()
	first := u.former.kept.Unbound == nil
	if first {
		was := slices.Clone(have)
		if was == nil {
			was = []string{}
		}
		u.former.kept.Unbound = &was
	}
	u.former.mu.Unlock()
	if first {
		u.save()
	}
	if err := u.forward(ctx, want); err != nil {
		return err
	}
	var failed []error
	for _, a := range want {
		if !slices.Contains(have, a) { // what it thinks of a server from when its uplink was dead
			_, err := control(ctx, "flush_infra", a)
			failed = append(failed, err)
		}
	}
	if len(have) > 0 && !slices.ContainsFunc(have, func(a string) bool { return slices.Contains(want, a) }) {
		// What is being asked goes on with the servers of before. Where all of those are dead, what hosts ask again would only be put to
		// what waits; else it finds one that answers by itself, and hosts need not ask again.
		_, err := control(ctx, "flush_requestlist")
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// giveBack puts the forwarders back that there were.
func (u *unbound) giveBack(ctx context.Context) error {
	u.former.mu.Lock()
	was := u.former.kept.Unbound
	u.former.kept.Unbound = nil
	u.former.mu.Unlock()
	if was == nil {
		return nil
	}
	u.save()
	return u.forward(ctx, *was)
}

// forward sets the forwarders of the root; none has it ask the root servers itself.
func (u *unbound) forward(ctx context.Context, servers []string) error {
	var err error
	if len(servers) == 0 {
		_, err = control(ctx, "forward_remove", ".")
	} else {
		_, err = control(ctx, append([]string{"forward_add", "."}, servers...)...)
	}
	return err
}

// forwarders returns the forwarders of the root as they are.
func (u *unbound) forwarders(ctx context.Context) ([]string, error) {
	out, err := control(ctx, "list_forwards")
	if err != nil {
		return nil, err
	}
	return rootForwarders(out), nil
}

// rootForwarders reads ". IN forward 192.0.2.1 2001:db8::1"; the options that may stand before the addresses begin with a +.
func rootForwarders(listed string) []string {
	for line := range strings.Lines(listed) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "." {
			continue
		}
		var list []string
		for _, w := range words[3:] {
			host, _, _ := strings.Cut(w, "@")
			if _, err := netip.ParseAddr(host); err == nil {
				list = append(list, w)
			}
		}
		return list
	}
	return nil
}

// control runs unbound-control, which finds the socket and keys of the server in its configuration.
func control(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "unbound-control", args...).CombinedOutput()
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("unbound-control %s: %w: %s", args[0], err, said)
	}
	return string(out), nil
}
