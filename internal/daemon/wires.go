package daemon

import (
	"net/netip"
	"sync"

	"github.com/uplinkd/uplinkd/internal/kernel"
	"github.com/uplinkd/uplinkd/internal/tunnel"
)

// wires speaks to WireGuard devices, for any goroutine. The kernel's WireGuard is there only when there is a device, so
// the connection is made anew after each failure.
type wires struct {
	mu     sync.Mutex
	client *kernel.WireGuard // nil until it is needed
}

func (w *wires) do(what func(*kernel.WireGuard) error) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client == nil {
		if w.client, err = kernel.OpenWireGuard(); err != nil {
			return err
		}
	}
	if err = what(w.client); err != nil {
		w.client.Close()
		w.client = nil
	}
	return err
}

// state reads a device. The error is os.ErrNotExist when there is no WireGuard device of the name.
func (w *wires) state(device string) (state *tunnel.State, err error) {
	err = w.do(func(c *kernel.WireGuard) (err error) {
		state, err = c.State(device)
		return err
	})
	return state, err
}

func (w *wires) set(device string, c tunnel.Config) error {
	return w.do(func(client *kernel.WireGuard) error { return client.Set(device, c) })
}

func (w *wires) setEndpoint(device string, peer tunnel.Key, to netip.AddrPort) error {
	return w.do(func(c *kernel.WireGuard) error { return c.SetEndpoint(device, peer, to) })
}

func (w *wires) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client != nil {
		w.client.Close()
		w.client = nil
	}
}
