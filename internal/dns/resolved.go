package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/godbus/dbus/v5"
)

// resolved is told of servers over D-Bus (org.freedesktop.resolve1(5)). It asks the servers of a link by that link, and all links that are
// for everything at once: so those are the uplinks that names are to be asked by first, and a spare, which may cost money, is not asked.
type resolved struct {
	conn *dbus.Conn        // nil while there is none
	told map[int]linkNames // by interface index: what a link has of us
}

// linkNames is what a link has.
type linkNames struct {
	servers []resolvedServer
	primary bool // everything is asked by it (DefaultRoute)
}

// resolvedServer is (iay): an address family and the bytes of an address.
type resolvedServer struct {
	Family  int32
	Address []byte
}

const (
	resolve1     = "org.freedesktop.resolve1"
	resolve1Path = "/org/freedesktop/resolve1"
	network1     = "org.freedesktop.network1"
	network1Path = "/org/freedesktop/network1"
	// linkBusy is what systemd-resolved says of a link that systemd-networkd has configured: that is to be told in its place.
	linkBusy = "org.freedesktop.resolve1.LinkBusy"
	noLink   = "org.freedesktop.resolve1.NoSuchLink"
)

func (r *resolved) tell(ctx context.Context, servers, others []server) error {
	want := linksOf(servers, others)
	if err := r.connect(); err != nil {
		return err
	}
	for index := range r.told {
		if _, wanted := want[index]; !wanted {
			if err := r.revert(ctx, index); err != nil {
				return r.failed(err)
			}
			delete(r.told, index)
		}
	}
	for index, names := range want {
		have, err := r.read(ctx, index)
		if isError(err, noLink) {
			continue // it comes back by a plan with another index
		}
		if err != nil {
			return r.failed(err)
		}
		if !reflect.DeepEqual(have.servers, names.servers) {
			if err := r.call(ctx, "SetLinkDNS", int32(index), names.servers); err != nil {
				return r.failed(err)
			}
		}
		if have.primary != names.primary || len(r.told[index].servers) == 0 { // what it derives by itself holds no longer than it does
			if err := r.call(ctx, "SetLinkDefaultRoute", int32(index), names.primary); err != nil {
				return r.failed(err)
			}
		}
		r.told[index] = names
	}
	return nil
}

// linksOf says what each link shall have: those that are used their servers, the foremost of them everything; those that are not, what
// they have, and nothing is asked by them.
func linksOf(servers, others []server) map[int]linkNames {
	links := make(map[int]linkNames)
	add := func(s *server, primary bool) {
		if s.index == 0 || s.Aside {
			return
		}
		l := links[s.index]
		l.servers = append(l.servers, resolvedServer{family(s.Addr), s.Addr.WithZone("").AsSlice()})
		l.primary = l.primary || primary
		links[s.index] = l
	}
	for i := range servers {
		add(&servers[i], servers[i].Tier == servers[0].Tier)
	}
	for i := range others {
		if _, used := links[others[i].index]; !used || !slices.ContainsFunc(servers, func(s server) bool { return s.index == others[i].index }) {
			add(&others[i], false)
		}
	}
	return links
}

// family is the address family of linux/socket.h.
func family(a netip.Addr) int32 {
	if a.Is4() {
		return 2
	}
	return 10
}

// giveBack takes from the links what we have given them.
func (r *resolved) giveBack(ctx context.Context) error {
	defer r.close()
	var failed []error
	for index := range r.told {
		if err := r.connect(); err != nil {
			return err
		}
		failed = append(failed, r.revert(ctx, index))
	}
	clear(r.told)
	return errors.Join(failed...)
}

func (r *resolved) connect() (err error) {
	if r.conn != nil && r.conn.Connected() {
		return nil
	}
	r.close()
	if r.conn, err = dbus.ConnectSystemBus(); err != nil {
		r.conn = nil
		return fmt.Errorf("connecting to D-Bus: %w", err)
	}
	return nil
}

func (r *resolved) close() {
	if r.conn != nil {
		_ = r.conn.Close() // it has nothing left to say
		r.conn = nil
	}
}

// failed has the bus connected anew the next time.
func (r *resolved) failed(err error) error {
	r.close()
	return err
}

// read returns what systemd-resolved has for a link.
func (r *resolved) read(ctx context.Context, index int) (linkNames, error) {
	var path dbus.ObjectPath
	var have linkNames
	err := r.conn.Object(resolve1, resolve1Path).CallWithContext(ctx, resolve1+".Manager.GetLink", 0, int32(index)).Store(&path)
	if err != nil {
		return have, fmt.Errorf("looking up link %d: %w", index, err)
	}
	for name, into := range map[string]any{"DNS": &have.servers, "DefaultRoute": &have.primary} {
		if err := property(ctx, r.conn.Object(resolve1, path), resolve1+".Link", name, into); err != nil {
			return have, fmt.Errorf("link %d: %w", index, err)
		}
	}
	return have, nil
}

// revert gives a link back to what it was configured with.
func (r *resolved) revert(ctx context.Context, index int) error {
	err := r.conn.Object(resolve1, resolve1Path).CallWithContext(ctx, resolve1+".Manager.RevertLink", 0, int32(index)).Err
	if isError(err, linkBusy) {
		err = r.conn.Object(network1, network1Path).CallWithContext(ctx, network1+".Manager.RevertLinkDNS", 0, int32(index)).Err
	}
	if isError(err, noLink) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reverting link %d: %w", index, err)
	}
	return nil
}

// call calls a method that systemd-resolved has, and systemd-networkd for its own links.
func (r *resolved) call(ctx context.Context, method string, args ...any) error {
	err := r.conn.Object(resolve1, resolve1Path).CallWithContext(ctx, resolve1+".Manager."+method, 0, args...).Err
	if isError(err, linkBusy) {
		err = r.conn.Object(network1, network1Path).CallWithContext(ctx, network1+".Manager."+method, 0, args...).Err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}
